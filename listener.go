package vdestack

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
)

// A ListenConfig is a [net.ListenConfig] that listens in a stack. All fields of
// net.ListenConfig mean what they mean there, the caller's own Control function
// included: it sees the socket of the stack.
type ListenConfig struct {
	net.ListenConfig
	// Stack is where to listen. Nil is an error: it is mostly an Open whose error
	// nobody looked at. A net.ListenConfig listens on the host.
	Stack *Stack
}

// Listen announces on the local address, see [net.Listen]. Without a host, or
// with ::, "tcp" takes both families.
func (lc *ListenConfig) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	return listen(ctx, lc, network, address, (*net.ListenConfig).Listen)
}

// ListenPacket announces on the local address, see [net.ListenPacket]. Without
// a host, or with ::, "udp" takes both families. Raw sockets, such as "ip4:icmp",
// need no privilege.
//
// WriteTo of what it returns is package net's, which does not know the names of the
// stack's interfaces: write the zone of a link-local destination as a number, as
// ReadFrom gives it ("fe80::1%1048576"), or use a connection of Dial, which takes names.
// Where a stack has several interfaces, link-local destinations without a zone, or with a
// name, are unreachable, and a link-local group is joined only on an interface that is
// named; with one interface they are sent, and joined, there. The kernel ignores the zones
// of all other addresses: those of groups go where routes or IPV6_MULTICAST_IF say.
func (lc *ListenConfig) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	if isIP(network) {
		if err := lc.Stack.check(); err != nil {
			return nil, &net.OpError{Op: "listen", Net: network, Err: err}
		}
		return lc.listenIP(ctx, network, address)
	}
	return listen(ctx, lc, network, address, (*net.ListenConfig).ListenPacket)
}

// listen calls f, a method of package net, with an address of the stack.
func listen[L io.Closer](ctx context.Context, lc *ListenConfig, network, address string,
	f func(*net.ListenConfig, context.Context, string, string) (L, error),
) (L, error) {
	var none L
	if err := lc.Stack.check(); err != nil {
		return none, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	given := address
	nl, address, zone, err := lc.local(ctx, network, address)
	if err != nil {
		return none, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	l, err := f(&nl, ctx, network, address)
	l, err = track(lc.Stack, l, err)
	if err == nil {
		switch l := any(l).(type) {
		case *net.TCPListener:
			if a := l.Addr().(*net.TCPAddr); a.Zone == "" {
				a.Zone = zone // the kernel forgets that of multipath TCP
			}
			lc.Stack.nameZones(l.Addr())
		case *net.UDPConn:
			lc.Stack.nameZones(l.LocalAddr())
		}
	}
	if err != nil && lc.Stack.st.Closed() {
		err = &net.OpError{Op: "listen", Net: network, Err: lc.Stack.st.ErrClosed()}
	}
	return l, explain(err, network, given)
}

// local prepares the configuration and the address for package net: a name is
// looked up in the stack, and a missing host of both families becomes ::, as
// package net would otherwise ask the host whether IPv6 exists. It returns the
// address's zone too.
func (lc *ListenConfig) local(ctx context.Context, network, address string) (nl net.ListenConfig, local, zone string, err error) {
	nl = lc.ListenConfig
	nl.Control = func(network, address string, c syscall.RawConn) error {
		return chainControl(lc.Stack.Control, lc.Control, nil)(ctx, network, address, c)
	}
	if !strings.HasPrefix(network, "tcp") && !strings.HasPrefix(network, "udp") {
		return nl, address, "", nil
	}
	host, port, err := net.SplitHostPort(address)
	switch {
	case err != nil, host == "" && family(network) != "":
		return nl, address, "", nil // package net has the right error, or address
	case host == "":
		return nl, net.JoinHostPort("::", port), "", nil
	}
	ip, err := lc.Stack.localAddr(ctx, family(network), host)
	if err != nil {
		return nl, "", "", err
	}
	return nl, net.JoinHostPort(ip.String(), port), ip.Zone(), nil
}

// localAddr returns the address of a host on which to listen. As package net
// does, it prefers an IPv4 address.
func (s *Stack) localAddr(ctx context.Context, family, host string) (netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return s.zoneIndex(ip)
	}
	addrs, err := s.LookupNetIP(ctx, "ip"+family, host)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addrs {
		if a.Is4() {
			return a, nil
		}
	}
	return s.zoneIndex(addrs[0])
}

// Listen announces in the stack, see [net.Listen].
func (s *Stack) Listen(network, address string) (net.Listener, error) {
	return (&ListenConfig{Stack: s}).Listen(context.Background(), network, address)
}

// ListenPacket announces in the stack, see [net.ListenPacket].
func (s *Stack) ListenPacket(network, address string) (net.PacketConn, error) {
	return (&ListenConfig{Stack: s}).ListenPacket(context.Background(), network, address)
}

// Listen announces in the default stack, or on the host if there is none, see
// [SetDefault].
func Listen(network, address string) (net.Listener, error) {
	if s := Default(); s != nil {
		return s.Listen(network, address)
	}
	return net.Listen(network, address)
}

// ListenPacket announces in the default stack, or on the host if there is none, see
// [SetDefault].
func ListenPacket(network, address string) (net.PacketConn, error) {
	if s := Default(); s != nil {
		return s.ListenPacket(network, address)
	}
	return net.ListenPacket(network, address)
}
