package wireguard

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/rtnl"
	"golang.zx2c4.com/wireguard/tun"
)

// A tunDevice is the interface of a tunnel. What it is told and asked comes from the stack:
// the constructors of package tun would ask the host.
type tunDevice struct {
	*vdestack.TUN
	events chan tun.Event
	cancel context.CancelFunc // ends the goroutine that closes events
	flush  func()             // called at the end, before the device knows of it
}

var _ tun.Device = (*tunDevice)(nil)

// newTUNDevice makes one that reports what happens to the interface from now on, as netlink says.
func newTUNDevice(t *vdestack.TUN, nl *rtnl.Conn, index int, flush func()) *tunDevice {
	ctx, cancel := context.WithCancel(context.Background())
	d := &tunDevice{TUN: t, events: make(chan tun.Event), cancel: cancel, flush: flush}
	changes := nl.Watch(ctx)
	was, _ := nl.Link(index) // if it is gone, Read fails
	go func() {
		defer close(d.events)
		for e, err := range changes {
			now := e.Link
			if errors.Is(err, syscall.ENOBUFS) {
				if l, err := nl.Link(index); err == nil {
					now = &l
				}
			}
			if now == nil || now.Index != index || e.Deleted {
				continue
			}
			if event := difference(was, *now); event != 0 {
				select {
				case d.events <- event:
				case <-ctx.Done():
				}
			}
			was = *now
		}
	}()
	return d
}

// difference returns what a device is told of a change.
func difference(was, now rtnl.Link) (e tun.Event) {
	if now.MTU != was.MTU {
		e |= tun.EventMTUUpdate
	}
	switch up := now.Flags & net.FlagUp; {
	case up == was.Flags&net.FlagUp:
	case up != 0:
		e |= tun.EventUp
	default:
		e |= tun.EventDown
	}
	return e
}

// Read leaves out what is larger than the device's buffers, because of an MTU that somebody
// has set: it would take the error for the end.
func (d *tunDevice) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	for {
		n, err := d.TUN.Read(bufs, sizes, offset)
		switch {
		case errors.Is(err, os.ErrClosed):
			d.flush()
			return n, err
		case !errors.Is(err, io.ErrShortBuffer):
			return n, err
		}
	}
}

// File returns nil: the device does not use it.
func (d *tunDevice) File() *os.File { return nil }

// Events returns the channel of the events.
func (d *tunDevice) Events() <-chan tun.Event { return d.events }

// Close removes the interface.
func (d *tunDevice) Close() error {
	d.cancel()
	return d.TUN.Close()
}
