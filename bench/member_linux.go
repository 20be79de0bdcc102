package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/bench/internal/worker"
	"golang.org/x/sys/unix"
)

const loopbackAddr = "127.0.0.1:0"

// A member is a stack of the package that is one of many.
type member struct {
	*vdestack.Stack
	addr netip.Addr // invalid: loopback only
}

var (
	_ worker.Dialer = (*member)(nil)
	_ worker.Talker = (*member)(nil)
)

// crowdBits is the length of the network's prefix, on which stacks are numbered
// from 0 to 62,499.
const crowdBits = 16

func openMember(vnl string, number int) (worker.Stack, error) {
	m := &member{}
	var cfg vdestack.Config
	if vnl != "" {
		m.addr = netip.AddrFrom4([4]byte{10, 78, byte(1 + number/250), byte(1 + number%250)})
		cfg.Interfaces = []vdestack.Interface{{VNL: vnl, Addrs: []netip.Prefix{netip.PrefixFrom(m.addr, crowdBits)}}}
	}
	var err error
	m.Stack, err = vdestack.New(context.Background(), cfg)
	return m, err
}

func (m *member) Socket() (io.Closer, error) {
	return m.Stack.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
}

func (m *member) Listen() (net.Listener, error) { return m.Stack.Listen("tcp4", loopbackAddr) }

func (m *member) Dial(ctx context.Context, address string) (net.Conn, error) {
	return m.DialContext(ctx, "tcp4", address)
}

// Quiet ends the kernel's search for IPv6 routers, which goes on for ever.
func (m *member) Quiet() error {
	err := m.Sysctl("net/ipv6/conf/vde0/router_solicitations", "0")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no IPv6 here
	}
	return err
}
