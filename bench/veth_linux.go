package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/bench/internal/worker"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

// openVeth makes two namespaces joined by a veth pair of the kernel. This is the
// baseline: no frame leaves the kernel.
func openVeth(mtu int, a, _ string) (_ worker.Pair, err error) {
	p := &pair{address: firstAddr.Addr()}
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
	_, err = nl.LinkAdd(rtnl.LinkSpec{Name: vethName, Kind: "veth", MTU: mtu,
		Peer: &rtnl.LinkSpec{Name: vethName, MTU: mtu, NetNS: ns}})
	if err != nil {
		return nil, err
	}
	if err := configure(p.first, firstAddr, a == plain); err != nil {
		return nil, err
	}
	return p, configure(p.second, secondAddr, a == plain)
}

// openVethHalf makes one end of the pair usable in this process. The first process makes
// both, and a link to the second namespace at path. Without a path both are on the host.
func openVethHalf(side, mtu int, path string) (worker.Pair, error) {
	if path == "" {
		return hostPair{}, nil
	}
	if side == 2 {
		s, err := vdestack.New(context.Background(), vdestack.Config{NetNS: path})
		return &pair{second: s, address: firstAddr.Addr()}, err
	}
	p, err := openVeth(mtu, veth, veth)
	if err != nil {
		return nil, err
	}
	ns, err := p.(*pair).second.NetNS() // open as long as the process
	if err == nil {
		err = os.Symlink(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd()), path)
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return &lentPair{*p.(*pair), ns}, nil
}

// A lentPair has a namespace that another process uses.
type lentPair struct {
	pair
	ns *os.File
}

func (p *lentPair) Close() error { return errors.Join(p.pair.Close(), p.ns.Close()) }

const vethName = "veth0"

// configure sets the end of the veth pair up.
func configure(s *vdestack.Stack, addr netip.Prefix, noOffloads bool) error {
	nl, err := s.RTNL()
	if err != nil {
		return err
	}
	defer nl.Close()
	index, err := nl.IfNameToIndex(vethName)
	if err != nil {
		return err
	}
	if noOffloads {
		if err := offloadsOff(s, vethName); err != nil {
			return err
		}
	}
	if err := nl.AddrAdd(index, addr); err != nil {
		return err
	}
	return nl.LinkSetUp(index)
}

// offloads are the commands of ethtool that switch offloads, in an order in which no
// enabled one depends on a disabled one.
var offloads = []uint32{
	unix.ETHTOOL_SGRO, unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO, unix.ETHTOOL_SSG, unix.ETHTOOL_STXCSUM, unix.ETHTOOL_SRXCSUM,
}

// offloadsOff switches all offloads of an interface off: packets then have the size of
// the network, and checksums.
func offloadsOff(s *vdestack.Stack, name string) error {
	sock, err := s.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer sock.Close()
	for _, command := range offloads {
		if err := sockio.SwitchOff(int(sock.Fd()), name, command); err != nil {
			return err
		}
	}
	return nil
}

// host makes sockets without a stack.
type host struct{}

func openHost(string, int) (worker.Stack, error) { return host{}, nil }

func (host) Socket() (io.Closer, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return os.NewFile(uintptr(fd), "socket"), nil
}

func (host) Listen() (net.Listener, error) { return net.Listen("tcp4", loopbackAddr) }

func (host) Dial(ctx context.Context, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}

func (host) Close() error { return nil }
