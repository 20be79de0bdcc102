package vdestack

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/vdestack/vdestack/internal/errtext"
	"github.com/vdestack/vdestack/internal/forward"
)

// ForwardOptions are the options of [Stack.ForwardIn] and [Stack.ForwardOut]. The zero
// ForwardOptions, or nil, has the defaults.
type ForwardOptions struct {
	// KeepSource has the server see each client's own address and port; ForwardIn only.
	// The server's address must be the stack's own, and one for each port of UDP. Other
	// machines in the stack's networks reach the server as before.
	//
	// It cannot be for clients with a loopback or link-local address, of another family,
	// or with an address in one of the stack's own networks: they are refused, and with
	// ProxyProtocol connected without. ForwardStats.SourceLost counts them.
	KeepSource bool
	// ProxyProtocol is the version, 1 or 2, of the PROXY protocol's header that says to
	// the server who the client is; TCP only. 0 sends none.
	ProxyProtocol int
	// MaxClients is how many connections, or flows of UDP, there may be at once. The
	// default is as many as a quarter of the process's descriptors suffices for: a
	// connection takes two, a flow one. Of flows with KeepSource it is 8192 at most.
	MaxClients int
	// DialTimeout is how long connecting may take; 30 seconds by default.
	DialTimeout time.Duration
	// UDPTimeout is how long a flow of UDP may be silent; 2 minutes by default. A flow
	// that the server has not answered ends after 30 seconds at most.
	UDPTimeout time.Duration
}

// ForwardStats are the counters of a [Forward]. In is from the client to the server.
type ForwardStats struct {
	Out     bool   // ForwardOut has made it: it listens in the stack
	Network string // as it was given, such as "tcp"
	Listen  string // where it listens, with the port, as Addr
	Server  string // as it was given

	Open     uint64 // connections or flows now, those that are being made included
	Accepted uint64 // clients so far
	Refused  uint64 // over MaxClients: connections reset, datagrams dropped
	Failed   uint64 // the server could not be reached, or KeepSource refused: connections reset
	// SourceLost counts clients whose address could not be kept.
	SourceLost uint64

	BytesIn, BytesOut uint64
	Datagrams         DatagramStats // of UDP
	// Err is the last error of a client or of the listener, which goes on.
	Err error
}

// MarshalJSON writes the error as text, or null.
func (s ForwardStats) MarshalJSON() ([]byte, error) {
	type fields ForwardStats // without this method
	return json.Marshal(struct {
		fields
		Err *string
	}{fields(s), errtext.Of(s.Err)})
}

// DatagramStats count datagrams: In is from the client to the server, Dropped what could
// not be sent on, of either direction.
type DatagramStats struct{ In, Out, Dropped uint64 }

// A Forward is a port that a stack shares with the host. The garbage collector does not
// end it.
type Forward struct {
	engine forwarder
	source *keptSource

	out             bool
	network, server string // as they were given
}

type forwarder interface {
	io.Closer
	Addr() net.Addr
	Stats() forward.Stats
}

// ForwardIn makes a server of the stack reachable on the host: it listens on hostAddr
// there, and connects each client to stackAddr in the stack:
//
//	in, err := st.ForwardIn(ctx, "tcp", "127.0.0.1:8080", "10.0.0.2:80", nil)
//
// ForwardOut is the other way round. Of both it is true:
//
//   - network is "tcp" or "udp", or one of "tcp4", "tcp6", "udp4" and "udp6". The addresses
//     are as for [net.Listen] and [net.Dial]: a port of 0 on the listening side is one that
//     is free, see [Forward.Addr]. Names of the server are looked up on its side: of TCP for
//     each client, of UDP once.
//   - On the host, "unix:PATH" is a unix socket ("unix:@NAME" an abstract one); the stack
//     still has TCP. It takes the place of a socket that a killed process has left, and is
//     removed at the end.
//   - The end of a client's data is passed on, and so are resets, in both directions; of a
//     unix socket, which has none, a reset is an end. Who reads slowly slows down the
//     sender. Clients whose server cannot be reached are reset.
//   - Each client's UDP socket is a flow, with a socket of its own towards the server, and
//     answers leave from the address that the client has sent to. Under a flood of new ones,
//     those that the server has answered stay.
//   - ctx bounds the set-up only. Forward.Close and Stack.Close end the port and reset its
//     connections.
//   - An error is a [*net.OpError] with both addresses. Errors of single clients, and of the
//     listener when descriptors run out, are in Stats and end nothing.
func (s *Stack) ForwardIn(ctx context.Context, network, hostAddr, stackAddr string, opts *ForwardOptions) (*Forward, error) {
	return s.forward(ctx, network, host, s.network(), hostAddr, stackAddr, opts)
}

