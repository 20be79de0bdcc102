package vdestack

import (
	"context"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vdestack/vdestack/internal/sockets"
)

const (
	// fallbackDelay is how long the preferred family has before the other one starts, as
	// in package net (RFC 8305).
	fallbackDelay = 300 * time.Millisecond
	// minAttempt is the least time for one of several addresses.
	minAttempt = 2 * time.Second
)

// A Dialer is a [net.Dialer] that connects in a stack. The fields of net.Dialer mean
// the same, but Resolver is not used: names, zones and the order of addresses are the
// stack's. Control functions see the socket of the stack.
type Dialer struct {
	net.Dialer
	// Stack is where to connect. Nil is an error, [ErrNoStack]: for the host, use a
	// net.Dialer.
	Stack *Stack
}

// Dial connects to the address, see [net.Dial].
func (d *Dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialContext connects to the address, see [net.Dialer.DialContext].
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if err := d.Stack.check(); err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Source: d.LocalAddr, Err: err}
	}
	start := time.Now()
	c, err := d.dial(ctx, network, address)
	c, err = track(d.Stack, c, err)
	if err == nil {
		d.Stack.nameZones(c.LocalAddr(), c.RemoteAddr())
	}
	if closed := d.Stack.closed(); err != nil && closed != nil {
		err = &net.OpError{Op: "dial", Net: network, Source: d.LocalAddr, Err: closed}
	}
	return c, d.Stack.explain(explainNeighbors(err, start), network, address)
}

// DialTCP connects to the address, see [net.Dialer.DialTCP]. Like DialUDP, DialIP and
// DialUnix, it hides the method of net.Dialer, which would connect on the host.
func (d *Dialer) DialTCP(ctx context.Context, network string, laddr, raddr netip.AddrPort) (*net.TCPConn, error) {
	var local net.Addr
	if laddr != (netip.AddrPort{}) {
		local = net.TCPAddrFromAddrPort(laddr)
	}
	return dialAs[*net.TCPConn](ctx, d, "tcp", network, local, net.TCPAddrFromAddrPort(raddr))
}

// DialUDP connects to the address, see [net.Dialer.DialUDP].
func (d *Dialer) DialUDP(ctx context.Context, network string, laddr, raddr netip.AddrPort) (*net.UDPConn, error) {
	var local net.Addr
	if laddr != (netip.AddrPort{}) {
		local = net.UDPAddrFromAddrPort(laddr)
	}
	return dialAs[*net.UDPConn](ctx, d, "udp", network, local, net.UDPAddrFromAddrPort(raddr))
}

// DialIP connects a raw socket to the address, see [net.Dialer.DialIP].
func (d *Dialer) DialIP(ctx context.Context, network string, laddr, raddr netip.Addr) (*net.IPConn, error) {
	var local net.Addr
	if laddr.IsValid() {
		local = ipAddr(laddr)
	}
	return dialAs[*net.IPConn](ctx, d, "ip", network, local, ipAddr(raddr))
}

func ipAddr(a netip.Addr) *net.IPAddr { return &net.IPAddr{IP: a.AsSlice(), Zone: a.Zone()} }

// DialUnix connects to the address, see [net.Dialer.DialUnix].
func (d *Dialer) DialUnix(ctx context.Context, network string, laddr, raddr *net.UnixAddr) (*net.UnixConn, error) {
	var local net.Addr
	if laddr != nil {
		local = laddr
	}
	if raddr == nil {
		raddr = &net.UnixAddr{}
	}
	return dialAs[*net.UnixConn](ctx, d, "unix", network, local, raddr)
}

// dialAs is DialContext for networks of one kind, from the given local address.
func dialAs[C net.Conn](ctx context.Context, d *Dialer, kind, network string, local, remote net.Addr) (conn C, err error) {
	if !strings.HasPrefix(network, kind) || kind == "ip" && !isIP(network) {
		return conn, &net.OpError{Op: "dial", Net: network, Source: local, Addr: remote, Err: net.UnknownNetworkError(network)}
	}
	typed := *d
	typed.LocalAddr = local
	c, err := typed.DialContext(ctx, network, remote.String())
	if err != nil {
		return conn, err
	}
	return c.(C), nil
}

