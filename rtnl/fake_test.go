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
	"github.com/vdestack/vdestack/internal/nlsocket"
)

// A fake is a transport that plays the kernel. Its queue has room for all answers of a test.
type fake struct {
	answer func(req netlink.Message) []any // of netlink.Message, []netlink.Message (one datagram), []byte or error

	sent     [][]byte
	queue    chan any
	deadline <-chan time.Time
	closed   chan struct{}
	close    sync.Once
}

func newFake(answer func(req netlink.Message) []any) *fake {
	return &fake{answer: answer, queue: make(chan any, 1000), closed: make(chan struct{})}
}

func (f *fake) send(b []byte) error {
	for m, err := range nlsocket.Messages(b) {
		if err != nil {
			return err
		}
		answer := f.answer(m)
		if f.isClosed() {
			return net.ErrClosed
		}
		f.sent = append(f.sent, b)
		for _, d := range answer {
			f.queue <- d
		}
	}
	return nil
}

func (f *fake) recv() ([]byte, error) {
	select {
	case <-f.closed:
		return nil, net.ErrClosed
	case d := <-f.queue:
		return datagram(d)
	case <-f.deadline:
		return nil, os.ErrDeadlineExceeded
	}
}

func (f *fake) setDeadline(t time.Time) error {
	f.deadline = time.After(time.Until(t))
	return nil
}

func (f *fake) Close() error {
	f.close.Do(func() { close(f.closed) })
	return nil
}

func (f *fake) isClosed() bool {
	select {
	case <-f.closed:
		return true
	default:
		return false
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
