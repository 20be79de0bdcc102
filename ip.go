package vdestack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/vdestack/vdestack/internal/sockets"
)

// isIP reports whether a network is of raw sockets, such as "ip4:icmp".
func isIP(network string) bool {
	name, _, _ := strings.Cut(network, ":")
	return name == "ip" || name == "ip4" || name == "ip6"
}

// protocols are the names of IP protocols that package net knows without asking the host.
// Others are written as numbers.
var protocols = map[string]int{"icmp": 1, "igmp": 2, "tcp": 6, "udp": 17, "ipv6-icmp": 58}

// parseIP splits a network of raw sockets.
func parseIP(network string) (name string, proto int, err error) {
	name, p, ok := strings.Cut(network, ":")
	if !ok {
		return "", 0, net.UnknownNetworkError(network)
	}
	proto, known := protocols[strings.ToLower(p)]
	if !known {
		if proto, err = strconv.Atoi(p); err != nil || proto < 0 || proto > 255 {
			return "", 0, &net.AddrError{Err: "unknown IP protocol: a number from 0 to 255, icmp, igmp, tcp, udp or ipv6-icmp", Addr: p}
		}
	}
	return name, proto, nil
}

// dialIP connects a raw socket.
func (d *Dialer) dialIP(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := func() (*net.IPConn, error) {
		name, proto, err := parseIP(network)
		if err != nil {
			return nil, err
		}
		addrs, err := d.Stack.LookupNetIP(ctx, name, address)
		if err != nil {
			return nil, err
		}
		remote, err := d.Stack.remoteZone(addrs[0].Unmap())
		if err != nil {
			return nil, err
		}
		var local netip.Addr
		if a, ok := d.LocalAddr.(*net.IPAddr); ok {
			local, _ = netip.AddrFromSlice(a.IP)
			if local, err = d.Stack.zoneIndex(local.Unmap().WithZone(a.Zone)); err != nil {
				return nil, err
			}
		} else if d.LocalAddr != nil {
			return nil, &net.AddrError{Err: "mismatched local address type", Addr: d.LocalAddr.String()}
		}
		return sockets.NewIP(d.Stack, ipFamily(remote), proto, local, remote, chainControl(ctx, d.Stack, d.Control, d.ControlContext))
	}()
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Source: d.LocalAddr, Err: err}
	}
	return c, nil
}

// listenIP makes a raw socket that is not connected.
func (lc *ListenConfig) listenIP(ctx context.Context, network, address string) (net.PacketConn, error) {
	c, err := func() (*net.IPConn, error) {
		name, proto, err := parseIP(network)
		if err != nil {
			return nil, err
		}
		var local netip.Addr
		family := name
		if address != "" {
			if local, err = lc.Stack.localAddr(ctx, strings.TrimPrefix(name, "ip"), address); err != nil {
				return nil, err
			}
			family = ipFamily(local)
		} else if name == "ip" {
			family = "ip4"
		}
		if name != "ip" && name != family {
			return nil, &net.AddrError{Err: "not an address of this family", Addr: address}
		}
		c, err := sockets.NewIP(lc.Stack, family, proto, local, netip.Addr{}, chainControl(ctx, lc.Stack, lc.Control, nil))
		return track(lc.Stack, c, err)
	}()
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: lc.Stack.ended(err)}
	}
	lc.Stack.nameZones(c.LocalAddr())
	return c, nil
}

func ipFamily(a netip.Addr) string {
	if a.Is4() {
		return "ip4"
	}
	return "ip6"
}

// ListenMulticastUDP returns a socket that receives the packets of a multicast group
// and port; network is "udp", "udp4" or "udp6". It joins the group on the named
// interface of the stack, or for "" on all that are up and capable of multicast. Unlike
// with [net.ListenMulticastUDP], it receives no packets of other groups.
func (s *Stack) ListenMulticastUDP(network, ifname string, group netip.AddrPort) (*net.UDPConn, error) {
	c, err := s.listenMulticast(network, ifname, group)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: net.UDPAddrFromAddrPort(group), Err: s.ended(err)}
	}
	return c, nil
}

// ended returns the error of a call, or that the stack was closed meanwhile: then anything can
// go wrong with a socket.
func (s *Stack) ended(err error) error {
	if errors.Is(err, net.ErrClosed) || s.check() != nil {
		return err
	}
	if closed := s.closed(); closed != nil {
		return closed
	}
	return err
}

func (s *Stack) listenMulticast(network, ifname string, group netip.AddrPort) (*net.UDPConn, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	ip := group.Addr().Unmap()
	want := map[string]string{"udp": ipFamily(ip), "udp4": "ip4", "udp6": "ip6"}[network]
	switch {
	case want == "":
		return nil, net.UnknownNetworkError(network)
	case !ip.IsMulticast():
		return nil, &net.AddrError{Err: "not a multicast group", Addr: group.String()}
	case want != ipFamily(ip):
		return nil, &net.AddrError{Err: "not a group of this family", Addr: group.String()}
	}
	ip, err := s.zoneIndex(ip)
	if err != nil {
		return nil, err
	}
	// For a group, package net binds the wildcard address, and lets others bind the port
	// too.
	p, err := s.ListenPacket("udp"+want[2:], net.JoinHostPort(ip.WithZone("").String(), strconv.Itoa(int(group.Port()))))
	if err != nil {
		return nil, err
	}
	c := p.(*net.UDPConn)
	zone, _ := strconv.Atoi(ip.Zone())
	indexes := []int{zone}
	if zone == 0 || ifname != "" {
		indexes, err = s.groupInterfaces(ifname)
	}
	switch {
	case err != nil:
	case zone != 0 && zone != indexes[0]:
		err = &net.AddrError{Err: fmt.Sprintf("its zone is another interface than %q", ifname), Addr: group.String()}
	default:
		err = sockets.JoinGroup(c, ip.WithZone(""), indexes)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// groupInterfaces returns the interface with a name, or for "" those that are up and
// capable of multicast.
func (s *Stack) groupInterfaces(ifname string) (indexes []int, err error) {
	nl, err := s.st.RTNL()
	if err != nil {
		return nil, err
	}
	defer nl.Close()
	if ifname != "" {
		index, err := nl.IfNameToIndex(ifname)
		if err != nil {
			return nil, fmt.Errorf("interface %q of the stack: %w", ifname, err)
		}
		return []int{index}, nil
	}
	links, err := nl.Links()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if l.Flags&(net.FlagUp|net.FlagMulticast) == net.FlagUp|net.FlagMulticast {
			indexes = append(indexes, l.Index)
		}
	}
	if len(indexes) == 0 {
		return nil, fmt.Errorf("%s: no interface is up and capable of multicast", s.st.Name())
	}
	return indexes, nil
}