func (d *Dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if ctx == nil {
		panic("nil context") // as net.Dialer
	}
	if isIP(network) {
		return d.dialIP(ctx, network, address)
	}
	nd := d.Dialer
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Source: d.LocalAddr, Err: err}
	}
	var err error
	if nd.LocalAddr, err = d.Stack.zoneOf(nd.LocalAddr); err != nil {
		return fail(err)
	}
	// The time limits include everything.
	var cancel context.CancelFunc
	if nd.Timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, nd.Timeout)
		defer cancel()
		nd.Timeout = 0
	}
	if !nd.Deadline.IsZero() {
		ctx, cancel = context.WithDeadline(ctx, nd.Deadline)
		defer cancel()
		nd.Deadline = time.Time{}
	}
	host, port, ok := d.name(network, address)
	if !ok {
		if host != "" { // a literal with a zone
			ip, err := d.Stack.remoteZone(netip.MustParseAddr(host))
			if err != nil {
				return fail(err)
			}
			address = net.JoinHostPort(ip.String(), port)
		}
		return d.dialLiteral(ctx, nd, network, address)
	}

	addrs, err := d.Stack.LookupNetIP(ctx, "ip"+family(network), host)
	if err == nil {
		addrs, err = matching(addrs, d.LocalAddr, host)
	}
	if err != nil {
		return fail(err)
	}
	addrs = slices.Clone(addrs) // they may belong to DNS.Hosts
	for i, a := range addrs {
		if addrs[i], err = d.Stack.remoteZone(a); err != nil {
			return fail(err)
		}
	}
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		return d.dialLiteral(ctx, nd, network, address)
	}
	r := race{network: network, port: port, dial: dial, delay: d.FallbackDelay}
	return r.run(ctx, addrs)
}

// dialLiteral connects to an address without a name, by nd, which has the local address.
// ctx has the time limits.
func (d *Dialer) dialLiteral(ctx context.Context, nd net.Dialer, network, address string) (net.Conn, error) {
	var begun *os.File
	if begins(ctx, &nd, network) {
		var c *net.TCPConn
		if c, begun = sockets.Begin(ctx, d.Stack, address); c != nil {
			if nd.KeepAlive > 0 {
				c.SetKeepAlivePeriod(nd.KeepAlive)
			}
			return c, nil
		}
		if begun != nil {
			defer begun.Close()
		}
	}
	nd.Control, nd.ControlContext = nil, func(ctx context.Context, network, address string, c syscall.RawConn) error {
		ctx = fresh(ctx, network, nd.MultipathTCP(), begun)
		if begun != nil {
			defer begun.Close()
			begun = nil // package net may try again
		}
		return chainControl(ctx, d.Stack, d.Control, d.ControlContext)(network, address, c)
	}
	return nd.DialContext(ctx, network, address)
}

// begins reports whether [sockets.Begin] can connect just as package net does: that gives
// a connection made of a file the network "tcp" and the usual options.
func begins(ctx context.Context, d *net.Dialer, network string) bool {
	//lint:ignore SA1019 a caller may have set it
	if d.Cancel != nil {
		return false
	}
	deadline, _ := ctx.Deadline()
	return network == "tcp" && d.LocalAddr == nil && d.Control == nil && d.ControlContext == nil && !d.MultipathTCP() &&
		d.KeepAlive >= 0 && !d.KeepAliveConfig.Enable &&
		d.Timeout >= 0 && !passed(deadline) && ctx.Err() == nil && httptrace.ContextClientTrace(ctx) == nil
}

// fresh tells the hook of a stack what package net's socket is, if that is certain.
func fresh(ctx context.Context, network string, multipath bool, begun *os.File) context.Context {
	if strings.HasPrefix(network, "tcp") && !multipath || strings.HasPrefix(network, "udp") {
		return sockets.Fresh{Context: ctx, Begun: begun}
	}
	return ctx
}

func passed(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

// name splits the address of a network that has hosts. ok says that the host is a name
// to be looked up; otherwise it is a literal with a zone, or empty.
func (d *Dialer) name(network, address string) (host, port string, ok bool) {
	if !strings.HasPrefix(network, "tcp") && !strings.HasPrefix(network, "udp") {
		return "", "", false
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return "", "", false // package net returns an error, or connects to localhost
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.Zone() == "" {
			host = ""
		}
		return host, port, false
	}
	return host, port, true
}

// chainControl returns a Control function that moves a socket into the stack, and then
// calls the caller's own, as package net chooses it.
func chainControl(ctx context.Context, s *Stack, control sockets.ControlFunc,
	controlContext func(context.Context, string, string, syscall.RawConn) error,
) sockets.ControlFunc {
	return func(network, address string, c syscall.RawConn) error {
		if err := s.st.ControlContext(ctx, network, address, c); err != nil {
			return err
		}
		switch {
		case controlContext != nil:
			return controlContext(ctx, network, address, c)
		case control != nil:
			return control(network, address, c)
		}
		return nil
	}
}

// family returns "4" or "6" for networks of one family.
func family(network string) string {
	if n := len(network); network[n-1] == '4' || network[n-1] == '6' {
		return network[n-1:]
	}
	return ""
}

// ipOf returns the IP address of a TCP or UDP address, if it has one.
func ipOf(addr net.Addr) (ip netip.Addr) {
	if a, ok := addr.(interface{ AddrPort() netip.AddrPort }); ok {
		ip = a.AddrPort().Addr().Unmap()
	}
	return ip
}

// matching returns the addresses of the family of local, if that has one.
func matching(addrs []netip.Addr, local net.Addr, host string) ([]netip.Addr, error) {
	ip := ipOf(local)
	if !ip.IsValid() || ip.WithZone("").IsUnspecified() {
		return addrs, nil
	}
	same := slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return a.Is4() != ip.Is4() })
	if len(same) == 0 {
		return nil, &net.AddrError{Err: "no address of the local address's family", Addr: host}
	}
	return same, nil
}