// ForwardOut makes a server of the host reachable in the stack: it listens on stackAddr in
// the stack, and connects each client to hostAddr on the host. See [Stack.ForwardIn].
func (s *Stack) ForwardOut(ctx context.Context, network, stackAddr, hostAddr string, opts *ForwardOptions) (*Forward, error) {
	return s.forward(ctx, network, s.network(), host, stackAddr, hostAddr, opts)
}

// Addr returns the address where the forward listens.
func (f *Forward) Addr() net.Addr { return f.engine.Addr() }

// Stats returns the counters. After Close, it returns the last ones.
func (f *Forward) Stats() ForwardStats {
	st := f.engine.Stats()
	return ForwardStats{
		Out: f.out, Network: f.network, Listen: f.Addr().String(), Server: f.server,
		SourceLost: f.source.lost.Load(),
		Open:       st.Open, Accepted: st.Accepted, Refused: st.Refused, Failed: st.Failed,
		BytesIn: st.BytesIn, BytesOut: st.BytesOut, Datagrams: DatagramStats(st.Datagrams), Err: st.Err,
	}
}

// Close ends the forward: it listens no more, and its connections are reset. When it
// returns, all that is done. It may be called twice, and with any other call.
func (f *Forward) Close() error { return f.engine.Close() }

// A side is one of the two networks of a forward.
type side struct {
	unix   bool // it has unix sockets too
	listen func(ctx context.Context, network, address string) (net.Listener, error)
	packet func(ctx context.Context, network, address string) (net.PacketConn, error)
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
}

var host = side{
	unix: true,
	listen: func(ctx context.Context, network, address string) (net.Listener, error) {
		if network == "unix" {
			return forward.ListenUnix(ctx, address)
		}
		return new(net.ListenConfig).Listen(ctx, network, address)
	},
	packet: new(net.ListenConfig).ListenPacket,
	dial:   new(net.Dialer).DialContext,
}

func (s *Stack) network() side {
	return side{
		listen: (&ListenConfig{Stack: s}).Listen,
		packet: (&ListenConfig{Stack: s}).ListenPacket,
		dial:   (&Dialer{Stack: s}).DialContext,
	}
}

// place returns the network and the address that package net has for an address on a
// side.
func (s side) place(network, address string) (string, string, error) {
	path, ok := strings.CutPrefix(address, "unix:")
	switch {
	case !ok:
		return network, address, nil
	case !s.unix:
		return "", "", &net.AddrError{Err: "the stack's side has no unix sockets", Addr: address}
	case !strings.HasPrefix(network, "tcp"):
		return "", "", &net.AddrError{Err: "a unix socket takes the place of TCP only", Addr: address}
	case path == "" || path == "@":
		return "", "", &net.AddrError{Err: "the path is missing", Addr: address}
	case strings.Contains(path, "\x00"):
		return "", "", &net.AddrError{Err: "a NUL byte in the path", Addr: address}
	case len(strings.TrimPrefix(path, "@")) > maxUnixPath:
		return "", "", &net.AddrError{Err: fmt.Sprintf("a socket address has room for %d bytes", maxUnixPath), Addr: address}
	}
	return "unix", path, nil
}

// forwardAddr is an address as it was given.
type forwardAddr struct{ network, address string }

func (a forwardAddr) Network() string { return a.network }
func (a forwardAddr) String() string  { return a.address }

func (s *Stack) forward(ctx context.Context, network string, in, out side, from, to string, opts *ForwardOptions) (*Forward, error) {
	f, err := s.newForward(ctx, network, in, out, from, to, opts)
	if err != nil {
		return nil, &net.OpError{Op: "forward", Net: network, Source: forwardAddr{network, from}, Addr: forwardAddr{network, to}, Err: err}
	}
	return f, nil
}

