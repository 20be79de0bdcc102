package vdeplug

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/sockio"
)

// A selfFilter tells the endpoint's own multicast packets, which come back to
// it, from those of others. A packet is its own if the port is, and the
// address is one of this host: two hosts may well have chosen the same port.
//
// Whether an address is local is asked from the kernel by netlink, through
// a socket in the namespace of the endpoint, and only for packets with the own
// port; the answers are kept for a while, as addresses come and go.
type selfFilter struct {
	port    uint16
	bound   netip.Addr // the only address of the endpoint, if valid
	netlink int        // -1 if bound is valid

	now   func() time.Duration
	known map[sockio.Sockaddr]selfAnswer
}

type selfAnswer struct {
	local bool
	asked time.Duration
}

const (
	selfAnswerLife = 10 * time.Second
	// maxSelfAnswers bounds what packets with invented sources cost.
	maxSelfAnswers = 64
)

func newSelfFilter(port uint16, bound netip.Addr, now func() time.Duration) (*selfFilter, error) {
	f := &selfFilter{port: port, bound: bound, netlink: -1, now: now, known: make(map[sockio.Sockaddr]selfAnswer)}
	if bound.IsValid() {
		return f, nil
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("asking for the addresses of this host: %w", os.NewSyscallError("socket", err))
	}
	f.netlink = fd
	return f, nil
}

func (f *selfFilter) close() {
	if f.netlink >= 0 {
		unix.Close(f.netlink)
	}
}

// own reports whether a packet from src is the endpoint's own.
func (f *selfFilter) own(src *sockio.Sockaddr) bool {
	if src.Port() != f.port {
		return false
	}
	addr := src.Addr()
	if f.bound.IsValid() {
		return addr == f.bound
	}
	// Over loopback without another address, the kernel sends from 0.0.0.0.
	if addr.IsUnspecified() {
		return true
	}
	now := f.now()
	answer, ok := f.known[*src]
	if !ok || now-answer.asked > selfAnswerLife {
		if len(f.known) >= maxSelfAnswers {
			clear(f.known)
		}
		answer = selfAnswer{f.isLocal(addr, src.Raw.Scope_id), now}
		f.known[*src] = answer
	}
	return answer.local
}

// isLocal asks for the route to the address: it is of the type local if the
// address is one of the host. Without an answer the port has to do: a frame
// lost is better than one that goes round.
func (f *selfFilter) isLocal(addr netip.Addr, scope uint32) bool {
	if addr.Is6() && !addr.IsLinkLocalUnicast() || addr.Is4() {
		scope = 0
	}
	if err := unix.Sendto(f.netlink, routeRequest(addr, scope), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return true
	}
	// The kernel has answered when the call returns.
	var reply [1024]byte
	n, err := unix.Read(f.netlink, reply[:])
	return err != nil || isLocalRoute(reply[:n])
}

// isLocalRoute reads the answer to a routeRequest.
func isLocalRoute(reply []byte) bool {
	const routeType = unix.NLMSG_HDRLEN + 7 // in struct rtmsg
	if len(reply) < unix.NLMSG_HDRLEN {
		return true
	}
	return binary.NativeEndian.Uint16(reply[4:]) == unix.RTM_NEWROUTE && len(reply) > routeType && reply[routeType] == unix.RTN_LOCAL
}

// routeRequest makes an RTM_GETROUTE for one address.
func routeRequest(addr netip.Addr, scope uint32) []byte {
	e := binary.NativeEndian
	family := byte(unix.AF_INET)
	if addr.Is6() {
		family = unix.AF_INET6
	}
	b := make([]byte, unix.NLMSG_HDRLEN+unix.SizeofRtMsg, 64)
	e.PutUint16(b[4:], unix.RTM_GETROUTE)
	e.PutUint16(b[6:], unix.NLM_F_REQUEST)
	b[unix.NLMSG_HDRLEN] = family
	b[unix.NLMSG_HDRLEN+1] = byte(addr.BitLen())
	attr := func(typ uint16, value []byte) {
		b = e.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
		b = e.AppendUint16(b, typ)
		b = append(b, value...)
	}
	attr(unix.RTA_DST, addr.AsSlice())
	if scope != 0 {
		attr(unix.RTA_OIF, e.AppendUint32(nil, scope))
	}
	e.PutUint32(b, uint32(len(b)))
	return b
}
