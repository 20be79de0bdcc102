package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// afterClose is how long a call on a stack may continue after the stack is closed.
const afterClose = 5 * time.Second

// A call waits on something of a stack that is closed meanwhile.
type call struct {
	name   string
	closed bool // its error must be net.ErrClosed; else it must be excused
	do     func() error
}

// doChaos opens two stacks for itself and closes one during calls of all kinds. Each must
// return soon.
func (t *task) doChaos() error {
	n := t.reserve(2)
	if n == nil {
		return errSkip
	}
	victim, err := t.open(n)
	if err != nil {
		t.release(n, 2)
		return err
	}
	defer t.end(victim)
	other := victim
	if n.loopback() {
		t.release(n, 1)
	} else {
		if other, err = t.open(n); err != nil {
			t.release(n, 1)
			return err
		}
		defer t.end(other)
	}

	var cleanup []io.Closer
	defer func() {
		for _, c := range cleanup {
			c.Close()
		}
	}()
	calls, err := t.calls(victim, other, &cleanup)
	if err != nil {
		return err
	}
	t.rng.Shuffle(len(calls), func(i, j int) { calls[i], calls[j] = calls[j], calls[i] })
	calls = calls[:1+t.rng.IntN(len(calls))]
	type result struct {
		call
		err   error
		early bool // before Close had returned
	}
	results := make(chan result, len(calls))
	for _, c := range calls {
		go func() {
			err := c.do()
			results <- result{c, err, !victim.closed.Load()}
		}()
	}
	if t.chance(4) {
		runtime.GC() // must not close what calls wait on
	}
	time.Sleep(time.Duration(t.rng.IntN(30000)) * time.Microsecond)

	victim.closing.Store(true)
	var wg sync.WaitGroup
	for range 1 + t.rng.IntN(3) {
		wg.Go(func() {
			if err := victim.close(); err != nil {
				t.Errorf("closing %v: %v", victim, err)
			}
		})
	}
	wg.Wait()
	limit := time.After(afterClose)
	var errs []error
	for i := range calls {
		select {
		case r := <-results:
			if r.early && (isTimeout(r.err) || errors.Is(r.err, unix.EHOSTUNREACH)) {
				continue // nobody answered, for some seconds
			}
			if r.err == nil || r.closed && !errors.Is(r.err, net.ErrClosed) || !excused(r.err) {
				// Not excused by the end of the stack.
				errs = append(errs, fmt.Errorf("%s in a closed stack: %v", r.name, r.err))
			}
		case <-limit:
			t.Errorf("%v: %d of %d calls have not returned %v after Close\n%s", t, len(calls)-i, len(calls), afterClose, goroutines())
			return nil
		}
	}
	if err := errors.Join(errs...); err != nil {
		t.Errorf("%v: %v", t, err)
	}
	return nil
}