// A race connects to the addresses of a name: one after the other, and the two families
// at the same time (Happy Eyeballs, RFC 8305, as in package net).
type race struct {
	network, port string
	dial          func(ctx context.Context, network, address string) (net.Conn, error)
	delay         time.Duration
}

func (r *race) run(ctx context.Context, addrs []netip.Addr) (net.Conn, error) {
	first, second := addrs, []netip.Addr(nil)
	if r.network == "tcp" && r.delay >= 0 {
		first = nil
		for _, a := range addrs {
			if a.Is4() == addrs[0].Is4() {
				first = append(first, a)
			} else {
				second = append(second, a)
			}
		}
	}
	if len(second) == 0 {
		return r.serial(ctx, first)
	}

	type result struct {
		net.Conn
		error
		fallback bool
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan result) // unbuffered: a loser closes its connection
	returned := make(chan struct{})
	defer close(returned)
	start := func(addrs []netip.Addr, fallback bool) {
		c, err := r.serial(ctx, addrs)
		select {
		case results <- result{c, err, fallback}:
		case <-returned:
			if c != nil {
				c.Close()
			}
		}
	}
	go start(first, false)
	delay := r.delay
	if delay == 0 {
		delay = fallbackDelay
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	var failed error
	running, fallback := 1, false
	for {
		select {
		case <-timer.C:
		case res := <-results:
			running--
			if res.error == nil {
				return res.Conn, nil
			}
			if !res.fallback || failed == nil {
				failed = res.error // the preferred family's, if both fail
			}
			if running == 0 && fallback {
				return nil, failed
			}
		}
		if !fallback {
			fallback = true
			running++
			go start(second, true)
		}
	}
}

// serial tries one address after the other, and divides the time among them.
func (r *race) serial(ctx context.Context, addrs []netip.Addr) (net.Conn, error) {
	var first error
	for i, a := range addrs {
		attempt, cancel := ctx, context.CancelFunc(func() {})
		if deadline, ok := ctx.Deadline(); ok && i < len(addrs)-1 {
			share := max(time.Until(deadline)/time.Duration(len(addrs)-i), minAttempt)
			attempt, cancel = context.WithTimeout(ctx, share)
		}
		c, err := r.dial(attempt, r.network, net.JoinHostPort(a.String(), r.port))
		cancel()
		if err == nil {
			return c, nil
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, first
}

// Dial connects in the stack, see [net.Dial] and [Dialer].
func (s *Stack) Dial(network, address string) (net.Conn, error) {
	return s.DialContext(context.Background(), network, address)
}

// DialContext connects in the stack, see [net.Dialer.DialContext] and [Dialer]. It is the
// Dial function for [http.Transport] and many others.
func (s *Stack) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return (&Dialer{Stack: s}).DialContext(ctx, network, address)
}

// Transport returns a new transport that connects in the stack, with the settings of
// [http.DefaultTransport] but no proxy, as the environment names the host's.
func (s *Stack) Transport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil
	d := net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	t.DialContext = (&Dialer{Dialer: d, Stack: s}).DialContext
	return t
}

// HTTPClient returns a new client with a new [Stack.Transport].
func (s *Stack) HTTPClient() *http.Client { return &http.Client{Transport: s.Transport()} }

// Dial connects in the default stack, or on the host if there is none, see
// [SetDefault].
func Dial(network, address string) (net.Conn, error) {
	return DialContext(context.Background(), network, address)
}

// DialContext connects in the default stack, or on the host if there is none, see
// [SetDefault].
func DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if s := Default(); s != nil {
		return s.DialContext(ctx, network, address)
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}
