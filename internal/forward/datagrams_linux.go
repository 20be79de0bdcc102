package forward

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

const (
	// batchSize is how many datagrams one system call moves.
	batchSize = 64
	// maxDatagram is the largest, without headers.
	maxDatagram = 1<<16 - 1
	// unansweredIdle is how long a flow that the server has not answered may be silent.
	unansweredIdle = 30 * time.Second
	// minAge protects new flows from a flood of others, and bounds how many are made.
	minAge = time.Second
)

// A Message of both packages is the same type.
type batchConn interface {
	ReadBatch(ms []ipv4.Message, flags int) (int, error)
	WriteBatch(ms []ipv4.Message, flags int) (int, error)
}

// newBatchConn returns a socket for batches. A socket for both families is one of IPv6.
func newBatchConn(c *net.UDPConn) batchConn {
	if isIPv4(c) {
		return ipv4.NewPacketConn(c)
	}
	return ipv6.NewPacketConn(c)
}

func isIPv4(c *net.UDPConn) bool { return c.LocalAddr().(*net.UDPAddr).IP.To4() != nil }

// A batch is the memory for datagrams. Pages that no datagram has needed are not backed.
type batch struct {
	in, out [batchSize]ipv4.Message
	oob     [batchSize][80]byte // IPV6_PKTINFO and IP_PKTINFO
	mem     []byte
}

var batches = sync.Pool{New: func() any {
	b := &batch{mem: make([]byte, batchSize*maxDatagram)}
	for i := range b.in {
		b.in[i].Buffers = [][]byte{b.mem[i*maxDatagram:][:maxDatagram:maxDatagram]}
		b.out[i].Buffers = make([][]byte, 1)
	}
	return b
}}

// read reads without waiting. With oob it asks for control messages.
func (b *batch) read(c batchConn, oob bool) (int, error) {
	for i := range b.in {
		b.in[i].OOB = nil
		if oob {
			b.in[i].OOB = b.oob[i][:]
		}
	}
	n, err := c.ReadBatch(b.in[:], unix.MSG_DONTWAIT)
	for i := range max(n, 0) {
		b.out[i].Buffers[0] = b.in[i].Buffers[0][:b.in[i].N]
		b.out[i].OOB, b.out[i].Addr = nil, nil
	}
	return max(n, 0), err
}

// Datagrams carries datagrams. Each client's socket is a flow: it has a socket of its own
// towards the server, until it has been silent for a time.
type Datagrams struct {
	counters
	cfg    Config
	conn   *net.UDPConn
	raw    syscall.RawConn
	batch  batchConn
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

// A flowKey is a client, and its way to us as a control message of the kernel: to which
// address it sent.
type flowKey struct {
	client netip.AddrPort
	local  string
}

type flow struct {
	key    flowKey
	addr   net.Addr
	conn   *net.UDPConn
	batch  batchConn
	made   time.Time
	active atomic.Int64  // time of the last datagram
	place  *list.Element // in unanswered; nil when there was an answer
}

// NewDatagrams carries the datagrams that arrive at c until Close. It owns c. Dial returns
// a *net.UDPConn.
func NewDatagrams(c *net.UDPConn, cfg Config) (*Datagrams, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	d := &Datagrams{
		cfg: cfg, conn: c, raw: raw, batch: newBatchConn(c),
		any:   c.LocalAddr().(*net.UDPAddr).IP.IsUnspecified(),
		flows: make(map[flowKey]*flow), unanswered: list.New(),
	}
	if d.any {
		var failed error
		err = raw.Control(func(fd uintptr) {
			// A socket for both families needs both: of IPv4, IPV6_PKTINFO has the
			// destination, from which no answer can leave if it was a broadcast.
			failed = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_PKTINFO, 1)
			if failed == nil && !isIPv4(c) {
				failed = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1)
			}
		})
		if err = cmp.Or(err, os.NewSyscallError("setsockopt", failed)); err != nil {
			return nil, err
		}
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

// readable waits until there is something to read, without memory for it.
func readable(raw syscall.RawConn) error {
	return raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		return err == nil && n > 0
	})
}

func (d *Datagrams) receive() {
	var p pause
	for {
		if readable(d.raw) != nil {
			<-d.ctx.Done() // as Streams.accept
			return
		}
		b := batches.Get().(*batch)
		n, err := b.read(d.batch, d.any)
		d.in(b, n)
		batches.Put(b)
		switch {
		case err == nil, errors.Is(err, unix.EAGAIN):
			p = 0
		case errors.Is(err, net.ErrClosed): // readable says so
		default:
			d.last(err) // such as ENOBUFS, or of a client that is gone
			if !p.wait(d.ctx) {
				return
			}
		}
	}
}

