package conformance

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
)

const (
	// scale is the number of stacks at once.
	scale = 100
	// perNetwork is how many of them are on one network.
	perNetwork = 20
)

// TestScale has a stack, a server and a client in each of many parallel tests. All exist
// at once, some on the same network, and use the same ports. Each client talks to its own
// server, and to that of another stack.
func TestScale(t *testing.T) {
	testenv.Long(t)
	var parallel int
	fmt.Sscan(flag.Lookup("test.parallel").Value.String(), &parallel)
	if parallel < scale {
		testenv.Skip(t, "with -parallel %d, %d tests do not run at once", parallel, scale)
	}
	testenv.NeedDescriptors(t, 30*scale)
	guard(t)
	ctx, cancel := context.WithCancelCause(testenv.Context(t))
	defer cancel(nil)
	ready, finished := newBarrier(scale), newBarrier(scale)
	t.Run("stack", func(t *testing.T) { // which ends when all are finished
		for i := range scale {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				t.Cleanup(func() {
					if t.Failed() {
						cancel(errors.New("another test has failed"))
					}
				})
				first := i / perNetwork * perNetwork
				m := newMember(t, fmt.Sprintf("mem://TestScale/%d", first), i)
				testenv.Check(t, ready.wait(ctx))
				m.check(t, "127.0.0.1", i)
				m.check(t, "::1", i)
				next := first + (i-first+1)%perNetwork
				for _, host := range addresses(next) {
					m.check(t, host, next)
				}
				testenv.Check(t, finished.wait(ctx))
			})
		}
	})
}

// A barrier blocks its callers until all of them have called.
type barrier struct {
	missing atomic.Int32
	all     chan struct{}
}

func newBarrier(n int32) *barrier {
	m := &barrier{all: make(chan struct{})}
	m.missing.Store(n)
	return m
}

// arrive is wait without waiting.
func (m *barrier) arrive() {
	if m.missing.Add(-1) == 0 {
		close(m.all)
	}
}

func (m *barrier) wait(ctx context.Context) error {
	m.arrive()
	select {
	case <-m.all:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A member is one of the stacks with its servers.
type member struct {
	s    *vdestack.Stack
	site *site
}

// addresses returns the addresses of a member.
func addresses(i int) []string {
	return []string{fmt.Sprintf("10.0.0.%d", i+1), fmt.Sprintf("fc00::%d", i+1)}
}

func newMember(t *testing.T, vnl string, i int) *member {
	t.Helper()
	a := addresses(i)
	s := open(t, vnl, a[0]+"/24", a[1]+"/64")
	// With this many stacks an answer may take longer than the three seconds after which
	// the kernel takes a neighbour for dead.
	for _, name := range []string{"net.ipv4.neigh.vde0.mcast_solicit", "net.ipv6.neigh.vde0.mcast_solicit"} {
		if err := s.Sysctl(name, "20"); err != nil {
			t.Error(err)
		}
	}
	ln := testenv.Must(s.Listen("tcp", ":80"))(t)
	p := testenv.Must(s.ListenPacket("udp", ":7"))(t)
	echo(t, p)
	// Without TLS, whose hundreds of handshakes would take most of the time.
	m := &member{s, protocols[0].site(t, ln, s)}
	m.site.mux.HandleFunc("/who", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, i) })
	return m
}

// check talks to the servers of a member.
func (m *member) check(t *testing.T, host string, who int) {
	t.Helper()
	site := *m.site
	site.url = "http://" + net.JoinHostPort(host, "80")
	resp, err := site.Get(site.url + "/who")
	if err != nil {
		t.Error(err)
		return
	}
	if got, want := text(resp), fmt.Sprint(who); got != want {
		t.Errorf("%s is number %s, want %s", host, got, want)
	}
	if err := site.echo(payload{uint64(who), 20000}); err != nil {
		t.Errorf("%s: %v", host, err)
	}
	c, err := m.s.Dial("udp", net.JoinHostPort(host, "7"))
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	if err := ask(c.(*net.UDPConn), payload{uint64(who), 5000}.bytes()); err != nil {
		t.Errorf("%s: %v", host, err)
	}
}

// TestThousand has 1,000 connections of one listener at once, each with payloads in both
// directions.
func TestThousand(t *testing.T) {
	testenv.Long(t)
	guard(t)
	const connections = 1000
	testenv.NeedDescriptors(t, 2*connections+200)
	// A few packets each, because all of them together exceed the queues.
	const size = 4000
	for _, r := range ethernet(t) {
		t.Run(r.name, func(t *testing.T) {
			ctx := testenv.Context(t)
			ln := r.listen(t)
			var wg sync.WaitGroup
			open := newBarrier(2 * connections)
			exchange := func(c *net.TCPConn, send, receive payload) error {
				defer c.Close()
				if err := open.wait(ctx); err != nil {
					return fmt.Errorf("not all are open: %w", err)
				}
				sent := make(chan error, 1)
				go func() { sent <- send.send(c) }()
				return errors.Join(receive.check(c), <-sent)
			}
			wg.Go(func() {
				ln.SetDeadline(time.Now().Add(testenv.Timeout))
				for range connections {
					c, err := ln.AcceptTCP()
					if err != nil {
						t.Error(err)
						open.arrive()
						continue
					}
					c.SetDeadline(time.Now().Add(testenv.Timeout))
					wg.Go(func() {
						// The port identifies the connection.
						seed := uint64(c.RemoteAddr().(*net.TCPAddr).Port)
						if err := exchange(c, payload{seed, size}, payload{seed + 1<<16, size}); err != nil {
							t.Errorf("server, connection %d: %v", seed, err)
						}
					})
				}
			})
			for range connections {
				wg.Go(func() {
					c, err := r.dial(ctx, ln.Addr().String())
					if err != nil {
						t.Error(err)
						open.arrive()
						return
					}
					seed := uint64(c.LocalAddr().(*net.TCPAddr).Port)
					if err := exchange(c, payload{seed + 1<<16, size}, payload{seed, size}); err != nil {
						t.Errorf("client, connection %d: %v", seed, err)
					}
				})
			}
			wg.Wait()
		})
	}
}
