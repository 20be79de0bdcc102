package vdeplug

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vdestack/vdestack/internal/errtext"
	"github.com/vdestack/vdestack/internal/packet"
)

const (
	// reconnectFirst is the wait before the first attempt to open a network again. Each
	// wait is twice the one before, up to reconnectMax, and is shortened by up to a
	// quarter at random, so that the plugs of a switch do not all come back at once.
	reconnectFirst = 50 * time.Millisecond
	reconnectMax   = 5 * time.Second
	// reconnectSteady is how long a network must last to count as back. If it ends
	// earlier, as a command does that has no network itself, the waits grow, and Notify
	// is not called each time.
	reconnectSteady = time.Second
	// reconnectDoubt is how long a lasting error must be the answer before the plug gives
	// up. A switch makes its socket before it sets the permissions, as udev does with
	// devices, and a file is empty before it has a locator.
	reconnectDoubt = time.Second
)

// A Link says whether the network of a plug with [Options.Reconnect] is there.
type Link struct {
	// Err says why the network is not there; nil while it is.
	Err error
	// Reconnecting is true while the network is gone and is being opened again. With an
	// Err and without Reconnecting, it is gone for good.
	Reconnecting bool
	// Reconnects counts how often the network was opened again.
	Reconnects uint64
}

// MarshalJSON writes the error as text, or null.
func (l Link) MarshalJSON() ([]byte, error) {
	type fields Link // without this method
	return json.Marshal(struct {
		fields
		Err *string
	}{fields(l), errtext.Of(l.Err)})
}

// A Linker is a Conn that knows whether its network is there. Every plug of this
// package that was opened with [Options.Reconnect] is one.
type Linker interface {
	Link() Link
}

// A reconnector is a plug on a network that is opened again when it is gone. It
// has a goroutine only then, and a little longer.
type reconnector struct {
	packet.Counters // of frames for a network that is gone
	vnl             string
	again           func(context.Context) (_ Conn, changed bool, _ error)
	notify          func(Link)
	first, max      time.Duration // the waits
	now             atomic.Pointer[session]

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup // of revive

	mu       sync.Mutex // guards the fields below; never held across a call of a plug
	link     Link
	live     *session // that forget has not met
	past     Drops    // of the plugs before
	running  bool     // revive runs
	closed   bool
	closeErr error // of a plug before
}

var (
	_ Linker           = (*reconnector)(nil)
	_ packet.Transport = (*reconnector)(nil)
)

// A session is the time from one opening of the network to its loss, or an absence: the
// time from there to the next session.
type session struct {
	transport packet.Transport // nil: an absence
	over      chan struct{}    // closed at the end
	// err is set before over is closed: why the network has gone, or why an absence is
	// permanent; nil if the network is back.
	err error
}

func newSession(t packet.Transport) *session {
	return &session{transport: t, over: make(chan struct{})}
}

// A finalError ends a network that cannot be opened again.
type finalError struct{ error }

func (e finalError) Unwrap() error { return e.error }

// final makes err a finalError, unless it is nil.
func final(err error) error {
	if err == nil {
		return nil
	}
	return finalError{err}
}

// newReconnector takes over an open plug. again opens its network once more, and
// says whether that is another one than the locator meant at first. ctx has the
// values that again wants.
func newReconnector(ctx context.Context, vnl string, c Conn, o *Options, again func(context.Context) (Conn, bool, error)) Conn {
	r := &reconnector{vnl: vnl, again: again, notify: o.Notify, live: newSession(transportOf(c)),
		first: cmp.Or(o.every, reconnectFirst), max: cmp.Or(o.every, reconnectMax)}
	r.ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	r.now.Store(r.live)
	return newPlug(vnl, r)
}

// RecvPackets implements [packet.Transport].
func (r *reconnector) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	for {
		s := r.now.Load()
		if s.transport == nil {
			b.Release() // it may take long
			select {
			case <-r.ctx.Done():
				return nil, net.ErrClosed
			case <-s.over:
			}
			if s.err != nil {
				return nil, s.err
			}
			continue
		}
		packets, err := s.transport.RecvPackets(b)
		if err == nil {
			return packets, nil
		}
		if err := r.lose(s, "recv", err); err != nil {
			return nil, err
		}
	}
}

// SendPackets implements [packet.Transport].
func (r *reconnector) SendPackets(packets []packet.Packet, wait bool) error {
	s := r.now.Load()
	if s.transport == nil {
		if r.ctx.Err() != nil {
			return net.ErrClosed
		}
		select {
		case <-s.over:
			if s.err != nil {
				return s.err
			}
		default:
		}
	} else if err := s.transport.SendPackets(packets, wait); err == nil {
		return nil
	} else if err := r.lose(s, "send", err); err != nil {
		return err
	}
	r.DropPackets(packets)
	return nil
}

