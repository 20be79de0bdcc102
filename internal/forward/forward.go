// Package forward carries connections and datagrams that arrive at one address to another
// one, in another network stack. It knows only listeners, connections and functions that
// connect.
package forward

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/vdestack/vdestack/internal/backoff"
)

// A Config says where connections or flows go, and how many there may be.
type Config struct {
	// Dial connects to the destination on behalf of a client, whose address is from. It
	// may return a Held.
	Dial func(ctx context.Context, from net.Addr) (net.Conn, error)
	// Timeout bounds Dial. Idle is how long a flow of datagrams may be silent.
	Timeout, Idle time.Duration
	// Max is how many clients there may be at once.
	Max int
	// Proxy is the version of the PROXY protocol's header that the destination gets
	// first, 1 or 2; 0 means none.
	Proxy int
	// Ended is called once, when everything has ended. It may be nil.
	Ended func()
}

// A Held is a connection that holds something else until it is closed.
type Held struct {
	net.Conn
	Release func()
}

// dial returns a connection without its Held, and what to call when it is closed.
func (c *Config) dial(ctx context.Context, from net.Addr) (net.Conn, func(), error) {
	conn, err := c.Dial(ctx, from)
	if h, ok := conn.(*Held); ok {
		return h.Conn, h.Release, err
	}
	return conn, func() {}, err
}

// Stats are counters. In is towards the destination.
type Stats struct {
	Open     uint64
	Accepted uint64
	Refused  uint64
	Failed   uint64

	BytesIn, BytesOut uint64
	Datagrams         DatagramStats
	Err               error
}

// DatagramStats are the counters of datagrams.
type DatagramStats struct{ In, Out, Dropped uint64 }

// counters are what Stats is made of.
type counters struct {
	accepted, refused, failed atomic.Uint64
	bytesIn, bytesOut         atomic.Uint64
	packetsIn, packetsOut     atomic.Uint64
	dropped                   atomic.Uint64

	errMu sync.Mutex // guards err
	err   error
}

// last keeps an error for Stats.
func (c *counters) last(err error) {
	c.errMu.Lock()
	defer c.errMu.Unlock()
	c.err = err
}

func (c *counters) stats(open int) Stats {
	c.errMu.Lock()
	defer c.errMu.Unlock()
	return Stats{
		Open: uint64(open), Accepted: c.accepted.Load(), Refused: c.refused.Load(), Failed: c.failed.Load(),
		BytesIn: c.bytesIn.Load(), BytesOut: c.bytesOut.Load(), Err: c.err,
		Datagrams: DatagramStats{In: c.packetsIn.Load(), Out: c.packetsOut.Load(), Dropped: c.dropped.Load()},
	}
}

// Streams carries connections. Each direction has a goroutine, and memory only while
// there is something to carry.
type Streams struct {
	counters
	cfg    Config
	l      net.Listener
	pipes  pipes
	ctx    context.Context // done when Close begins
	cancel context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once

	connsMu sync.Mutex // guards the fields below
	conns   map[*pair]struct{}
	closed  bool
}

// A pair is a client and, when it is connected, its destination.
type pair struct {
	client, server net.Conn
	ended          atomic.Int32 // directions that have
}

