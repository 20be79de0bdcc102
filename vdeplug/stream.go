package vdeplug

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
)

const (
	// maxStreamFrame is the largest length that C writers of a stream send.
	maxStreamFrame = ether.MaxFrame + 2
	// streamHeaderLen is the length of the length before each frame.
	streamHeaderLen = 2
	// streamQueue is how many bytes wait for a slow reader at most, about as
	// much as the socket buffers of the other plugs hold.
	streamQueue = 256 << 10
	// streamChunk bounds one write. A pipe takes so many bytes at once or
	// not at all (PIPE_BUF), so readers in C, which lose a length that is
	// torn in two, see whole ones.
	streamChunk = 4096
	// streamFlush is how long Close waits for a reader to take what was sent.
	streamFlush = 100 * time.Millisecond
	// streamEnd is how long Close waits for a Write that does not end though
	// its file is closed.
	streamEnd = time.Second
)

// NewStream returns a plug that speaks the VDE stream protocol, in which
// vde_plug and its kind talk over pipes, terminals and network connections:
// before each frame its length, two bytes, most significant first.
//
// The plug owns rw. Its Close must end its Read and Write, and may be called
// while they run. When the stream ends, Recv returns an error that wraps
// [io.EOF]. A length that cannot be one is the end too: there is no mark from
// which to go on.
func NewStream(rw io.ReadWriteCloser) Conn { return newPlug("stream", newStream(rw)) }

func newStream(rw io.ReadWriteCloser) *stream {
	s := &stream{
		rw:      rw,
		r:       bufio.NewReaderSize(rw, 64<<10),
		queue:   make([]byte, 0, streamQueue),
		late:    time.NewTimer(packet.RoomWait),
		emptied: make(chan struct{}, 1),
		ended:   make(chan struct{}),
	}
	s.wake.L = &s.mu
	go s.write()
	return s
}

var segmenters = sync.Pool{New: func() any { return new(virtio.Segmenter) }}

type stream struct {
	packet.Counters
	rw io.ReadWriteCloser

	rmu  sync.Mutex    // guards r and rerr; held while Recv waits
	r    *bufio.Reader // its Read ends when rw is closed
	rerr error

	smu     sync.Mutex // guards late; held while SendPackets waits
	late    *time.Timer
	emptied chan struct{} // has something when queue was emptied

	mu     sync.Mutex // guards the fields below; never held across a write
	wake   sync.Cond  // there is something in queue, or closed was set
	queue  []byte     // whole frames with their lengths; never grows
	werr   error
	closed bool

	ended chan struct{} // closed when write has returned
}

// RecvPackets implements [packet.Transport]. It returns all frames of the stream that
// were read together.
func (s *stream) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	b.Release() // it may take long
	s.rmu.Lock()
	defer s.rmu.Unlock()
	for {
		switch {
		case s.isClosed():
			return nil, net.ErrClosed
		case s.rerr != nil:
			return nil, s.rerr
		}
		s.r.Peek(streamHeaderLen) // waits; readFrame meets its error again
		s.readFrames(b)
		if len(b.Packets) > 0 {
			return b.Packets, nil
		}
	}
}

// readFrames reads the frames that are there, and at least one.
func (s *stream) readFrames(b *packet.Buffer) {
	mem := b.Bytes()
	for len(mem) >= ether.MaxFrame {
		n, err := s.readFrame(mem[:ether.MaxFrame])
		if err != nil {
			s.rerr = err
			return
		}
		if n > 0 {
			b.Add(virtio.Header{}, mem[:n:n])
			mem = mem[n:]
		}
		if !s.frameThere() {
			return
		}
	}
}

// frameThere reports whether a whole frame was read already.
func (s *stream) frameThere() bool {
	there := s.r.Buffered()
	if there < streamHeaderLen {
		return false
	}
	header, err := s.r.Peek(streamHeaderLen)
	return err == nil && there >= streamHeaderLen+int(binary.BigEndian.Uint16(header))
}