// lose records that a call of the session's plug has failed. It returns an error after Close.
func (r *reconnector) lose(s *session, op string, err error) error {
	if _, ok := errors.AsType[*Error](err); !ok { // of a plug that another package has made
		err = &Error{op, r.vnl, err}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return net.ErrClosed
	case r.now.Load() != s:
		return nil
	}
	r.link.Err, r.link.Reconnecting = err, true
	r.now.Store(newSession(nil))
	s.err = err
	close(s.over)
	if !r.running {
		r.running = true
		r.work.Go(func() { r.revive(s) })
	}
	return nil
}

// revive opens the network of a lost session again, until it is steady.
func (r *reconnector) revive(s *session) {
	wait := r.first
	for told := false; ; {
		if _, ok := errors.AsType[finalError](s.err); ok {
			r.Forget(s)
			r.end(s.err)
			return
		}
		if !told {
			r.tell()
		}
		r.Forget(s)
		next := r.reopen(&wait)
		if next == nil {
			return
		}
		if !told {
			r.tell()
		}
		select {
		case <-r.ctx.Done():
			return
		case <-next.over:
			told = true
		case <-time.After(reconnectSteady):
			if told {
				r.tell()
			}
			if r.rest(next) {
				return
			}
			told, wait = false, r.first
		}
		s = next
	}
}

// rest ends revive, unless the session was lost meanwhile.
func (r *reconnector) rest(s *session) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running = r.now.Load() != s
	return !r.running
}

// Forget closes the plug of a lost session, and wakes what waits in it.
func (r *reconnector) Forget(s *session) {
	err := s.transport.Close()
	recv, send := packet.Dropped(s.transport)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.closeErr = err
	}
	r.past.Recv += recv
	r.past.Send += send
	r.live = nil
}

// reopen tries until it has opened the network, and replaces the absence by a session. It
// returns nil after Close, or after a lasting error. wait is the time before the next
// attempt.
func (r *reconnector) reopen(wait *time.Duration) *session {
	var doubt time.Time // since when
	for {
		select {
		case <-r.ctx.Done():
			return nil
		case <-time.After(*wait - rand.N(*wait/4)):
		}
		*wait = min(2**wait, r.max)
		ctx, cancel := context.WithTimeout(r.ctx, openTimeout)
		c, changed, err := r.again(ctx)
		cancel()
		if err == nil {
			return r.come(newSession(transportOf(c)))
		}
		err = &Error{"open", r.vnl, err}
		switch {
		case passing(err, changed):
			doubt = time.Time{}
		case doubt.IsZero():
			doubt = time.Now()
		case time.Since(doubt) >= reconnectDoubt:
			r.end(err)
			return nil
		}
		r.mu.Lock()
		r.link.Err = err
		r.mu.Unlock()
	}
}

// passing reports whether another attempt to open a network may succeed after this error.
// If the locator in a file has changed, an error that is not of the system is its fault.
func passing(err error, changed bool) bool {
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, errors.ErrUnsupported):
		return false
	case !changed:
		return true
	}
	_, system := errors.AsType[syscall.Errno](err)
	_, network := errors.AsType[net.Error](err)
	return system || network || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

// come replaces the absence by a session.
func (r *reconnector) come(s *session) *session {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		r.Forget(s)
		return nil
	}
	absence := r.now.Load()
	r.link = Link{Reconnects: r.link.Reconnects + 1}
	r.live = s
	r.now.Store(s)
	r.mu.Unlock()
	close(absence.over)
	return s
}

// end makes the absence permanent. Calls return err from now on.
func (r *reconnector) end(err error) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	absence := r.now.Load()
	absence.err = err
	r.link.Err, r.link.Reconnecting = err, false
	r.mu.Unlock()
	close(absence.over)
	r.tell()
}

// tell calls Notify with the state of the link.
func (r *reconnector) tell() {
	if l := r.Link(); r.notify != nil && r.ctx.Err() == nil {
		r.notify(l)
	}
}

func (r *reconnector) Link() Link {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.link
}

// Dropped returns the counts of all plugs so far.
func (r *reconnector) Dropped() (recv, send uint64) {
	r.mu.Lock()
	past, live := r.past, r.live
	r.mu.Unlock()
	recv, send = r.Counters.Dropped()
	recv, send = recv+past.Recv, send+past.Send
	if live != nil {
		r, s := packet.Dropped(live.transport)
		recv, send = recv+r, send+s
	}
	return recv, send
}

func (r *reconnector) Close() (err error) {
	r.mu.Lock()
	r.closed = true
	live := r.live
	r.mu.Unlock()
	r.cancel()
	if live != nil {
		err = live.transport.Close() // a second time, perhaps
	}
	r.work.Wait()
	return errors.Join(err, r.closeErr) // no lock: no other goroutine is left
}
