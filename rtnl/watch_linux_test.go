package rtnl_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

// describe returns an event in one line.
func describe(e rtnl.Event) string {
	sign := "+"
	if e.Deleted {
		sign = "-"
	}
	switch {
	case e.Link != nil:
		return fmt.Sprintf("%slink %s %v", sign, e.Link.Name, e.Link.Flags&net.FlagUp != 0)
	case e.Addr != nil:
		return fmt.Sprintf("%saddr %v", sign, e.Addr.Prefix)
	case e.Route != nil:
		return fmt.Sprintf("%sroute %v %d", sign, e.Route.Dst, e.Route.Table)
	}
	return "nothing"
}

// TestWatch gets all changes since the call, in order, even those before the loop.
func TestWatch(t *testing.T) {
	netnstest.NoLeaks(t)
	c, _ := dial(t)
	events := c.Watch(testenv.Context(t))

	v0, v1 := upPair(t, c)
	check(t, c.RouteAdd(netip.Prefix{}, addr("10.0.0.254"), 0))
	check(t, c.RouteAdd(prefix("fd77::/64"), addr("fd00::9"), 0))
	check(t, c.RouteDel(netip.Prefix{}, addr("10.0.0.254"), 0))
	check(t, c.AddrDel(v0, prefix("10.0.0.1/24")))
	br := addLink(t, c, rtnl.LinkSpec{Name: "br", Kind: "bridge"})
	check(t, c.LinkSetMaster(v1, br))
	check(t, c.LinkSetMaster(v1, 0)) // the bridge reports that as a deleted link
	check(t, c.LinkDel(v0))

	want := []string{
		"+link v1 false", "+link v0 false", "+link lo true", "+addr 127.0.0.1/8", "+link v0 true", "+link v1 true",
		"+addr 10.0.0.1/24", "+route 10.0.0.0/24 254",
		"+route 0.0.0.0/0 254", "+route fd77::/64 254", "-route 0.0.0.0/0 254", "-addr 10.0.0.1/24",
		"+link br false", "-link v0 false",
	}
	var seen []string
	for e, err := range events {
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		s := describe(e)
		seen = append(seen, s)
		if len(want) > 0 && s == want[0] {
			want = want[1:]
		}
		if s == "-link v0 false" {
			break
		}
	}
	// The kernel reports new IPv6 addresses with a delay.
	if len(want) > 0 || !slices.Contains(seen, "-addr fd00::1/64") {
		t.Errorf("%v and fd00::1 did not come in their order in\n%s", want, strings.Join(seen, "\n"))
	}
	for e, err := range events {
		if !errors.Is(err, unix.EINVAL) {
			t.Errorf("a second loop got %v, %v, want EINVAL", e, err)
		}
	}
	check(t, c.Close())
}

// drain ranges over a watch until it ends and returns its last error.
func drain(events iter.Seq2[rtnl.Event, error]) (last error) {
	for _, err := range events {
		last = err
	}
	return last
}

