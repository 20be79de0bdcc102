package main

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/vdestack/vdestack/internal/packet"
)

// startLog logs the begin of "vdens plug" to syslog, if that is wanted. It returns a function
// that logs more, and one that logs the end.
func (p *plugCommand) startLog() (log func(string), stop func()) {
	log, stop = func(string) {}, func() {}
	if !p.log && !p.iplog {
		return log, stop
	}
	line, err := newSyslog()
	if err != nil {
		logger.Warn("nothing is logged", "error", err)
		return log, stop
	}
	name := strconv.Itoa(os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	client, _, _ := strings.Cut(os.Getenv("SSH_CLIENT"), " ")
	who := fmt.Sprintf("user %s IP %s", name, cmp.Or(client, "unknown"))
	log = func(text string) { line(text + ": " + who) }
	log("START")
	return log, func() { log("STOP") }
}

// An addressLog logs each IP address that sends to its network.
type addressLog struct {
	packet.Layer
	log  func(string)
	seen map[netip.Addr]bool
}

var _ packet.Transport = (*addressLog)(nil)

// maxSeen bounds the addresses that are remembered.
const maxSeen = 4096

// RecvPackets implements [packet.Transport].
func (l *addressLog) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	packets, err := l.Inner.RecvPackets(b)
	for i := range packets {
		a := senderOf(packets[i].Data)
		if !a.IsValid() || a.IsUnspecified() || l.seen[a] || len(l.seen) == maxSeen {
			continue
		}
		if l.seen == nil {
			l.seen = make(map[netip.Addr]bool)
		}
		l.seen[a] = true
		l.log("ADDRESS " + a.String())
		if len(l.seen) == maxSeen {
			l.log("no more ADDRESSES")
		}
	}
	return packets, err
}

// SendPackets implements [packet.Transport].
func (l *addressLog) SendPackets(packets []packet.Packet, wait bool) error {
	return l.Inner.SendPackets(packets, wait)
}

func (l *addressLog) Close() error { return l.Inner.Close() }

// senderOf returns the address of the sender of an IP packet or of ARP.
func senderOf(frame []byte) netip.Addr {
	const (
		ethIPv4, ethARP, ethIPv6  = 0x0800, 0x0806, 0x86dd
		eth8021Q, eth8021AD       = 0x8100, 0x88a8
		header, tag               = 12, 4
		fromIPv4, fromARP, fromV6 = 2 + 12, 2 + 14, 2 + 8
	)
	for at := header; len(frame) >= at+2; at += tag {
		off, size := 0, 4
		switch binary.BigEndian.Uint16(frame[at:]) {
		case eth8021Q, eth8021AD:
			continue
		case ethIPv4:
			off = fromIPv4
		case ethARP:
			off = fromARP
		case ethIPv6:
			off, size = fromV6, 16
		default:
			return netip.Addr{}
		}
		if len(frame) < at+off+size {
			return netip.Addr{}
		}
		a, _ := netip.AddrFromSlice(frame[at+off:][:size])
		return a
	}
	return netip.Addr{}
}
