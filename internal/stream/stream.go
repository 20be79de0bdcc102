// Package stream carries frames over byte streams in the VDE stream protocol, in which each
// frame follows its length: two bytes, most significant first. A stream is any
// [io.ReadWriteCloser], the standard input and output of a program, or a serial line.
package stream

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
)

const (
	// maxFrame is the largest frame length that C programs send.
	maxFrame = ether.MaxFrame + 2
	// headerLen is the size of the length before each frame.
	headerLen = 2
	// queueSize is the number of bytes buffered for a slow reader, about as many as the
	// socket buffers of other transports hold.
	queueSize = 256 << 10
	// writeSize bounds one write. A pipe takes up to PIPE_BUF bytes at once or not at
	// all, so that C readers never see part of a length, which they would lose.
	writeSize = 4096
	// flushTimeout is how long Close waits for the reader to take the frames sent.
	flushTimeout = 100 * time.Millisecond
	// writerTimeout is how long Close waits for a Write after it has closed the file.
	writerTimeout = time.Second
)

// New returns the transport on a byte stream, and takes the stream over. Close of rw must be
// safe to call during Read and Write, and end them.
func New(rw io.ReadWriteCloser) *Stream {
	s := &Stream{
		rw:      rw,
		r:       bufio.NewReaderSize(rw, 64<<10),
		queue:   make([]byte, 0, queueSize),
		late:    time.NewTimer(packet.RoomWait),
		emptied: make(chan struct{}, 1),
		ended:   make(chan struct{}),
	}
	s.wake.L = &s.mu
	go s.write()
	return s
}

// A Stream is a [packet.Transport] in the VDE stream protocol. An invalid length ends it, as
// nothing marks the beginning of the next frame.
type Stream struct {
	packet.Counters
	rw io.ReadWriteCloser

	rmu  sync.Mutex    // guards r and rerr; held while Recv waits
	r    *bufio.Reader // its Read ends when rw is closed
	rerr error

	smu     sync.Mutex // guards late; held while SendPackets waits
	late    *time.Timer
	emptied chan struct{} // signaled when write has taken the queue

	mu     sync.Mutex // guards the fields below; never held across a write
	wake   sync.Cond  // queue has frames, or closed was set
	queue  []byte     // complete frames with their lengths; never grows
	werr   error
	closed bool

	ended chan struct{} // closed when write has returned
}

// RecvPackets implements [packet.Transport]. It returns all frames that were read together.
func (s *Stream) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	b.Release() // while it waits
	s.rmu.Lock()
	defer s.rmu.Unlock()
	for {
		switch {
		case s.isClosed():
			return nil, net.ErrClosed
		case s.rerr != nil:
			return nil, s.rerr
		}
		s.r.Peek(headerLen) // waits; readFrame finds its error again
		s.readFrames(b)
		if len(b.Packets) > 0 {
			return b.Packets, nil
		}
	}
}

// readFrames reads one frame, and all others in the buffer.
func (s *Stream) readFrames(b *packet.Buffer) {
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
		if !s.buffered() {
			return
		}
	}
}

// buffered reports whether the buffer has a complete frame.
func (s *Stream) buffered() bool {
	n := s.r.Buffered()
	if n < headerLen {
		return false
	}
	header, err := s.r.Peek(headerLen)
	return err == nil && n >= headerLen+int(binary.BigEndian.Uint16(header))
}

func (s *Stream) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// readFrame reads one frame of up to ether.MaxFrame bytes. It returns 0 if the frame is
// empty or was dropped.
func (s *Stream) readFrame(frame []byte) (int, error) {
	header, err := s.r.Peek(headerLen)
	switch {
	case err == io.EOF && len(header) == 0:
		return 0, fmt.Errorf("the peer has ended the stream: %w", io.EOF)
	case err != nil:
		return 0, torn(err)
	}
	n := int(binary.BigEndian.Uint16(header))
	s.r.Discard(headerLen) // cannot fail after Peek
	switch {
	case n == 0:
		return 0, nil
	case n > maxFrame:
		return 0, fmt.Errorf("frame length %d is more than %d: this is not a VDE stream, or it has lost a byte", n, maxFrame)
	case n < ether.HeaderLen || n > ether.MaxFrame:
		s.DroppedRecv.Add(1)
		_, err = s.r.Discard(n)
		return 0, torn(err)
	}
	_, err = io.ReadFull(s.r, frame[:n])
	return n, torn(err)
}

// torn explains the end of a stream within a frame.
func torn(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("the peer has ended the stream within a frame: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// SendPackets implements [packet.Transport].
func (s *Stream) SendPackets(packets []packet.Packet, wait bool) error {
	if wait {
		s.smu.Lock()
		defer s.smu.Unlock()
	}
	late := time.Now().Add(packet.RoomWait)
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.wake.Signal()
	return s.EachFrame(packets, func(head, data []byte) error {
		switch n := len(head) + len(data); {
		case s.closed:
			return net.ErrClosed
		case s.werr != nil:
			return s.werr
		case n < ether.HeaderLen || n > ether.MaxFrame || !s.room(n) && !(wait && s.waitRoom(n, late)):
			s.DroppedSend.Add(1)
		default:
			s.queue = binary.BigEndian.AppendUint16(s.queue, uint16(n))
			s.queue = append(append(s.queue, head...), data...)
		}
		return nil
	})
}

// waitRoom waits until there is room for a frame of n bytes, or until late. It reports
// whether there is room, and unlocks mu while it waits.
func (s *Stream) waitRoom(n int, late time.Time) bool {
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
func (s *Stream) room(n int) bool { return len(s.queue)+headerLen+n <= cap(s.queue) }

// write writes the queue until the stream is closed. With a goroutine of its own, Send never
// blocks, whatever rw is, and no frame is written in part.
func (s *Stream) write() {
	defer close(s.ended)
	out := make([]byte, 0, queueSize)
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

// writeFrames writes complete frames: as many at a time as fit into writeSize, at least one.
func writeFrames(w io.Writer, b []byte) error {
	for len(b) > 0 {
		n := 0
		for n < len(b) {
			next := n + headerLen + int(binary.BigEndian.Uint16(b[n:]))
			if next > writeSize && n > 0 {
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

// Close gives the reader a moment to take the frames sent, and closes the stream.
func (s *Stream) Close() (err error) {
	s.mu.Lock()
	s.closed = true
	s.wake.Signal()
	s.mu.Unlock()
	closedWithin(s.ended, flushTimeout)
	err = s.rw.Close()
	if !closedWithin(s.ended, writerTimeout) {
		err = errors.Join(err, errors.New("stream: a write goes on although its file was closed"))
	}
	return err
}

// Stdio is standard input and output as one stream. It ends with the program.
type Stdio struct{}

func (Stdio) Read(b []byte) (int, error)  { return os.Stdin.Read(b) }
func (Stdio) Write(b []byte) (int, error) { return os.Stdout.Write(b) }

// Close does nothing.
func (Stdio) Close() error { return nil }

// closedWithin waits for a channel to be closed, and reports whether it was in time.
func closedWithin(c <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-c:
		return true
	case <-timer.C:
		return false
	}
}