// calls prepares the calls on a stack.
func (t *task) calls(victim, other *member, cleanup *[]io.Closer) ([]call, error) {
	forever := context.Background()
	var calls []call
	keep := func(cs ...io.Closer) { *cleanup = append(*cleanup, cs...) }
	add := func(name string, closed bool, do func() error) { calls = append(calls, call{name, closed, do}) }
	again := func(f func() error) func() error {
		return func() error {
			for {
				if err := f(); err != nil {
					return err
				}
			}
		}
	}

	ln, err := victim.st.Listen("tcp", ":0")
	if err != nil {
		return nil, err
	}
	keep(ln)
	add("accept", true, func() error { _, err := ln.Accept(); return err })

	// Connections of all kinds: those that were dialled return net.ErrClosed.
	for _, dialled := range []bool{true, false} {
		name, server, client := "dialled", other, victim
		if !dialled {
			name, server, client = "accepted", victim, other
		}
		c, s, err := t.connection(server, client)
		if err != nil {
			return nil, fmt.Errorf("a connection that is %s: %w", name, err)
		}
		keep(c, s)
		ours := c
		if !dialled {
			ours = s
		}
		if t.chance(2) {
			add("read, "+name, dialled, func() error { _, err := ours.Read(make([]byte, 10)); return err })
		} else {
			add("write, "+name, dialled, again(func() error { _, err := ours.Write(make([]byte, 1<<16)); return err }))
		}
	}

	// The hook alone.
	hook := net.ListenConfig{Control: victim.st.Control}
	local := net.JoinHostPort(victim.addrs[t.rng.IntN(2)].String(), "0")
	hooked, err := hook.Listen(forever, "tcp", local)
	if err != nil {
		return nil, err
	}
	keep(hooked)
	add("accept, hook", false, func() error { _, err := hooked.Accept(); return err })
	packets, err := hook.ListenPacket(forever, "udp", local)
	if err != nil {
		return nil, err
	}
	keep(packets)
	add("udp, hook", false, func() error { _, _, err := packets.ReadFrom(make([]byte, 10)); return err })

	// A server that does not answer.
	web, err := other.st.Listen("tcp", net.JoinHostPort(other.addrs[t.rng.IntN(2)].String(), "0"))
	if err != nil {
		return nil, err
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })}
	go srv.Serve(web)
	keep(srv)
	// A server in the same stack ends with it, and the client may notice that first.
	add("http", other != victim, func() error {
		client := victim.st.HTTPClient()
		defer client.CloseIdleConnections()
		resp, err := client.Get("http://" + web.Addr().String())
		if err == nil {
			resp.Body.Close()
		}
		return err
	})

	udp, err := victim.st.ListenPacket("udp", ":0")
	if err != nil {
		return nil, err
	}
	keep(udp)
	add("udp", true, func() error { _, _, err := udp.ReadFrom(make([]byte, 10)); return err })
	add("icmp", true, func() error {
		pc, err := victim.st.ListenPacket("ip4:icmp", "")
		if err != nil {
			return err
		}
		defer pc.Close()
		for {
			if _, _, err := pc.ReadFrom(make([]byte, 10)); err != nil {
				return err
			}
		}
	})
	if !victim.net.loopback() {
		absent, _ := victim.net.absent()
		add("dial", true, again(func() error { return testenv.Closing(victim.st.Dial("tcp", netip.AddrPortFrom(absent, 80).String())) }))
		group, err := victim.st.ListenMulticastUDP("udp", "vde0", netip.MustParseAddrPort("239.1.2.3:4700"))
		if err != nil {
			return nil, err
		}
		keep(group)
		add("multicast", true, func() error { _, _, err := group.ReadFrom(make([]byte, 10)); return err })
		add("resolver", true, func() error {
			_, err := victim.st.Resolver().LookupHost(forever, "nobody.test")
			return resolved(err)
		})
		add("look-up", false, func() error { _, err := victim.st.LookupNetIP(forever, "ip", "nobody.test"); return err })
	}

	add("sleep", false, func() error { return victim.st.Command(forever, "sleep", "1000").Run() })
	add("pipe", false, func() error {
		cmd := victim.st.Command(forever, "sh", "-c", "sleep 1000 & wait")
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		io.Copy(io.Discard, out)
		return cmd.Wait()
	})
	add("orphan", false, func() error {
		// The command ends, its child does not.
		cmd := victim.st.Command(forever, "sh", "-c", "sleep 1000 &")
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		defer r.Close()
		cmd.Stdout = w
		err = cmd.Run()
		w.Close()
		if err == nil {
			_, err = io.Copy(io.Discard, r)
			return errors.Join(err, io.EOF)
		}
		return err
	})
	add("commands", false, again(func() error { return victim.st.Command(forever, "true").Run() }))
	add("run", false, again(func() error { return victim.st.Run(forever, "true; true") }))
	add("sysctl", true, again(func() error { return victim.st.Sysctl("net.ipv4.ip_default_ttl", "65") }))
	add("namespace", true, again(func() error { return testenv.Closing(victim.st.NetNS()) }))
	add("listen", true, again(func() error { return testenv.Closing(victim.st.Listen("tcp", ":0")) }))
	add("sockets", true, again(func() error { return testenv.Closing(victim.st.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)) }))
	add("netlink", true, again(func() error {
		nl, err := victim.st.RTNL()
		if err != nil {
			return err
		}
		defer nl.Close()
		_, err = nl.Links()
		return err
	}))
	nl, err := victim.st.RTNL()
	if err != nil {
		return nil, err
	}
	keep(nl)
	add("watch", true, func() error {
		for _, err := range nl.Watch(forever) {
			if err != nil {
				return err
			}
		}
		return errors.New("the watch ended without a word")
	})
	return calls, nil
}

// connection connects client to server.
func (t *task) connection(server, client *member) (c, s net.Conn, err error) {
	ln, err := server.st.Listen("tcp", net.JoinHostPort(server.addrs[t.rng.IntN(2)].String(), "0"))
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	ln.(*net.TCPListener).SetDeadline(t.deadline())
	if c, err = client.st.DialContext(t.ctx, "tcp", ln.Addr().String()); err != nil {
		return nil, nil, err
	}
	if s, err = ln.Accept(); err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, s, nil
}

// doGC collects garbage while other workers use stacks.
func (t *task) doGC() error {
	if t.chance(4) {
		debug.FreeOSMemory()
	} else {
		runtime.GC()
	}
	return nil
}

// doStats checks that a stack still has its network.
func (t *task) doStats(m *member) error {
	for _, i := range m.st.Stats().Interfaces {
		if i.Err != nil {
			return fmt.Errorf("the network is gone: %w", i.Err)
		}
	}
	return nil
}
