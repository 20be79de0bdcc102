//go:build linux

package main

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/vdestack/vdestack/bench/internal/worker"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/loopback"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	nic       = 1
	prefixLen = 24
	// tcpBuffer is the largest buffer of a connection in bytes, which is Linux's for
	// receivers (net.ipv4.tcp_rmem).
	tcpBuffer = 6 << 20
)

// newStack makes a stack with one interface.
func newStack(end stack.LinkEndpoint, addr tcpip.Address) (*stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	sack := tcpip.TCPSACKEnabled(true)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcp.DefaultReceiveBufferSize, Max: tcpBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcp.DefaultSendBufferSize, Max: tcpBuffer}
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &receive, &send} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			s.Destroy()
			return nil, errorOf(err)
		}
	}
	err := s.CreateNIC(nic, end)
	if err == nil {
		err = s.AddProtocolAddress(nic, tcpip.ProtocolAddress{
			Protocol:          ipv4.ProtocolNumber,
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: addr, PrefixLen: prefixLen},
		}, stack.AddressProperties{})
	}
	if err != nil {
		s.Destroy()
		return nil, errorOf(err)
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}})
	return s, nil
}

func errorOf(err tcpip.Error) error { return errors.New(err.String()) }

// The addresses of the two stacks of a pair.
var (
	firstAddr  = tcpip.AddrFrom4([4]byte{10, 77, 0, 1})
	secondAddr = tcpip.AddrFrom4([4]byte{10, 77, 0, 2})
)

// A pair is two stacks.
type pair struct {
	link
	first, second *stack.Stack
}

func openPair(mtu int, name, _ string) (_ worker.Pair, err error) {
	p := &pair{}
	if p.link, err = newLink(name, mtu); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if p.first, err = newStack(p.a, firstAddr); err != nil {
		return nil, err
	}
	p.second, err = newStack(p.b, secondAddr)
	return p, err
}

func (p *pair) Listen(port int) (net.Listener, error) {
	return gonet.ListenTCP(p.first, tcpip.FullAddress{NIC: nic, Addr: firstAddr, Port: uint16(port)}, ipv4.ProtocolNumber)
}

func (p *pair) Dial(ctx context.Context, port int) (net.Conn, error) {
	return gonet.DialContextTCP(ctx, p.second, tcpip.FullAddress{NIC: nic, Addr: firstAddr, Port: uint16(port)}, ipv4.ProtocolNumber)
}

func (p *pair) Close() error {
	for _, s := range []*stack.Stack{p.first, p.second} {
		if s != nil {
			s.Destroy()
		}
	}
	p.link.close()
	return nil
}

// A member is a stack that is one of many, on loopback or on a pipe without another end.
type member struct {
	*stack.Stack
	close func()
}

func openMember(name string, _ int) (worker.Stack, error) {
	if name == "" {
		s, err := newStack(loopback.New(), firstAddr)
		return &member{s, func() {}}, err
	}
	c, err := newLink(name, 1500)
	if err != nil {
		return nil, err
	}
	s, err := newStack(c.a, firstAddr)
	return &member{s, c.close}, err
}

// A socket is an endpoint that is not connected.
type socket struct{ tcpip.Endpoint }

func (s socket) Close() error {
	s.Endpoint.Close()
	return nil
}

func (m *member) Socket() (io.Closer, error) {
	ep, err := m.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, new(waiter.Queue))
	if err != nil {
		return nil, errorOf(err)
	}
	return socket{ep}, nil
}

func (m *member) Listen() (net.Listener, error) {
	return gonet.ListenTCP(m.Stack, tcpip.FullAddress{NIC: nic, Addr: firstAddr}, ipv4.ProtocolNumber)
}

func (m *member) Dial(ctx context.Context, address string) (net.Conn, error) {
	a, err := net.ResolveTCPAddr("tcp4", address)
	if err != nil {
		return nil, err
	}
	return gonet.DialContextTCP(ctx, m.Stack, tcpip.FullAddress{NIC: nic, Addr: firstAddr, Port: uint16(a.Port)}, ipv4.ProtocolNumber)
}

func (m *member) Close() error {
	m.Destroy()
	m.close()
	return nil
}
