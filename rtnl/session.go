package rtnl

import (
	"encoding/binary"
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/vdestack/vdestack/internal/nlsocket"
)

// A transport carries netlink datagrams: to the kernel, or to a test that plays it.
type transport interface {
	send(b []byte) error
	recv() ([]byte, error) // the caller owns the bytes
	setDeadline(t time.Time) error
	Close() error // unblocks send and recv, which return net.ErrClosed; twice is fine
}

var (
	// errInterrupted means that a dump does not show the table at one moment.
	errInterrupted = errors.New("the table changed while it was read")
	errMalformed   = nlsocket.ErrMalformed
)

// A session has one exchange with the kernel at a time. It reads each answer to its
// end, and skips what is left of an answer that was given up.
type session struct {
	transport
	timeout time.Duration // for each part of an answer

	mu sync.Mutex // held for an exchange
}

// execute fills in length and port of a message, sends it, and returns the answer
// without the message that ends a dump.
func (s *session) execute(m netlink.Message) ([]netlink.Message, error) {
	m.Header.Length = uint32(sizeofNlMsghdr+len(m.Data)+3) &^ 3
	m.Header.PID = 0 // as in messages of C programs
	b, err := m.MarshalBinary()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.setDeadline(time.Now().Add(s.timeout)); err != nil {
		return nil, err
	}
	if err := s.send(b); err != nil {
		return nil, err
	}
	answer, err := s.receive(m.Header)
	if err != nil {
		return nil, err
	}
	last := answer[len(answer)-1]
	if err := refusal(last); err != nil {
		return nil, err
	}
	if last.Header.Type == netlink.Done {
		answer = answer[:len(answer)-1]
	}
	return answer, nil
}

// receive returns the whole answer to a request.
func (s *session) receive(request netlink.Header) ([]netlink.Message, error) {
	var answer []netlink.Message
	interrupted := false
	for {
		b, err := s.recv()
		if err != nil {
			return nil, err
		}
		for m, err := range nlsocket.Messages(b) {
			if err != nil {
				return nil, err
			}
			if m.Header.Sequence != request.Sequence {
				continue
			}
			answer = append(answer, m)
			interrupted = interrupted || m.Header.Flags&netlink.DumpInterrupted != 0
			end := m.Header.Type == netlink.Error || m.Header.Type == netlink.Done
			single := request.Flags&netlink.Acknowledge == 0 && m.Header.Flags&netlink.Multi == 0
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

// refusal returns the error in the last message of an answer, if there is one: that of
// a struct nlmsgerr, or the number that ends a dump, with the kernel's explanation
// (extended acknowledgment).
func refusal(m netlink.Message) error {
	const sizeofErrno = 4
	words := sizeofErrno
	switch m.Header.Type {
	case netlink.Error:
		words += sizeofNlMsghdr // of the request, whose data may follow
	case netlink.Done:
		if len(m.Data) == 0 {
			return nil
		}
	default:
		return nil
	}
	if len(m.Data) < words {
		return errMalformed
	}
	errno := -int32(binary.NativeEndian.Uint32(m.Data))
	switch {
	case errno == 0:
		return nil
	case errno < 0:
		return errMalformed
	}
	e := &Error{Err: syscall.Errno(errno)}
	if m.Header.Flags&netlink.AcknowledgeTLVs == 0 {
		return e
	}
	if m.Header.Type == netlink.Error && m.Header.Flags&netlink.Capped == 0 {
		n := binary.NativeEndian.Uint32(m.Data[sizeofErrno:])
		if n < sizeofNlMsghdr || uint64(n) > uint64(len(m.Data)-sizeofErrno) {
			return e
		}
		words = min(sizeofErrno+int(n+3)&^3, len(m.Data))
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[words:])
	if err != nil {
		return e
	}
	for ad.Next() {
		if ad.Type() == nlmsgerrAttrMsg {
			e.Msg = ad.String()
		}
	}
	return e
}
