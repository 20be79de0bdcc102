package vxlan

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/sockio"
)

// A selfFilter recognizes the endpoint's own multicast packets, which come back to it.
// They have the endpoint's port and an address of this host; other hosts may use the same
// port.
//
// For packets with the endpoint's port, it asks the kernel whether the address is local,
// through a netlink socket in the endpoint's namespace. It keeps the answers for a while
// only, as addresses come and go.
type selfFilter struct {
	port    uint16
	bound   netip.Addr // the only address of the endpoint, if valid
	netlink int        // -1 if bound is valid

	now   func() time.Duration
	known map[sockio.Sockaddr]localAnswer
}

type localAnswer struct {
	local bool
	asked time.Duration
}

const (
	answerLifetime = 10 * time.Second
	// maxAnswers bounds the memory for packets with forged sources.
	maxAnswers = 64
)

func newSelfFilter(port uint16, bound netip.Addr, now func() time.Duration) (*selfFilter, error) {
	f := &selfFilter{port: port, bound: bound, netlink: -1, now: now, known: make(map[sockio.Sockaddr]localAnswer)}
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
	// On a host with loopback addresses only, the source is 0.0.0.0.
	if addr.IsUnspecified() {
		return true
	}
	now := f.now()
	answer, ok := f.known[*src]
	if !ok || now-answer.asked > answerLifetime {
		if len(f.known) >= maxAnswers {
			clear(f.known)
		}
		answer = localAnswer{f.isLocal(addr, src.Raw.Scope_id), now}
		f.known[*src] = answer
	}
	return answer.local
}

// isLocal asks the kernel for the route to an address; its type is "local" for addresses of
// this host. Without an answer it reports true: a lost frame is better than a loop.
func (f *selfFilter) isLocal(addr netip.Addr, scope uint32) bool {
	if addr.Is6() && !addr.IsLinkLocalUnicast() || addr.Is4() {
		scope = 0
	}
	if err := unix.Sendto(f.netlink, routeRequest(addr, scope), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return true
	}
	// The answer is there when Sendto returns.
	var reply [1024]byte
	n, err := unix.Read(f.netlink, reply[:])
	return err != nil || isLocalRoute(reply[:n])
}

// isLocalRoute parses the answer to a routeRequest.
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