// TestWatchEnds ends a watch in each way, which must leave nothing behind.
func TestWatchEnds(t *testing.T) {
	type events = iter.Seq2[rtnl.Event, error]
	tests := []struct {
		name string
		do   func(t *testing.T, c *rtnl.Conn, cancel func(), watch func() events)
	}{
		{"context, in the loop", func(t *testing.T, c *rtnl.Conn, cancel func(), watch func() events) {
			w := watch()
			go cancel()
			check(t, drain(w))
		}},
		{"context, in the body", func(t *testing.T, c *rtnl.Conn, cancel func(), watch func() events) {
			w := watch()
			check(t, c.LinkSetUp(1))
			n := 0
			for range w {
				n++
				cancel()
			}
			if n != 1 {
				t.Errorf("%d events, want 1", n)
			}
		}},
		{"context, never ranged over", func(t *testing.T, c *rtnl.Conn, cancel func(), watch func() events) {
			watch()
			cancel()
		}},
		{"context before the loop", func(t *testing.T, c *rtnl.Conn, cancel func(), watch func() events) {
			w := watch()
			cancel()
			check(t, drain(w))
		}},
		{"context done before", func(t *testing.T, c *rtnl.Conn, cancel func(), watch func() events) {
			cancel()
			check(t, drain(watch()))
		}},
		{"Close, in the loop", func(t *testing.T, c *rtnl.Conn, cancel func(), watch func() events) {
			w := watch()
			go c.Close()
			if err := drain(w); !errors.Is(err, net.ErrClosed) {
				t.Errorf("got %v, want net.ErrClosed", err)
			}
		}},
		{"Close, never ranged over", func(t *testing.T, c *rtnl.Conn, cancel func(), watch func() events) {
			watch()
			check(t, c.Close())
		}},
		{"after Close", func(t *testing.T, c *rtnl.Conn, cancel func(), watch func() events) {
			check(t, c.Close())
			if err := drain(watch()); !errors.Is(err, net.ErrClosed) {
				t.Errorf("got %v, want net.ErrClosed", err)
			}
		}},
		{"break", func(t *testing.T, c *rtnl.Conn, cancel func(), watch func() events) {
			w := watch()
			check(t, c.LinkSetUp(1))
			for range w {
				break
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			netnstest.NoLeaks(t)
			c, _ := dial(t)
			ctx, cancel := context.WithCancel(testenv.Context(t))
			defer cancel()
			tt.do(t, c, cancel, func() events { return c.Watch(ctx) })
			check(t, c.Close())
		})
	}
}

// TestWatchOverrun overruns a watch that is not read, which reports that and goes on.
func TestWatchOverrun(t *testing.T) {
	testenv.Long(t)
	c, _ := dial(t)
	v0, _ := upPair(t, c)
	events := c.Watch(testenv.Context(t))
	for range 3000 {
		check(t, c.AddrAdd(v0, prefix("10.1.0.1/24")))
		check(t, c.AddrDel(v0, prefix("10.1.0.1/24")))
	}
	overrun, next := 0, false
	for e, err := range events {
		if errors.Is(err, unix.ENOBUFS) {
			overrun++
			// Later changes are not lost.
			check(t, c.AddrAdd(v0, prefix("10.2.0.1/24")))
		} else if err != nil {
			t.Fatal(err)
		}
		if next = e.Addr != nil && e.Addr.Prefix == prefix("10.2.0.1/24"); next {
			break
		}
	}
	if overrun != 1 || !next {
		t.Errorf("%d overruns, next change seen: %v; want 1, true", overrun, next)
	}
}

// TestDialLeaks opens and closes connections to all sorts of SocketMakers.
func TestDialLeaks(t *testing.T) {
	netnstest.NoLeaks(t)
	st := newStack(t)
	makers := map[string]rtnl.SocketMaker{
		"host":  nil,
		"stack": st,
		// In the poller, as most files of the standard library are.
		"non-blocking": maker(func(domain, typ, proto int) (*os.File, error) {
			fd, err := unix.Socket(domain, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
			return os.NewFile(uintptr(fd), "socket"), err
		}),
	}
	for name, m := range makers {
		c, err := rtnl.Dial(m)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		runtime.GC() // runs finalizers that would close the socket
		if _, err := c.Links(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		check(t, c.Close())
		check(t, c.Close())
		if _, err := c.Links(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s, after Close: %v, want net.ErrClosed", name, err)
		}
	}
	bad := map[string]maker{
		"error":      func(int, int, int) (*os.File, error) { return nil, unix.EMFILE },
		"nil":        func(int, int, int) (*os.File, error) { return nil, nil },
		"no netlink": func(int, int, int) (*os.File, error) { return st.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0) },
		"stream":     func(int, int, int) (*os.File, error) { return st.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0) },
		"no rtnetlink": func(d, typ, _ int) (*os.File, error) {
			return st.Socket(d, typ, unix.NETLINK_GENERIC)
		},
		"no socket": func(int, int, int) (*os.File, error) { return os.Open("/proc/self/exe") },
		"closed": func(d, typ, proto int) (*os.File, error) {
			f, err := st.Socket(d, typ, proto)
			f.Close()
			return f, err
		},
	}
	for name, m := range bad {
		if c, err := rtnl.Dial(m); err == nil {
			t.Errorf("%s: no error", name)
			c.Close()
		} else if _, ok := errors.AsType[*rtnl.Error](err); !ok || name == "error" && !errors.Is(err, unix.EMFILE) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A maker is a function as a SocketMaker.
type maker func(domain, typ, proto int) (*os.File, error)

func (m maker) Socket(domain, typ, proto int) (*os.File, error) { return m(domain, typ, proto) }

// TestWatchNeighbors watches a neighbour come and go.
func TestWatchNeighbors(t *testing.T) {
	c, _ := dial(t)
	v0, _ := upPair(t, c)
	next, stop := iter.Pull2(c.Watch(t.Context()))
	defer stop()
	n := rtnl.Neighbor{IfIndex: v0, Addr: addr("10.0.0.9"), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}, State: rtnl.NeighborPermanent}
	check(t, c.NeighborAdd(n))
	for _, deleted := range []bool{false, true} {
		for {
			e, err, _ := next()
			check(t, err)
			if e.Neighbor != nil && e.Neighbor.Addr == n.Addr && e.Deleted == deleted {
				if !deleted && fmt.Sprint(*e.Neighbor) != fmt.Sprint(n) {
					t.Errorf("got %#v, want %#v", e.Neighbor, n)
				}
				break
			}
		}
		if !deleted {
			check(t, c.NeighborRemove(n))
		}
	}
}
