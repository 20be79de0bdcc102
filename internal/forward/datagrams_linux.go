package forward

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/backoff"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/sockio"
)

const (
	// unansweredIdle is how long a flow that the server has not answered may be silent.
	unansweredIdle = 30 * time.Second
	// minAge protects new flows from a flood of others, and bounds how many are made.
	minAge = time.Second
)

// Datagrams carries datagrams. Each client's socket is a flow: it has a socket of its own
// towards the server, until it has been silent for a time.
type Datagrams struct {
	counters
	cfg    Config
	conn   *net.UDPConn
	raw    syscall.RawConn
	any    bool // the socket has no address: packets say theirs
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once

	mu         sync.Mutex // guards the fields below
	flows      map[flowKey]*flow
	unanswered *list.List // of *flow, the oldest first
	closed     bool
}

// A flowKey is a client, and its way to us: to which address it sent, if there are several.
type flowKey struct {
	client sockio.Sockaddr
	local  packet.Local
}

type flow struct {
	key     flowKey
	conn    *net.UDPConn
	in, out course
	made    time.Time
	active  atomic.Int64  // time of the last datagram
	place   *list.Element // in unanswered; nil when there was an answer
}

// open prepares a socket, and returns what waits for it.
func open(c *net.UDPConn, options ...[2]int) (syscall.RawConn, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO, 1) // Linux before 5.0 does not
		for _, o := range options {
			failed = cmp.Or(failed, unix.SetsockoptInt(int(fd), o[0], o[1], 1))
		}
	})
	return raw, cmp.Or(err, os.NewSyscallError("setsockopt", failed))
}