// NewStreams carries the connections of l until Close. It owns l.
func NewStreams(l net.Listener, cfg Config) *Streams {
	s := &Streams{cfg: cfg, l: l, conns: make(map[*pair]struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wg.Go(s.accept)
	return s
}

// Addr returns the address of the listener.
func (s *Streams) Addr() net.Addr { return s.l.Addr() }

// Stats returns the counters.
func (s *Streams) Stats() Stats {
	s.connsMu.Lock()
	open := len(s.conns)
	s.connsMu.Unlock()
	return s.stats(open)
}

// Close closes the listener and resets the connections. When it returns everything has
// ended. It may be called twice.
func (s *Streams) Close() error {
	var err error
	s.once.Do(func() {
		s.cancel()
		err = s.l.Close()
		s.connsMu.Lock()
		s.closed = true
		for p := range s.conns {
			p.abort()
		}
		s.connsMu.Unlock()
		s.wg.Wait()
		s.pipes.close()
		if s.cfg.Ended != nil {
			s.cfg.Ended()
		}
	})
	if errors.Is(err, net.ErrClosed) {
		err = nil // the stack was first
	}
	return err
}

func (s *Streams) accept() {
	var errs backoff.Timer
	for {
		c, err := s.l.Accept()
		switch {
		case err == nil:
		case s.ctx.Err() != nil:
			return
		case errors.Is(err, net.ErrClosed):
			// The stack has closed l. It has only weak pointers to what it closes next,
			// and this goroutine keeps s alive.
			<-s.ctx.Done()
			return
		default:
			s.last(err)
			if !errs.Wait(s.ctx) {
				return
			}
			continue
		}
		errs.Reset()
		pr := &pair{client: c}
		if !s.add(pr) {
			reset(c)
			continue
		}
		s.accepted.Add(1)
		s.wg.Go(func() { s.serve(pr) })
	}
}

// add reports false if there is no room.
func (s *Streams) add(p *pair) bool {
	s.connsMu.Lock()
	defer s.connsMu.Unlock()
	if s.closed {
		return false
	}
	if len(s.conns) >= s.cfg.Max {
		s.refused.Add(1)
		return false
	}
	s.conns[p] = struct{}{}
	return true
}

// connected notes the destination. It reports false after Close.
func (s *Streams) connected(p *pair, server net.Conn) bool {
	s.connsMu.Lock()
	defer s.connsMu.Unlock()
	p.server = server
	return !s.closed
}

func (s *Streams) remove(p *pair) {
	s.connsMu.Lock()
	defer s.connsMu.Unlock()
	delete(s.conns, p)
}

func (s *Streams) serve(p *pair) {
	defer s.remove(p)
	server, release, err := s.dial(p.client)
	if err != nil {
		if s.ctx.Err() == nil {
			s.failed.Add(1)
			s.last(err)
		}
		reset(p.client)
		return
	}
	defer release()
	if !s.connected(p, server) {
		p.abort()
		return
	}
	var back sync.WaitGroup
	back.Go(func() { s.half(p, p.client, server, &s.bytesOut) })
	s.half(p, server, p.client, &s.bytesIn)
	back.Wait()
	p.client.Close()
	server.Close()
}

// dial connects to the destination, and sends the header of the PROXY protocol.
func (s *Streams) dial(client net.Conn) (net.Conn, func(), error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.Timeout)
	defer cancel()
	server, release, err := s.cfg.dial(ctx, client.RemoteAddr())
	if err != nil || s.cfg.Proxy == 0 {
		return server, release, err
	}
	deadline, _ := ctx.Deadline()
	server.SetWriteDeadline(deadline)
	if _, err := header(s.cfg.Proxy, client).WriteTo(server); err != nil {
		reset(server)
		release()
		return nil, nil, err
	}
	server.SetWriteDeadline(time.Time{})
	return server, release, nil
}

// header returns the header of a connection. Clients without an IP address are unknown.
func header(version int, client net.Conn) *proxyproto.Header {
	from, _ := client.RemoteAddr().(*net.TCPAddr)
	to, _ := client.LocalAddr().(*net.TCPAddr)
	if from == nil || to == nil {
		return &proxyproto.Header{Version: byte(version), Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}
	}
	return proxyproto.HeaderProxyFromAddrs(byte(version), from, to)
}

// half carries one direction to its end, and passes the end on.
func (s *Streams) half(p *pair, dst, src net.Conn, n *atomic.Uint64) {
	err := s.pipes.carry(dst, src, n)
	if err == nil {
		err = dst.(interface{ CloseWrite() error }).CloseWrite()
	}
	if err != nil {
		p.abort()
		return
	}
	if p.ended.Add(1) == 2 {
		dst.SetReadDeadline(time.Unix(1, 0)) // ends untilReset of the other direction
		return
	}
	if untilReset(src) {
		p.abort()
	}
}

// abort resets both connections. It may be called by several.
func (p *pair) abort() {
	reset(p.client)
	if p.server != nil {
		reset(p.server)
	}
}

// reset closes a connection, and tells its peer that it did not end well.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	c.Close()
}
