package soak

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// resend is how long an answer to a packet is waited for.
const resend = 200 * time.Millisecond

// inside returns an error if a socket is not in the stack.
func (m *member) inside(c any) error {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	var cookie uint64
	cerr := raw.Control(func(fd uintptr) {
		cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	})
	switch {
	case cerr != nil:
		return cerr
	case err != nil:
		return err
	case cookie != m.cookie:
		return fmt.Errorf("%T is in the namespace %d, not in %d of the stack", c, cookie, m.cookie)
	}
	return nil
}

// listen listens at random for one family or both, by the stack's methods or by its hook.
// It returns the addresses at which b reaches a, and its name if b knows it.
func (t *task) listen(a, b *member) (net.Listener, []string, error) {
	network, family := "tcp", t.rng.IntN(3)
	host := ""
	if family < 2 {
		network += []string{"4", "6"}[family]
		if t.chance(2) {
			host = a.addrs[family].String()
		}
	}
	local := net.JoinHostPort(host, "0")
	lc := vdestack.ListenConfig{Stack: a.st}
	lc.SetMultipathTCP(t.chance(2))
	listen := lc.Listen
	if host != "" && t.chance(3) {
		lc.Control = a.st.Control
		listen = lc.ListenConfig.Listen
	}
	ln, err := listen(t.ctx, network, local)
	if err != nil {
		return nil, nil, err
	}
	if err := a.inside(ln); err != nil {
		ln.Close()
		return nil, nil, err
	}
	ln.(*net.TCPListener).SetDeadline(t.deadline())
	port := strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)
	var remote []string
	for i, addr := range a.addrs {
		if family == 2 || family == i {
			remote = append(remote, net.JoinHostPort(addr.String(), port))
		}
	}
	for _, known := range b.known {
		if known == a {
			// It has addresses of both families, one of which may refuse.
			remote = append(remote, net.JoinHostPort(a.name(), port))
		}
	}
	return ln, remote, nil
}

// dial connects from b to one of the addresses.
func (t *task) dial(b *member, remote []string) (net.Conn, error) {
	addr := remote[t.rng.IntN(len(remote))]
	host, _, _ := net.SplitHostPort(addr)
	d := vdestack.Dialer{Stack: b.st}
	d.SetMultipathTCP(t.chance(3))
	dial := d.DialContext
	if net.ParseIP(host) != nil && t.chance(3) {
		d.ControlContext = b.st.ControlContext
		dial = d.Dialer.DialContext
	}
	c, err := dial(t.ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(t.deadline())
	if err := b.inside(c); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// doTCP moves payloads over a stream from b to a and back.
func (t *task) doTCP(a, b *member) error {
	ln, remote, err := t.listen(a, b)
	if err != nil {
		return wrap("listening", err)
	}
	defer ln.Close()
	echo, rng, size := t.chance(3), t.soak.rand(t.rng.Uint64()), randomSize(t.rng, maxPayload)
	served := make(chan error, 1)
	go func() {
		served <- func() error {
			c, err := ln.Accept()
			if err != nil {
				return wrap("accepting", err)
			}
			defer c.Close()
			c.SetDeadline(t.deadline())
			if echo {
				_, err := io.Copy(c, c) // splices
				return wrap("echoing", err)
			}
			if err := receivePayload(c); err != nil {
				return fmt.Errorf("receiving at the server: %w", err)
			}
			return wrap("sending by the server", t.sendPayload(c, rng, size))
		}()
	}()
	err = func() error {
		c, err := t.dial(b, remote)
		if err != nil {
			ln.Close() // ends Accept
			return err
		}
		defer c.Close()
		sent := make(chan error, 1)
		rng, size := t.soak.rand(t.rng.Uint64()), randomSize(t.rng, maxPayload)
		go func() {
			err := t.sendPayload(c, rng, size)
			if err == nil {
				err = c.(*net.TCPConn).CloseWrite()
			}
			sent <- wrap("sending by the client", err)
		}()
		err = receivePayload(c)
		if err == nil {
			if n, end := c.Read(make([]byte, 1)); n != 0 || end != io.EOF {
				err = fmt.Errorf("%d bytes, %w, instead of the end", n, end)
			}
		}
		if err != nil {
			c.Close() // otherwise sending waits for its deadline
		}
		return errors.Join(wrap("receiving at the client", err), <-sent)
	}()
	return errors.Join(err, <-served)
}

// wrap adds to an error what was being done; nil stays nil.
func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// doUDP sends packets from one stack to another, which sends them back. Lost packets are
// sent again.
func (t *task) doUDP(a, b *member) error {
	i := t.rng.IntN(2)
	network, host := "udp"+[]string{"4", "6"}[i], ""
	if t.chance(2) {
		host = a.addrs[i].String()
	}
	server, err := a.st.ListenPacket(network, net.JoinHostPort(host, "0"))
	if err != nil {
		return wrap("listening", err)
	}
	if err := a.inside(server); err != nil {
		server.Close()
		return err
	}
	return serving(server, net.ErrClosed, func() error { return echoPackets(server) }, func() error {
		to := &net.UDPAddr{IP: a.addrs[i].AsSlice(), Port: server.LocalAddr().(*net.UDPAddr).Port}
		c, err := b.st.DialContext(t.ctx, network, to.String())
		if err != nil {
			return err
		}
		defer c.Close()
		if err := b.inside(c); err != nil {
			return err
		}
		largest := 1400
		if t.chance(4) {
			largest = 8000 // in fragments
		}
		buf := make([]byte, 1<<16)
		for nth := range 1 + t.rng.IntN(20) {
			p := t.payload(randomSize(t.rng, largest))
			if err := t.roundTrip(c, p, buf); err != nil {
				return fmt.Errorf("packet %d of %d bytes: %w", nth, len(p), err)
			}
			t.bytes.Add(uint64(len(p)))
		}
		return nil
	})
}

// serving runs a server during use. The server ends with the given error when it is closed.
func serving(c io.Closer, closed error, serve, use func() error) error {
	served := make(chan error, 1)
	go func() { served <- serve() }()
	err := use()
	c.Close()
	if serr := <-served; !errors.Is(serr, closed) {
		err = errors.Join(err, wrap("serving", serr))
	}
	return err
}

func echoPackets(pc net.PacketConn) error {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err == nil {
			if err = checkPacket(buf[:n]); err == nil {
				_, err = pc.WriteTo(buf[:n], from)
			}
		}
		if err != nil {
			return err
		}
	}
}

// roundTrip sends a packet until it comes back.
func (t *task) roundTrip(c net.Conn, p, buf []byte) error {
	for {
		if _, err := c.Write(p); err != nil {
			return err
		}
		c.SetReadDeadline(time.Now().Add(resend))
		for {
			n, err := c.Read(buf)
			if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
				if t.ctx.Err() != nil {
					return fmt.Errorf("no answer: %w", t.ctx.Err())
				}
				break
			}
			if err != nil {
				return err
			}
			if bytes.Equal(buf[:n], p) {
				return nil
			}
			if err := checkPacket(buf[:n]); err != nil {
				return err
			}
		}
	}
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// doHTTP posts a payload to a server that sends it back.
func (t *task) doHTTP(a, b *member) error {
	ln, remote, err := t.listen(a, b)
	if err != nil {
		return wrap("listening", err)
	}
	srv := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Write(body)
	})}
	return serving(srv, http.ErrServerClosed, func() error { return srv.Serve(ln) }, func() error {
		client := b.st.HTTPClient()
		defer client.CloseIdleConnections()
		pr, pw := io.Pipe()
		rng, size := t.soak.rand(t.rng.Uint64()), randomSize(t.rng, maxPayload)
		go func() { pw.CloseWithError(t.sendPayload(pw, rng, size)) }()
		defer pr.Close()
		req, err := http.NewRequestWithContext(t.ctx, "POST", "http://"+remote[t.rng.IntN(len(remote))], pr)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		return receivePayload(resp.Body)
	})
}

