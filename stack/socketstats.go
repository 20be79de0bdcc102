package stack

import (
	"strconv"
	"strings"
)

// SocketStats are what the kernel counts of the sockets of a stack, in all processes: TCP and
// UDP over IPv4 and IPv6 together.
type SocketStats struct {
	TCP TCPStats
	UDP UDPStats
}

// TCPStats has sockets that there are now, by state, and counters of RFC 4022 and, the last
// three, of Linux (snmp_counter.rst). Segments have what a packet of the kernel has, which may
// stand for several on the network.
type TCPStats struct {
	Listen      uint64
	Established uint64 // and CLOSE-WAIT: the peer has ended its direction
	TimeWait    uint64 // of the kernel, no program has them any more
	Other       uint64 // being connected or closed

	ActiveOpens  uint64 // connections begun by connect
	PassiveOpens uint64 // connections begun by peers
	AttemptFails uint64 // connections that did not come about
	EstabResets  uint64 // connections that ended by a reset
	InSegs       uint64 // those in error included
	OutSegs      uint64 // without what was only retransmitted
	RetransSegs  uint64 // sent again
	InErrs       uint64 // such as a wrong checksum
	OutRsts      uint64

	Timeouts        uint64 // of the retransmission timer: nothing was acknowledged in time
	ListenOverflows uint64 // connections that found the queue of accept full
	ListenDrops     uint64 // these, and those that were dropped for other reasons
}

// UDPStats has how many sockets have a port now, and counters of datagrams: of RFC 4113 and,
// the last two, of Linux.
type UDPStats struct {
	Sockets uint64

	InDatagrams, OutDatagrams uint64
	NoPorts                   uint64 // for a port without a socket
	InErrors                  uint64 // not delivered for other reasons, a full buffer included
	RcvbufErrors              uint64 // the buffer of the socket was full
	SndbufErrors              uint64 // there was no room to send
}

// socketFiles are where the kernel has the counters and the numbers of sockets. The second
// and the fourth are missing where there is no IPv6.
var socketFiles = []string{"/proc/net/snmp", "/proc/net/snmp6", "/proc/net/sockstat", "/proc/net/sockstat6", "/proc/net/netstat"}

// decode reads the texts of socketFiles. listening is how many sockets listen, of which there
// is no number in the files.
func (s *SocketStats) decode(texts []string, listening uint64) {
	snmp, snmp6, sockstat, sockstat6, netstat := texts[0], texts[1], texts[2], texts[3], texts[4]
	tcp, ext := decodeTable(snmp, "Tcp:"), decodeTable(netstat, "TcpExt:")
	now, now6 := decodeLine(sockstat, "TCP:"), decodeLine(sockstat6, "TCP6:")
	s.TCP = TCPStats{
		Listen:          listening,
		Established:     tcp["CurrEstab"],
		TimeWait:        now["tw"],
		ActiveOpens:     tcp["ActiveOpens"],
		PassiveOpens:    tcp["PassiveOpens"],
		AttemptFails:    tcp["AttemptFails"],
		EstabResets:     tcp["EstabResets"],
		InSegs:          tcp["InSegs"],
		OutSegs:         tcp["OutSegs"],
		RetransSegs:     tcp["RetransSegs"],
		InErrs:          tcp["InErrs"],
		OutRsts:         tcp["OutRsts"],
		Timeouts:        ext["TCPTimeouts"],
		ListenOverflows: ext["ListenOverflows"],
		ListenDrops:     ext["ListenDrops"],
	}
	// The numbers are not of one moment.
	if all, known := now["inuse"]+now6["inuse"], listening+s.TCP.Established; all > known {
		s.TCP.Other = all - known
	}
	udp, udp6 := decodeTable(snmp, "Udp:"), decodeLines(snmp6, "Udp6")
	s.UDP = UDPStats{
		Sockets:      decodeLine(sockstat, "UDP:")["inuse"] + decodeLine(sockstat6, "UDP6:")["inuse"],
		InDatagrams:  udp["InDatagrams"] + udp6["InDatagrams"],
		OutDatagrams: udp["OutDatagrams"] + udp6["OutDatagrams"],
		NoPorts:      udp["NoPorts"] + udp6["NoPorts"],
		InErrors:     udp["InErrors"] + udp6["InErrors"],
		RcvbufErrors: udp["RcvbufErrors"] + udp6["RcvbufErrors"],
		SndbufErrors: udp["SndbufErrors"] + udp6["SndbufErrors"],
	}
}

// decodeTable reads a group of /proc/net/snmp or netstat: a line of names and one of numbers,
// both of which begin with the name of the group.
func decodeTable(text, group string) map[string]uint64 {
	var names []string
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, group)
		switch {
		case !ok:
		case names == nil:
			names = strings.Fields(rest)
		default:
			all := make(map[string]uint64, len(names))
			for i, number := range strings.Fields(rest) {
				if i < len(names) {
					all[names[i]], _ = strconv.ParseUint(number, 10, 64) // 0 for -1, which means none
				}
			}
			return all
		}
	}
	return nil
}

// decodeLine reads a line of /proc/net/sockstat: its beginning, names and numbers in turn.
func decodeLine(text, beginning string) map[string]uint64 {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, beginning); ok {
			all := make(map[string]uint64)
			f := strings.Fields(rest)
			for i := 0; i+1 < len(f); i += 2 {
				all[f[i]], _ = strconv.ParseUint(f[i+1], 10, 64)
			}
			return all
		}
	}
	return nil
}

// decodeLines reads the lines of /proc/net/snmp6 whose names have a beginning: a name and a
// number in each.
func decodeLines(text, beginning string) map[string]uint64 {
	all := make(map[string]uint64)
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, beginning)
		if f := strings.Fields(rest); ok && len(f) == 2 {
			all[f[0]], _ = strconv.ParseUint(f[1], 10, 64)
		}
	}
	return all
}
