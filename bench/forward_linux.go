package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/bench/internal/worker"
	"github.com/vdestack/vdestack/internal/testenv/private"
)

// hostAddr is an address of the private namespace, for clients that keep theirs: in a stack
// 127.0.0.1 is another host.
var hostAddr = netip.AddrFrom4([4]byte{198, 51, 100, 1})

// setup configures the private namespace. hostAddr is not the source of multicast packets.
func setup() error {
	if err := private.Loopback(); err != nil {
		return err
	}
	return private.IP("addr add " + hostAddr.String() + "/32 dev lo scope host\n")
}

// hostAt is where servers of the host are.
func hostAt(port int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
}

// A hostPair is a server and a client on the host.
type hostPair struct{}

var _ worker.Datagrammer = hostPair{}

func (hostPair) Listen(port int) (net.Listener, error) {
	return net.Listen("tcp4", hostAt(port).String())
}

func (hostPair) ListenPacket(port int) (worker.PacketConn, error) {
	return net.ListenUDP("udp4", net.UDPAddrFromAddrPort(hostAt(port)))
}

func (hostPair) Dial(ctx context.Context, port int) (net.Conn, error) {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(hostAddr, 0))}
	return d.DialContext(ctx, "tcp4", hostAt(port).String())
}

func (hostPair) DialPacket(port int) (net.Conn, error) {
	return net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(hostAddr, 0)), net.UDPAddrFromAddrPort(hostAt(port)))
}

func (hostPair) Close() error { return nil }

// A forwardHalf is a server in a stack, which clients of the host reach by ForwardIn.
type forwardHalf struct {
	hostPair
	stack *vdestack.Stack
	opts  vdestack.ForwardOptions
}

// openForward makes the server's half, or the client's.
func openForward(side int, keepSource bool) (worker.Pair, error) {
	if side == 2 {
		return hostPair{}, nil
	}
	s, err := openOne(firstAddr, 0, "null://")
	if err != nil {
		return nil, err
	}
	return &forwardHalf{stack: s, opts: vdestack.ForwardOptions{KeepSource: keepSource}}, nil
}

// forward makes a port of the host lead to the same one of the stack.
func (p *forwardHalf) forward(network string, port int) (*vdestack.Forward, error) {
	return p.stack.ForwardIn(context.Background(), network, hostAt(port).String(), serverAt(port), &p.opts)
}

func serverAt(port int) string { return netip.AddrPortFrom(firstAddr.Addr(), uint16(port)).String() }

func (p *forwardHalf) Listen(port int) (net.Listener, error) {
	ln, err := p.stack.Listen("tcp4", serverAt(port))
	if err != nil {
		return nil, err
	}
	f, err := p.forward("tcp4", port)
	if err != nil {
		ln.Close()
		return nil, err
	}
	return &forwardListener{ln.(*net.TCPListener), f}, nil
}

func (p *forwardHalf) ListenPacket(port int) (worker.PacketConn, error) {
	c, err := p.stack.ListenPacket("udp4", serverAt(port))
	if err != nil {
		return nil, err
	}
	f, err := p.forward("udp4", port)
	if err != nil {
		c.Close()
		return nil, err
	}
	return &forwardPacketConn{c.(*net.UDPConn), f}, nil
}

func (p *forwardHalf) Close() error { return p.stack.Close() }

// A forwardListener ends its forward, but not before the forward has carried the ends of
// its connections.
type forwardListener struct {
	*net.TCPListener
	forward *vdestack.Forward
}

func (l *forwardListener) Close() error {
	err := l.TCPListener.Close()
	for end := time.Now().Add(worker.Spare); l.forward.Stats().Open > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	return errors.Join(err, l.forward.Close())
}

// A forwardPacketConn ends its forward.
type forwardPacketConn struct {
	*net.UDPConn
	forward *vdestack.Forward
}

func (c *forwardPacketConn) Close() error { return errors.Join(c.UDPConn.Close(), c.forward.Close()) }
