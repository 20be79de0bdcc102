package rtnl

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
)

// A fake is a transport that plays the kernel.
type fake struct {
	answer func(req netlink.Message) []any // of netlink.Message, []netlink.Message (one datagram), []byte or error

	mu       sync.Mutex
	sent     [][]byte
	queue    []any
	deadline time.Time
	closed   bool
	wake     chan struct{} // closed and replaced at each change
}

func newFake(answer func(req netlink.Message) []any) *fake {
	return &fake{answer: answer, wake: make(chan struct{})}
}

// changed wakes receivers; f.mu is held.
func (f *fake) changed() {
	close(f.wake)
	f.wake = make(chan struct{})
}

func (f *fake) send(b []byte) error {
	for m, err := range messages(b) {
		if err != nil {
			return err
		}
		answer := f.answer(m)
		f.mu.Lock()
		if f.closed {
			f.mu.Unlock()
			return net.ErrClosed
		}
		f.sent = append(f.sent, b)
		f.queue = append(f.queue, answer...)
		f.changed()
		f.mu.Unlock()
	}
	return nil
}

func (f *fake) recv() ([]byte, error) {
	for {
		f.mu.Lock()
		wake, left := f.wake, time.Until(f.deadline)
		switch {
		case f.closed:
			f.mu.Unlock()
			return nil, net.ErrClosed
		case len(f.queue) > 0:
			d := f.queue[0]
			f.queue = f.queue[1:]
			f.mu.Unlock()
			return datagram(d)
		case f.deadline.IsZero():
			left = time.Hour
		}
		f.mu.Unlock()
		select {
		case <-wake:
		case <-time.After(left):
			return nil, os.ErrDeadlineExceeded
		}
	}
}

func datagram(d any) ([]byte, error) {
	switch d := d.(type) {
	case error:
		return nil, d
	case []byte:
		return d, nil
	case netlink.Message:
		return d.MarshalBinary()
	case []netlink.Message:
		var all []byte
		for _, m := range d {
			b, err := m.MarshalBinary()
			if err != nil {
				return nil, err
			}
			all = append(all, b...)
		}
		return all, nil
	}
	return nil, fmt.Errorf("fake: %T", d)
}

func (f *fake) setDeadline(t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deadline = t
	f.changed()
	return nil
}

func (f *fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.changed()
	return nil
}

// reply returns a message that answers req, as a kernel makes it.
func reply(req netlink.Message, typ netlink.HeaderType, flags netlink.HeaderFlags, data []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{
			Length: uint32(sizeofNlMsghdr + (len(data)+3)&^3), Type: typ, Flags: flags,
			Sequence: req.Header.Sequence, PID: 4711,
		},
		Data: data,
	}
}

// ack returns the acknowledgment of req, or its refusal with an errno and a text.
func ack(req netlink.Message, errno int, msg string) netlink.Message {
	data := binary.NativeEndian.AppendUint32(nil, uint32(-errno))
	whole, err := req.MarshalBinary()
	if err != nil {
		panic(err)
	}
	flags := netlink.HeaderFlags(0)
	if errno == 0 {
		data, flags = append(data, whole[:sizeofNlMsghdr]...), netlink.Capped
	} else {
		data = append(data, whole...)
	}
	if msg != "" {
		attrs, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: 1, Data: append([]byte(msg), 0)}})
		if err != nil {
			panic(err)
		}
		data, flags = append(data, attrs...), flags|netlink.AcknowledgeTLVs
	}
	return reply(req, netlink.Error, flags, data)
}

// done returns the message that ends a dump.
func done(req netlink.Message) netlink.Message {
	return reply(req, netlink.Done, netlink.Multi, make([]byte, 4))
}

// dialFake connects to a kernel that answers with the function.
func dialFake(t testing.TB, answer func(req netlink.Message) []any) (*Conn, *fake) {
	t.Helper()
	f := newFake(answer)
	c := newConn(f, nil, 5*time.Second)
	t.Cleanup(func() { c.Close() })
	return c, f
}
