package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/bench/internal/worker"
)

// workers are the contestants that this program is itself, when it is started
// with the argument "worker" and their name.
var workers = map[string]*worker.Contestant{
	ours:   {Pair: openPair, Half: openHalf, Open: openMember, Reach: reach, Trace: trace},
	kernel: {Pair: openVeth, Half: openVethHalf, Open: openHost},
}

// The addresses of the two stacks of a pair.
var (
	firstAddr  = netip.MustParsePrefix("10.77.0.1/24")
	secondAddr = netip.MustParsePrefix("10.77.0.2/24")
)

// A pair is two stacks; on loopback the same one twice; of a half only one.
type pair struct {
	first, second *vdestack.Stack
	address       netip.Addr // of the first
}

// A countedPair is a pair whose frames the program carries.
type countedPair struct{ pair }

var _ worker.Carrier = (*countedPair)(nil)

// openPair makes two stacks on a network of vdeplug.
func openPair(mtu int, a, b string) (worker.Pair, error) {
	if a == "" && b == "" {
		s, err := vdestack.Open("")
		if err != nil {
			return nil, err
		}
		return &pair{s, s, netip.AddrFrom4([4]byte{127, 0, 0, 1})}, nil
	}
	first, err := openOne(firstAddr, mtu, a)
	if err != nil {
		return nil, err
	}
	second, err := openOne(secondAddr, mtu, b)
	if err != nil {
		first.Close()
		return nil, err
	}
	return counted(pair{first, second, firstAddr.Addr()}, a), nil
}

// openHalf makes one of the two.
func openHalf(side, mtu int, vnl string) (worker.Pair, error) {
	if vnl == port || vnl == kept {
		return openForward(side, vnl == kept)
	}
	p := pair{address: firstAddr.Addr()}
	var err error
	if side == 1 {
		p.first, err = openOne(firstAddr, mtu, vnl)
	} else {
		p.second, err = openOne(secondAddr, mtu, vnl)
	}
	return counted(p, vnl), err
}

func openOne(addr netip.Prefix, mtu int, vnl string) (*vdestack.Stack, error) {
	return vdestack.New(context.Background(), vdestack.Config{
		Interfaces: []vdestack.Interface{{VNL: vnl, MTU: mtu, Addrs: []netip.Prefix{addr}}},
	})
}

// counted returns the pair, with a count of frames where the program carries them.
func counted(p pair, vnl string) worker.Pair {
	if strings.HasPrefix(vnl, "lan:") {
		return &p
	}
	return &countedPair{p}
}

func (p *pair) Listen(port int) (net.Listener, error) {
	return p.first.Listen("tcp4", net.JoinHostPort(p.address.String(), strconv.Itoa(port)))
}

func (p *pair) Dial(ctx context.Context, port int) (net.Conn, error) {
	return p.second.DialContext(ctx, "tcp4", net.JoinHostPort(p.address.String(), strconv.Itoa(port)))
}

// stacks returns the stacks of the pair that are here.
func (p *pair) stacks() []*vdestack.Stack {
	return slices.DeleteFunc([]*vdestack.Stack{p.first, p.second}, func(s *vdestack.Stack) bool { return s == nil })
}

func (p *countedPair) Frames() (n uint64) {
	for _, s := range p.stacks() {
		for _, i := range s.Stats().Interfaces {
			n += i.TxFrames + i.RxFrames
		}
	}
	return n
}

func (p *pair) Close() (err error) {
	for _, s := range p.stacks() {
		err = errors.Join(err, s.Close())
	}
	return err
}