// in passes datagrams to the server, those of one flow together.
func (d *Datagrams) in(b *batch, n int) {
	for i := 0; i < n; {
		f := d.flow(b, i)
		j := i + 1
		for j < n && f != nil && d.same(f, b, j) {
			j++
		}
		if f == nil {
			d.dropped.Add(1)
		} else {
			f.active.Store(time.Now().UnixNano())
			d.send(f.batch, b.out[i:j], unix.MSG_DONTWAIT, &d.packetsIn, &d.bytesIn)
		}
		i = j
	}
}

func (d *Datagrams) same(f *flow, b *batch, i int) bool { return d.key(b, i) == f.key }

// key returns the flow of a datagram. Answers leave by the interface that routes say.
func (d *Datagrams) key(b *batch, i int) flowKey {
	m := &b.in[i]
	k := flowKey{client: m.Addr.(*net.UDPAddr).AddrPort()}
	if d.any {
		k.local = pktinfo(m.OOB[:m.NN])
	}
	return k
}

// pktinfo returns the control message for answers, IP_PKTINFO or IPV6_PKTINFO, without the
// index of the interface, through which an answer would have to leave: only a link-local
// address needs it. It is empty if the kernel has to choose the address.
func pktinfo(oob []byte) (local string) {
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			break
		}
		message := oob[:unix.CmsgLen(len(data))] // the padding may be anything
		switch oob = rest; {
		case h.Level == unix.SOL_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			clear(data[:4])
			clear(data[8:]) // the destination, which an answer does not need
			return string(message)
		case h.Level == unix.SOL_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			switch asked := netip.AddrFrom16([16]byte(data)); {
			case asked.IsMulticast():
				continue // nobody's address
			case !asked.IsLinkLocalUnicast():
				clear(data[16:20])
			}
			local = string(message)
		}
	}
	return local
}

// flow returns the flow of a datagram, which it makes if it is new and there is room.
func (d *Datagrams) flow(b *batch, i int) *flow {
	k := d.key(b, i)
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
		d.refused.Add(1)
		return nil
	}
	ctx, cancel := context.WithTimeout(d.ctx, d.cfg.Timeout)
	defer cancel()
	c, release, err := d.cfg.dial(ctx, b.in[i].Addr)
	if err != nil {
		if d.ctx.Err() == nil {
			d.failed.Add(1)
			d.last(err)
		}
		return nil
	}
	conn := c.(*net.UDPConn)
	f = &flow{key: k, addr: b.in[i].Addr, conn: conn, batch: newBatchConn(conn), made: time.Now()}
	f.active.Store(f.made.UnixNano())
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		conn.Close()
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
	raw, err := f.conn.SyscallConn()
	if err != nil {
		return
	}
	idle := min(unansweredIdle, d.cfg.Idle)
	var oob []byte
	if f.key.local != "" {
		oob = []byte(f.key.local)
	}
	for {
		f.conn.SetReadDeadline(time.Unix(0, f.active.Load()).Add(idle))
		err := readable(raw)
		switch {
		case err == nil:
		case !os.IsTimeout(err):
			return
		case time.Since(time.Unix(0, f.active.Load())) >= idle:
			return
		default:
			continue // there were datagrams meanwhile
		}
		b := batches.Get().(*batch)
		n, err := b.read(f.batch, false)
		if n > 0 {
			if idle != d.cfg.Idle {
				d.mu.Lock()
				d.answered(f)
				d.mu.Unlock()
				idle = d.cfg.Idle
			}
			f.active.Store(time.Now().UnixNano())
			for i := range n {
				b.out[i].Addr, b.out[i].OOB = f.addr, oob
			}
			d.send(d.batch, b.out[:n], 0, &d.packetsOut, &d.bytesOut)
		}
		batches.Put(b)
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			d.dropped.Add(1) // the server's stack has refused one
			d.last(err)
		}
	}
}

// send sends datagrams. Those that cannot be sent are dropped and counted: one that is
// refused holds up nothing.
func (d *Datagrams) send(c batchConn, ms []ipv4.Message, flags int, packets, bytes *atomic.Uint64) {
	for len(ms) > 0 {
		n, err := c.WriteBatch(ms, flags)
		n = max(n, 0)
		for _, m := range ms[:n] {
			bytes.Add(uint64(len(m.Buffers[0])))
		}
		packets.Add(uint64(n))
		ms = ms[n:]
		switch {
		case err == nil && n > 0:
		case errors.Is(err, unix.EAGAIN), errors.Is(err, net.ErrClosed):
			d.dropped.Add(uint64(len(ms)))
			return
		case errors.Is(err, unix.ECONNREFUSED):
			d.dropped.Add(1) // an earlier one; the call has cleared the error
			d.last(err)
		case len(ms) > 0:
			d.dropped.Add(1)
			d.last(err)
			ms = ms[1:]
		}
	}
}
