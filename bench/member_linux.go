package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/bench/internal/worker"
	"golang.org/x/sys/unix"
)

const loopbackAddr = "127.0.0.1:0"

// A member is a stack of this module that is one of many.
type member struct {
	*vdestack.Stack
	addr netip.Addr // invalid: loopback only
}

var _ worker.Quieter = (*member)(nil)

// memberBits is the length of the prefix of a network with stacks 0 to 62,499.
const memberBits = 16

func openMember(vnl string, number int) (worker.Stack, error) {
	m := &member{}
	var cfg vdestack.Config
	if vnl != "" {
		m.addr = netip.AddrFrom4([4]byte{10, 78, byte(1 + number/250), byte(1 + number%250)})
		cfg.Interfaces = []vdestack.Interface{{VNL: vnl, Addrs: []netip.Prefix{netip.PrefixFrom(m.addr, memberBits)}}}
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
	return m.DialContext(ctx, "tcp", address)
}

// Quiet ends the kernel's search for IPv6 routers, which would never stop.
func (m *member) Quiet() error {
	err := m.Sysctl("net/ipv6/conf/vde0/router_solicitations", "0")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no IPv6 here
	}
	return err
}

const (
	dialsAtOnce = 16
	// dialTime includes the time in which the kernel asks for a neighbour again.
	dialTime = 30 * time.Second
)

// reach dials from every nth stack to a port of all others that nobody listens on: a
// refusal shows that packets went both ways.
func reach(stacks []worker.Stack, n int) (pairs, reached int) {
	next := make(chan [2]*member)
	var refused atomic.Int64
	var wg sync.WaitGroup
	for range dialsAtOnce {
		wg.Go(func() {
			for p := range next {
				d := vdestack.Dialer{Stack: p[0].Stack, Dialer: net.Dialer{Timeout: dialTime}}
				if _, err := d.Dial("tcp", netip.AddrPortFrom(p[1].addr, 9).String()); errors.Is(err, unix.ECONNREFUSED) {
					refused.Add(1)
				}
			}
		})
	}
	for from := 0; from < len(stacks); from += n {
		for to := range stacks {
			if from != to {
				next <- [2]*member{stacks[from].(*member), stacks[to].(*member)}
				pairs++
			}
		}
	}
	close(next)
	wg.Wait()
	return pairs, int(refused.Load())
}
