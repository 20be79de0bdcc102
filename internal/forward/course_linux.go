package forward

import (
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/virtio"
)

// A course is one direction of a flow: where its datagrams go. It serves one goroutine.
type course struct {
	d    *Datagrams
	raw  syscall.RawConn
	to   *unix.RawSockaddrInet6 // nil: the socket is connected
	from packet.Local           // zero: that of the socket or of the route
	wait bool                   // for room in the socket; else datagrams without room are dropped

	packets, bytes *atomic.Uint64

	// limit is the size of datagrams from which on the kernel refuses to cut, such as
	// those that go in fragments; 0: none.
	limit int
}

// An outbox collects datagrams of one course. Those of one size that follow each other
// become one, which the kernel cuts (UDP_SEGMENT): routes are looked up once for all. The
// last one may be shorter.
type outbox struct {
	s     *packet.Sender
	run   []virtio.Segment
	size  int // of each in run but the last
	bytes int // in run
}

var outboxes = sync.Pool{New: func() any {
	return &outbox{s: packet.NewSender(), run: make([]virtio.Segment, 0, sockio.MaxUDPSegments)}
}}

// joined returns how many datagrams the kernel has received as one.
func joined(g packet.Datagram) uint64 {
	if g.Segment <= 0 {
		return 1
	}
	return uint64(max(1, (len(g.Data)+g.Segment-1)/g.Segment))
}

// add adds what the kernel has received as one. It stays in its memory until flush.
func (o *outbox) add(c *course, g packet.Datagram) {
	rest := g.Data
	for range joined(g) {
		n := len(rest)
		if g.Segment > 0 {
			n = min(n, g.Segment)
		}
		o.put(c, rest[:n])
		rest = rest[n:]
	}
}

func (o *outbox) put(c *course, data []byte) {
	if n := len(o.run); n > 0 {
		full := n == sockio.MaxUDPSegments || o.bytes+len(data) > sockio.MaxUDPBytes
		follows := len(o.run[n-1].Data) == o.size && len(data) <= o.size && len(data) > 0
		if full || !follows || c.limit > 0 && o.size >= c.limit {
			o.end(c)
		}
	}
	if len(o.run) == 0 {
		o.size, o.bytes = len(data), 0
	}
	o.run = append(o.run, virtio.Segment{Data: data})
	o.bytes += len(data)
}

// end ends the run.
func (o *outbox) end(c *course) {
	cut := 0
	if len(o.run) > 1 {
		cut = o.size
	}
	for !o.s.Add(o.run, cut, c.to) {
		o.send(c)
	}
	if c.from != (packet.Local{}) {
		o.s.From(c.from)
	}
	o.run = o.run[:0]
}

// flush sends everything. Datagrams that cannot be sent are dropped and counted: one that
// is refused holds up nothing.
func (o *outbox) flush(c *course) {
	if len(o.run) > 0 {
		o.end(c)
	}
	o.send(c)
}

func (o *outbox) send(c *course) {
	all, _, closed := o.s.Send(c.raw, c)
	if !all && closed == nil && c.wait {
		o.s.SendWait(c.raw, c)
	}
	packets, bytes := o.s.Sent()
	c.packets.Add(uint64(packets))
	c.bytes.Add(uint64(bytes))
	c.d.dropped.Add(uint64(o.s.Lost()))
	if err := o.s.Refused(); err != nil {
		c.d.last(err)
	}
	o.s.Reset()
}

// HandleError implements [packet.Sending].
func (c *course) HandleError(fd int, s *packet.Sender, frames int, err error) (lost int, again bool, final error) {
	switch {
	case s.Segment() != 0 && sockio.Uncut(err):
		c.limit = s.Segment()
		return s.Separately(fd), false, nil
	case err == unix.ECONNREFUSED:
		c.d.dropped.Add(1) // an earlier one; the call has cleared the error
		return 0, true, nil
	}
	return frames, false, nil
}