func (s *stream) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// readFrame reads one frame; 0 if it was none or had to be dropped.
func (s *stream) readFrame(frame []byte) (int, error) {
	header, err := s.r.Peek(streamHeaderLen)
	switch {
	case err == io.EOF && len(header) == 0:
		return 0, fmt.Errorf("the peer has ended the stream: %w", io.EOF)
	case err != nil:
		return 0, torn(err)
	}
	n := int(binary.BigEndian.Uint16(header))
	s.r.Discard(streamHeaderLen) // cannot fail: it was peeked at
	switch {
	case n == 0:
		return 0, nil
	case n > maxStreamFrame:
		return 0, fmt.Errorf("frame length %d is more than %d: this is no VDE stream, or it has lost a byte", n, maxStreamFrame)
	case n < ether.HeaderLen || n > ether.MaxFrame || n > len(frame):
		s.DroppedRecv.Add(1)
		_, err = s.r.Discard(n)
		return 0, torn(err)
	}
	_, err = io.ReadFull(s.r, frame[:n])
	return n, torn(err)
}

// torn tells the end of a stream inside a frame.
func torn(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("the peer has ended the stream within a frame: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// append queues a frame of two pieces, for which there is room.
func (s *stream) append(head, data []byte) {
	s.queue = binary.BigEndian.AppendUint16(s.queue, uint16(len(head)+len(data)))
	s.queue = append(append(s.queue, head...), data...)
}

// SendPackets implements [packet.Transport].
func (s *stream) SendPackets(packets []packet.Packet, wait bool) error {
	if wait {
		s.smu.Lock()
		defer s.smu.Unlock()
	}
	cut := segmenters.Get().(*virtio.Segmenter)
	defer segmenters.Put(cut)
	late := time.Now().Add(packet.RoomWait)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range packets {
		if s.closed {
			return net.ErrClosed
		} else if s.werr != nil {
			return s.werr
		}
		segments, err := cut.Split(packets[i].Offload, packets[i].Data, 0)
		if err != nil {
			s.DroppedSend.Add(1)
		}
		for _, g := range segments {
			n := len(g.Head) + len(g.Data)
			if n < ether.HeaderLen || n > ether.MaxFrame || !s.room(n) && !(wait && s.waitRoom(n, late)) {
				s.DroppedSend.Add(1)
				continue
			}
			s.append(g.Head, g.Data)
		}
	}
	s.wake.Signal()
	return nil
}

// waitRoom waits until there is room for a frame of n bytes, and reports whether
// there is. It lets go of mu meanwhile.
func (s *stream) waitRoom(n int, late time.Time) bool {
	s.wake.Signal()
	for !s.room(n) && !s.closed && s.werr == nil {
		d := time.Until(late)
		if d <= 0 {
			return false
		}
		s.mu.Unlock()
		s.late.Reset(d)
		select {
		case <-s.emptied:
		case <-s.ended:
		case <-s.late.C:
		}
		s.late.Stop()
		s.mu.Lock()
	}
	return s.room(n) && !s.closed && s.werr == nil
}

// room reports whether there is room for a frame of n bytes.
func (s *stream) room(n int) bool { return len(s.queue)+streamHeaderLen+n <= cap(s.queue) }

// write writes what Send queues until the stream is closed. A writer of its
// own keeps Send from blocking whatever rw is, and a frame from being written
// in part.
func (s *stream) write() {
	defer close(s.ended)
	out := make([]byte, 0, streamQueue)
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for len(s.queue) == 0 && !s.closed {
			s.wake.Wait()
		}
		if len(s.queue) == 0 {
			return
		}
		out, s.queue = s.queue, out[:0]
		select {
		case s.emptied <- struct{}{}:
		default:
		}
		s.mu.Unlock()
		err := writeFrames(s.rw, out)
		s.mu.Lock()
		if err != nil {
			s.werr = err
			return
		}
	}
}

// writeFrames writes whole frames, as many at a time as streamChunk has room
// for, but at least one.
func writeFrames(w io.Writer, b []byte) error {
	for len(b) > 0 {
		n := 0
		for n < len(b) {
			next := n + streamHeaderLen + int(binary.BigEndian.Uint16(b[n:]))
			if next > streamChunk && n > 0 {
				break
			}
			n = next
		}
		if _, err := w.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// Close gives the reader a moment to take what was sent before, and closes the
// files.
func (s *stream) Close() (err error) {
	s.mu.Lock()
	s.closed = true
	s.wake.Signal()
	s.mu.Unlock()
	s.waitWriter(streamFlush)
	err = s.rw.Close()
	if !s.waitWriter(streamEnd) {
		err = errors.Join(err, errors.New("stream: a write goes on although its file was closed"))
	}
	return err
}

func (s *stream) waitWriter(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s.ended:
		return true
	case <-timer.C:
		return false
	}
}