// doRefused dials a port that nobody listens on, or an address that nobody has.
func (t *task) doRefused(a, b *member) error {
	i := t.rng.IntN(2)
	if t.chance(2) && !a.net.loopback() {
		v4, v6 := a.net.absent()
		addr := net.JoinHostPort([]string{v4.String(), v6.String()}[i], "80")
		ctx, cancel := context.WithTimeout(t.ctx, time.Duration(t.rng.IntN(100))*time.Millisecond)
		defer cancel()
		err := testenv.Closing(b.st.DialContext(ctx, "tcp", addr))
		if err == nil {
			return fmt.Errorf("connected to %s, where nobody is", addr)
		}
		if isTimeout(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, unix.EHOSTUNREACH) {
			return nil
		}
		return err
	}
	// All listeners have ports of the ephemeral range.
	err := testenv.Closing(b.st.DialContext(t.ctx, "tcp", net.JoinHostPort(a.addrs[i].String(), "9")))
	if err == nil {
		return errors.New("connected to a port where nobody listens")
	}
	if errors.Is(err, unix.ECONNREFUSED) {
		return nil
	}
	return err
}

// doForget leaves a listener and a connection to the garbage collector.
func (t *task) doForget(a, b *member) error {
	ln, remote, err := t.listen(a, b)
	if err != nil {
		return err
	}
	_, err = t.dial(b, remote)
	_ = ln.Addr() // keeps it open until here
	return err
}

// doMulticast sends packets to a group that a stack has joined, until one arrives.
func (t *task) doMulticast(a, b *member) error {
	if a.net.loopback() {
		return errSkip
	}
	u := t.unique()
	network, i := "udp4", 0
	group := netip.AddrFrom4([4]byte{239, u[1], u[2], u[3]})
	if t.chance(2) {
		network, i = "udp6", 1
		group = netip.AddrFrom16([16]byte{0: 0xff, 1: 5, 12: u[0], 13: u[1], 14: u[2], 15: u[3]})
	}
	to := netip.AddrPortFrom(group, uint16(1024+t.rng.IntN(30000)))
	pc, err := a.st.ListenMulticastUDP(network, "vde0", to)
	if err != nil {
		return wrap("listening", err)
	}
	defer pc.Close()
	if err := a.inside(pc); err != nil {
		return err
	}
	// The source address determines the interface.
	d := vdestack.Dialer{Stack: b.st}
	d.LocalAddr = &net.UDPAddr{IP: b.addrs[i].AsSlice()}
	remote := to
	if i == 1 {
		remote = netip.AddrPortFrom(group.WithZone("vde0"), to.Port())
	}
	c, err := d.DialContext(t.ctx, network, remote.String())
	if err != nil {
		return err
	}
	defer c.Close()
	p := t.payload(randomSize(t.rng, 1400))
	buf := make([]byte, 1<<16)
	for {
		if _, err := c.Write(p); err != nil {
			return wrap("sending", err)
		}
		pc.SetReadDeadline(time.Now().Add(resend))
		n, err := pc.Read(buf)
		if err == nil {
			return checkPacket(buf[:n])
		}
		if !isTimeout(err) || t.ctx.Err() != nil {
			return wrap("receiving", err)
		}
	}
}
