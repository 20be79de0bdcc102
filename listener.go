package vdestack

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
)

// A ListenConfig is a [net.ListenConfig] that listens in a stack. The fields of
// net.ListenConfig mean the same; a Control function sees the socket of the stack.
type ListenConfig struct {
	net.ListenConfig
	// Stack is where to listen. Nil is an error, [ErrNoStack]: for the host, use a
	// net.ListenConfig.
	Stack *Stack
}

// Listen listens on the local address, see [net.Listen]. Without a host, or with ::,
// "tcp" takes both families.
func (lc *ListenConfig) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	return listen(ctx, lc, network, address, (*net.ListenConfig).Listen)
}

// ListenPacket listens for packets on the local address, see [net.ListenPacket]. Without
// a host, or with ::, "udp" takes both families. Raw sockets, such as "ip4:icmp", need no
// privilege.
//
// Zones of link-local addresses:
//
//   - WriteTo, which is package net's, does not know the names of the stack's interfaces:
//     write the zone as a number, as ReadFrom returns it ("fe80::1%1048576"), or use a
//     connection of Dial, which takes names.
//   - In a stack with several interfaces, link-local destinations without a zone, or with
//     a name in WriteTo, are unreachable, and a link-local group is joined only on a named
//     interface. With one interface, that is used.
//   - The kernel ignores the zones of other addresses: packets to groups go where routes
//     or IPV6_MULTICAST_IF say.
//
// Without a default route, WriteTo an IPv4 group or to 255.255.255.255 finds the network
// unreachable: "ip route add 224.0.0.0/4 dev vde0" or "… 255.255.255.255 dev vde0" by
// [Stack.Run] tells the kernel where it is. The broadcast address of a network needs none.
func (lc *ListenConfig) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	if isIP(network) {
		if err := lc.Stack.check(); err != nil {
			return nil, &net.OpError{Op: "listen", Net: network, Err: err}
		}
		return lc.listenIP(ctx, network, address)
	}
	return listen(ctx, lc, network, address, (*net.ListenConfig).ListenPacket)
}

// listen calls f, a method of package net, with an address resolved in the stack.
func listen[L io.Closer](ctx context.Context, lc *ListenConfig, network, address string,
	f func(*net.ListenConfig, context.Context, string, string) (L, error),
) (L, error) {
	var zero L
	if err := lc.Stack.check(); err != nil {
		return zero, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	given := address
	nl, address, zone, err := lc.local(ctx, network, address)
	if err != nil {
		return zero, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	l, err := f(&nl, ctx, network, address)
	l, err = track(lc.Stack, l, err)
	if err == nil {
		switch l := any(l).(type) {
		case *net.TCPListener:
			if a := l.Addr().(*net.TCPAddr); a.Zone == "" {
				a.Zone = zone // the kernel does not report it for multipath TCP
			}
			lc.Stack.nameZones(l.Addr())
		case *net.UDPConn:
			lc.Stack.nameZones(l.LocalAddr())
		}
	}
	if closed := lc.Stack.closed(); err != nil && closed != nil {
		err = &net.OpError{Op: "listen", Net: network, Err: closed}
	}
	return l, lc.Stack.explain(err, network, given)
}

// local prepares the configuration and the address for package net. It looks names up
// in the stack, and replaces a missing host by ::, as package net would ask the host
// whether IPv6 exists. It returns the zone of the address too.
func (lc *ListenConfig) local(ctx context.Context, network, address string) (nl net.ListenConfig, local, zone string, err error) {
	nl = lc.ListenConfig
	nl.Control = chainControl(fresh(ctx, network, nl.MultipathTCP(), nil), lc.Stack, lc.Control, nil)
	if !strings.HasPrefix(network, "tcp") && !strings.HasPrefix(network, "udp") {
		return nl, address, "", nil
	}
	host, port, err := net.SplitHostPort(address)
	switch {
	case err != nil, host == "" && family(network) != "":
		return nl, address, "", nil // package net returns an error, or the right address
	case host == "":
		return nl, net.JoinHostPort("::", port), "", nil
	}
	ip, err := lc.Stack.localAddr(ctx, family(network), host)
	if err != nil {
		return nl, "", "", err
	}
	return nl, net.JoinHostPort(ip.String(), port), ip.Zone(), nil
}

// localAddr returns the address of a host on which to listen. Like package net, it
// prefers IPv4.
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

// Listen listens in the stack, see [net.Listen] and [ListenConfig].
func (s *Stack) Listen(network, address string) (net.Listener, error) {
	return (&ListenConfig{Stack: s}).Listen(context.Background(), network, address)
}

// ListenPacket listens for packets in the stack, see [net.ListenPacket] and
// [ListenConfig.ListenPacket].
func (s *Stack) ListenPacket(network, address string) (net.PacketConn, error) {
	return (&ListenConfig{Stack: s}).ListenPacket(context.Background(), network, address)
}

// Listen listens in the default stack, or on the host if there is none, see [SetDefault].
func Listen(network, address string) (net.Listener, error) {
	if s := Default(); s != nil {
		return s.Listen(network, address)
	}
	return net.Listen(network, address)
}

// ListenPacket listens for packets in the default stack, or on the host if there is
// none, see [SetDefault].
func ListenPacket(network, address string) (net.PacketConn, error) {
	if s := Default(); s != nil {
		return s.ListenPacket(network, address)
	}
	return net.ListenPacket(network, address)
}
