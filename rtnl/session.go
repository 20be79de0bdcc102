package rtnl

import (
	"encoding/binary"
	"errors"
	"iter"
	"time"

	"github.com/mdlayher/netlink"
)

// A transport carries netlink datagrams: a socket, or a test that plays the kernel.
type transport interface {
	send(b []byte) error
	recv() ([]byte, error) // the caller owns the bytes
	setDeadline(t time.Time) error
	Close() error // unblocks send and recv, which return net.ErrClosed; twice is fine
}

var (
	// errInterrupted reports a dump that is not a picture of one moment.
	errInterrupted = errors.New("the table changed while it was read")
	errMalformed   = errors.New("malformed netlink message")
)

// A session is the socket under a netlink.Conn, which sees to it that one
// exchange at a time runs. The socket of package netlink takes the first
// datagram for the whole answer and leaves a later acknowledgment to be taken
// for the answer to the next request; a session reads an exchange to its end
// and drops what is left of one that was given up.
type session struct {
	transport
	timeout time.Duration  // of each step: the kernel answers at once
	request netlink.Header // the exchange that runs
}

func (s *session) Send(m netlink.Message) error {
	b, err := m.MarshalBinary()
	if err != nil {
		return err
	}
	s.request = m.Header
	if err := s.setDeadline(time.Now().Add(s.timeout)); err != nil {
		return err
	}
	return s.send(b)
}

// SendMessages completes the interface; Conn sends one message an exchange.
func (s *session) SendMessages(ms []netlink.Message) error {
	for _, m := range ms {
		if err := s.Send(m); err != nil {
			return err
		}
	}
	return nil
}

// Receive returns the whole answer to the last request.
func (s *session) Receive() ([]netlink.Message, error) {
	var answer []netlink.Message
	interrupted := false
	for {
		b, err := s.recv()
		if err != nil {
			return nil, err
		}
		for m, err := range messages(b) {
			if err != nil {
				return nil, err
			}
			if m.Header.Sequence != s.request.Sequence {
				continue
			}
			answer = append(answer, m)
			interrupted = interrupted || m.Header.Flags&netlink.DumpInterrupted != 0
			end := m.Header.Type == netlink.Error || m.Header.Type == netlink.Done
			single := s.request.Flags&netlink.Acknowledge == 0 && m.Header.Flags&netlink.Multi == 0
			switch {
			case end && interrupted:
				return nil, errInterrupted
			case end || single:
				return answer, nil
			}
			if err := s.setDeadline(time.Now().Add(s.timeout)); err != nil {
				return nil, err
			}
		}
	}
}

// ReceiveIter is Receive in the shape that netlink.Conn calls.
func (s *session) ReceiveIter() iter.Seq2[netlink.Message, error] {
	return func(yield func(netlink.Message, error) bool) {
		answer, err := s.Receive()
		if err != nil {
			yield(netlink.Message{}, err)
			return
		}
		for _, m := range answer {
			if !yield(m, nil) {
				return
			}
		}
	}
}

// messages splits a datagram.
func messages(b []byte) iter.Seq2[netlink.Message, error] {
	return func(yield func(netlink.Message, error) bool) {
		for len(b) > 0 {
			if len(b) < sizeofNlMsghdr {
				yield(netlink.Message{}, errMalformed)
				return
			}
			n := binary.NativeEndian.Uint32(b)
			if n < sizeofNlMsghdr || uint64(n) > uint64(len(b)) {
				yield(netlink.Message{}, errMalformed)
				return
			}
			m := netlink.Message{
				Header: netlink.Header{
					Length:   n,
					Type:     netlink.HeaderType(binary.NativeEndian.Uint16(b[4:])),
					Flags:    netlink.HeaderFlags(binary.NativeEndian.Uint16(b[6:])),
					Sequence: binary.NativeEndian.Uint32(b[8:]),
					PID:      binary.NativeEndian.Uint32(b[12:]),
				},
				Data: b[sizeofNlMsghdr:n:n],
			}
			if !yield(m, nil) {
				return
			}
			// The last message of a datagram may come without its padding.
			b = b[min((int(n)+3)&^3, len(b)):]
		}
	}
}