// NewDatagrams carries the datagrams that arrive at c until Close. It owns c. Dial returns
// a *net.UDPConn.
func NewDatagrams(c *net.UDPConn, cfg Config) (_ *Datagrams, err error) {
	ip := c.LocalAddr().(*net.UDPAddr).IP
	d := &Datagrams{
		cfg: cfg, conn: c, any: ip.IsUnspecified(),
		flows: make(map[flowKey]*flow), unanswered: list.New(),
	}
	var options [][2]int
	if d.any {
		// A socket for both families needs both: of IPv4, IPV6_PKTINFO has the
		// destination, from which no answer can leave if it was a broadcast.
		options = append(options, [2]int{unix.SOL_IP, unix.IP_PKTINFO})
		if ip.To4() == nil {
			options = append(options, [2]int{unix.SOL_IPV6, unix.IPV6_RECVPKTINFO})
		}
	}
	if d.raw, err = open(c, options...); err != nil {
		return nil, err
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.wg.Go(d.receive)
	return d, nil
}

// Addr returns the address of the socket.
func (d *Datagrams) Addr() net.Addr { return d.conn.LocalAddr() }

// Stats returns the counters.
func (d *Datagrams) Stats() Stats {
	d.mu.Lock()
	open := len(d.flows)
	d.mu.Unlock()
	return d.stats(open)
}

// Close closes the socket and those of the flows. When it returns everything has ended.
// It may be called twice.
func (d *Datagrams) Close() error {
	var err error
	d.once.Do(func() {
		d.cancel()
		err = d.conn.Close()
		d.mu.Lock()
		d.closed = true
		for _, f := range d.flows {
			f.conn.Close()
		}
		d.mu.Unlock()
		d.wg.Wait()
		if d.cfg.Ended != nil {
			d.cfg.Ended()
		}
	})
	if errors.Is(err, net.ErrClosed) {
		err = nil // the stack was first
	}
	return err
}

// A receiver takes what has arrived at a socket.
type receiver struct {
	room int // for control messages
	n    int
}

// Receive implements [packet.Receiver].
func (r *receiver) Receive(fd int, b *packet.Buffer) (done bool, err error) {
	r.n, err = b.RecvMsgs(fd, packet.Slot, r.room)
	if err == unix.EAGAIN {
		return false, nil
	}
	return true, os.NewSyscallError("recvmmsg", err)
}

// receive passes the clients' datagrams on.
func (d *Datagrams) receive() {
	var (
		errs backoff.Timer
		b    = packet.Buffer{Many: true}
		r    = receiver{room: packet.ControlLocal}
	)
	for {
		err, closed := b.Receive(d.raw, &r)
		if closed != nil {
			<-d.ctx.Done() // as Streams.accept
			return
		}
		if err == nil {
			d.pass(&b, r.n)
		}
		b.Release()
		if err == nil {
			errs.Reset()
			continue
		}
		d.last(err) // such as ENOBUFS
		if !errs.Wait(d.ctx) {
			return
		}
	}
}

// pass passes datagrams to the server, those of one flow together.
func (d *Datagrams) pass(b *packet.Buffer, n int) {
	o := outboxes.Get().(*outbox)
	defer outboxes.Put(o)
	var flows [packet.ManySlots]*flow
	for i := range n {
		g := b.Datagram(i)
		k := flowKey{client: sockio.Sockaddr{Raw: *g.From}, local: g.Local}
		if i > 0 && flows[i-1] != nil && flows[i-1].key == k {
			flows[i] = flows[i-1]
		} else {
			flows[i] = d.flow(k, joined(g))
		}
	}
	for i := range n {
		f := flows[i]
		if f == nil {
			continue
		}
		f.active.Store(time.Now().UnixNano())
		for j := i; j < n; j++ {
			if flows[j] == f {
				o.add(&f.in, b.Datagram(j))
				flows[j] = nil
			}
		}
		o.flush(&f.in)
	}
}

// flow returns a flow, which it makes if it is new and there is room; else datagrams are
// dropped.
func (d *Datagrams) flow(k flowKey, datagrams uint64) *flow {
	d.mu.Lock()
	f, full := d.flows[k], len(d.flows) >= d.cfg.Max
	if f == nil && full {
		full = !d.evict()
	}
	d.mu.Unlock()
	if f != nil {
		return f
	}
	if full {
		d.refused.Add(datagrams)
		d.dropped.Add(datagrams)
		return nil
	}
	f, release, err := d.dial(k)
	if err != nil {
		d.dropped.Add(datagrams)
		if d.ctx.Err() == nil {
			d.failed.Add(1)
			d.last(err)
		}
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		f.conn.Close()
		release()
		return nil
	}
	d.flows[k] = f
	f.place = d.unanswered.PushBack(f)
	d.accepted.Add(1)
	d.wg.Go(func() {
		defer release()
		d.answers(f)
	})
	return f
}

// dial makes a flow, and returns what to call at its end.
func (d *Datagrams) dial(k flowKey) (*flow, func(), error) {
	ctx, cancel := context.WithTimeout(d.ctx, d.cfg.Timeout)
	defer cancel()
	client := k.client.Addr()
	if scope := k.client.Raw.Scope_id; scope != 0 {
		client = client.WithZone(strconv.FormatUint(uint64(scope), 10))
	}
	from := net.UDPAddrFromAddrPort(netip.AddrPortFrom(client, k.client.Port()))
	c, release, err := d.cfg.dial(ctx, from)
	if err != nil {
		return nil, nil, err
	}
	conn := c.(*net.UDPConn)
	raw, err := open(conn)
	if err != nil {
		conn.Close()
		release()
		return nil, nil, err
	}
	f := &flow{key: k, conn: conn, made: time.Now()}
	f.active.Store(f.made.UnixNano())
	f.in = course{d: d, raw: raw, packets: &d.packetsIn, bytes: &d.bytesIn}
	f.out = course{d: d, raw: d.raw, to: &f.key.client.Raw, from: k.local, wait: true, packets: &d.packetsOut, bytes: &d.bytesOut}
	return f, release, nil
}

// evict ends the oldest flow that the server has not answered. It reports false if there
// is none, or it is new. mu is held.
func (d *Datagrams) evict() bool {
	oldest := d.unanswered.Front()
	if oldest == nil {
		return false
	}
	f := oldest.Value.(*flow)
	if time.Since(f.made) < minAge {
		return false
	}
	d.forget(f)
	f.conn.Close()
	return true
}

// forget takes a flow out of the tables. mu is held.
func (d *Datagrams) forget(f *flow) {
	if d.flows[f.key] == f {
		delete(d.flows, f.key)
	}
	d.answered(f)
}

// answered notes that a flow is no more an unanswered one. mu is held.
func (d *Datagrams) answered(f *flow) {
	if f.place != nil {
		d.unanswered.Remove(f.place)
		f.place = nil
	}
}

// answers passes the server's datagrams back until the flow has been silent for too long.
func (d *Datagrams) answers(f *flow) {
	defer func() {
		d.mu.Lock()
		d.forget(f)
		d.mu.Unlock()
		f.conn.Close()
	}()
	var (
		b        = packet.Buffer{Many: true}
		r        = receiver{room: packet.ControlInt}
		idle     = min(unansweredIdle, d.cfg.Idle)
		answered = false
	)
	last := func() time.Time { return time.Unix(0, f.active.Load()) }
	f.conn.SetReadDeadline(last().Add(idle))
	for {
		err, closed := b.Receive(f.in.raw, &r)
		switch {
		case closed == nil:
		case !os.IsTimeout(closed), time.Since(last()) >= idle:
			return
		default:
			f.conn.SetReadDeadline(last().Add(idle)) // there were datagrams meanwhile
			continue
		}
		if err != nil {
			b.Release()
			d.dropped.Add(1) // the server's stack has refused one
			d.last(err)
			continue
		}
		if !answered {
			answered, idle = true, d.cfg.Idle
			d.mu.Lock()
			d.answered(f)
			d.mu.Unlock()
		}
		f.active.Store(time.Now().UnixNano())
		o := outboxes.Get().(*outbox)
		for i := range r.n {
			o.add(&f.out, b.Datagram(i))
		}
		o.flush(&f.out)
		outboxes.Put(o)
		b.Release()
	}
}