func (s *Stack) newForward(ctx context.Context, network string, in, out side, from, to string, opts *ForwardOptions) (_ *Forward, err error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if opts == nil {
		opts = &ForwardOptions{}
	}
	given := *opts // the caller may change its own
	opts = &given
	switch network {
	case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6":
	case "unix":
		return nil, errors.New(`the network is tcp, and the host's address "unix:PATH"`)
	default:
		return nil, net.UnknownNetworkError(network)
	}
	if v := opts.ProxyProtocol; v < 0 || v > 2 {
		return nil, fmt.Errorf("ProxyProtocol %d: there are versions 1 and 2", v)
	}
	udp := strings.HasPrefix(network, "udp")
	if udp && opts.ProxyProtocol != 0 {
		return nil, errors.New("the PROXY protocol is for TCP")
	}
	if opts.MaxClients < 0 || opts.DialTimeout < 0 || opts.UDPTimeout < 0 {
		return nil, errors.New("MaxClients, DialTimeout and UDPTimeout must not be negative")
	}
	listenNet, listenAddr, err := in.place(network, from)
	if err != nil {
		return nil, err
	}
	dialNet, dialAddr, err := out.place(network, to)
	if err != nil {
		return nil, err
	}
	hostName, port, err := splitServer(ctx, dialNet, dialAddr)
	if err != nil {
		return nil, err
	}
	source := &keptSource{}
	if opts.KeepSource {
		switch {
		case out.unix: // the host
			return nil, errors.New("KeepSource is for the way in: the host's addresses and routes are not the stack's to change; ProxyProtocol tells the server")
		case listenNet == "unix":
			return nil, errors.New("KeepSource: clients of a unix socket have no address")
		case hostName == "":
			return nil, &net.AddrError{Err: "KeepSource needs the address of the server in the stack", Addr: dialAddr}
		}
		if source, err = s.keepSource(ctx, dialNet, hostName, port); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				source.close()
			}
		}()
	}
	f := &Forward{source: source, out: !in.unix, network: network, server: to}
	cfg := forward.Config{
		Dial: func(ctx context.Context, from net.Addr) (net.Conn, error) {
			if opts.KeepSource {
				c, err := source.dial(ctx, dialNet, addrPort(from))
				if err == nil || opts.ProxyProtocol == 0 || !errors.Is(err, errSource) {
					return c, err
				}
			}
			return out.dial(ctx, dialNet, dialAddr)
		},
		Ended: func() {
			s.forwards.remove(f)
			source.close()
		},
		Timeout: cmp.Or(opts.DialTimeout, 30*time.Second),
		Idle:    cmp.Or(opts.UDPTimeout, 2*time.Minute),
		Proxy:   opts.ProxyProtocol,
	}
	if udp {
		cfg.Max = forward.MaxClients(1)
		if opts.KeepSource {
			// So a flood of invented clients finds flows to end before the last route.
			cfg.Max = min(cfg.Max, maxSources/2)
		}
		cfg.Max = cmp.Or(opts.MaxClients, cfg.Max)
		// A look-up would hold up the flows of others.
		var c net.Conn
		if c, err = out.dial(ctx, dialNet, dialAddr); err != nil {
			return nil, err
		}
		dialAddr = c.RemoteAddr().String()
		c.Close()
		var l net.PacketConn
		if l, err = in.packet(ctx, listenNet, listenAddr); err != nil {
			return nil, err
		}
		var e *forward.Datagrams
		if e, err = forward.NewDatagrams(l.(*net.UDPConn), cfg); err != nil {
			l.Close()
			return nil, err
		}
		return tracked(s, f, e)
	}
	cfg.Max = cmp.Or(opts.MaxClients, forward.MaxClients(2))
	var l net.Listener
	if l, err = in.listen(ctx, listenNet, listenAddr); err != nil {
		return nil, err
	}
	return tracked(s, f, forward.NewStreams(l, cfg))
}

// addrPort returns the address of a client; the zero AddrPort for unix sockets.
func addrPort(a net.Addr) (ap netip.AddrPort) {
	if a, ok := a.(interface{ AddrPort() netip.AddrPort }); ok {
		ap = a.AddrPort()
	}
	return ap
}

// tracked has a forward end with the stack. The goroutines of its engine keep that alive.
func tracked[T any, P interface {
	*T
	forwarder
}](s *Stack, f *Forward, e P) (*Forward, error) {
	f.engine = e
	s.forwards.add(f)
	if !trackRef(&s.conns, e) {
		e.Close() // which closes the source
		*f.source = keptSource{}
		return nil, s.closed()
	}
	return f, nil
}

// splitServer splits the address of a server, whose name is looked up later. A unix socket
// has neither name nor port.
func splitServer(ctx context.Context, network, address string) (hostName string, port uint16, err error) {
	if network == "unix" {
		return "", 0, nil
	}
	hostName, service, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	if a, err := netip.ParseAddr(hostName); err == nil && family(network) != "" && (family(network) == "4") != a.Unmap().Is4() {
		return "", 0, &net.AddrError{Err: "no suitable address found", Addr: hostName}
	}
	n, err := net.DefaultResolver.LookupPort(ctx, network, service)
	if err == nil && n == 0 {
		err = &net.AddrError{Err: "a server has a port other than 0", Addr: address}
	}
	return hostName, uint16(n), err
}
