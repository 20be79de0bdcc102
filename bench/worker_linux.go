package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/bench/internal/worker"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

// workers are the contestants that this program is itself, when it is started
// with the argument "worker" and their name.
var workers = map[string]*worker.Contestant{
	"vdestack": {Pair: openPair, Open: openStack},
	"kernel":   {Pair: openVeth, Open: openHost},
}

// The addresses of the two stacks of a pair.
var (
	firstAddr  = netip.MustParsePrefix("10.77.0.1/24")
	secondAddr = netip.MustParsePrefix("10.77.0.2/24")
)

// A pair is two stacks, the same one twice for loopback.
type pair struct {
	first, second *vdestack.Stack
	address       string // where the first listens
}

// openPair makes two stacks on a network of vdeplug.
func openPair(a, b string) (worker.Pair, error) {
	if a == "" && b == "" {
		s, err := vdestack.Open("")
		if err != nil {
			return nil, err
		}
		return &pair{s, s, "127.0.0.1:0"}, nil
	}
	first, err := vdestack.Open(a, firstAddr.String())
	if err != nil {
		return nil, err
	}
	second, err := vdestack.Open(b, secondAddr.String())
	if err != nil {
		first.Close()
		return nil, err
	}
	return &pair{first, second, net.JoinHostPort(firstAddr.Addr().String(), "0")}, nil
}

// openVeth makes two namespaces that a veth pair of the kernel joins: the
// baseline, for no frame leaves the kernel. The locators are not used.
func openVeth(string, string) (_ worker.Pair, err error) {
	p := &pair{address: net.JoinHostPort(firstAddr.Addr().String(), "0")}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if p.first, err = vdestack.Open(""); err != nil {
		return nil, err
	}
	if p.second, err = vdestack.Open(""); err != nil {
		return nil, err
	}
	nl, err := p.first.RTNL()
	if err != nil {
		return nil, err
	}
	defer nl.Close()
	ns, err := p.second.NetNS()
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	_, err = nl.LinkAdd(rtnl.LinkSpec{Name: "veth0", Kind: "veth", Peer: &rtnl.LinkSpec{Name: "veth0", NetNS: ns}})
	if err != nil {
		return nil, err
	}
	if err := configure(p.first, firstAddr); err != nil {
		return nil, err
	}
	return p, configure(p.second, secondAddr)
}

// configure sets the end of the veth pair up.
func configure(s *vdestack.Stack, addr netip.Prefix) error {
	nl, err := s.RTNL()
	if err != nil {
		return err
	}
	defer nl.Close()
	index, err := nl.IfNameToIndex("veth0")
	if err != nil {
		return err
	}
	if err := nl.AddrAdd(index, addr); err != nil {
		return err
	}
	return nl.LinkSetUp(index)
}

func (p *pair) Listen() (net.Listener, error) { return p.first.Listen("tcp4", p.address) }

func (p *pair) Dial(ctx context.Context, address string) (net.Conn, error) {
	return p.second.DialContext(ctx, "tcp4", address)
}

func (p *pair) Close() error {
	var errs []error
	for _, s := range []*vdestack.Stack{p.first, p.second} {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

// A stack of the package.
type stack struct{ *vdestack.Stack }

func openStack(vnl string) (worker.Stack, error) {
	var addrs []string
	if vnl != "" {
		addrs = []string{firstAddr.String()}
	}
	s, err := vdestack.Open(vnl, addrs...)
	return stack{s}, err
}

func (s stack) Socket() (io.Closer, error) {
	return s.Stack.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
}

// host makes sockets without a stack.
type host struct{}

func openHost(string) (worker.Stack, error) { return host{}, nil }

func (host) Socket() (io.Closer, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return os.NewFile(uintptr(fd), "socket"), nil
}

func (host) Close() error { return nil }
