package vdeplug

import (
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

// A lastingError ends a network that cannot be opened again.
type lastingError struct{ error }

func (e lastingError) Unwrap() error { return e.error }

// A reconnector is a plug on a network that is opened again when it is gone. It
// has a goroutine only then, and a little longer.
type reconnector struct {
	packet.Counters // of frames for a network that is gone
	vnl             string
	again           func(context.Context) (_ Conn, changed bool, _ error)
	notify          func(Link)
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

// A session is the plug on the network, or an absence in its place.
type session struct {
	transport packet.Transport
	absence   *absence // transport, if it is one

	// When the network has gone: why.
	cause error
	lost  chan struct{} // closed when cause is set
}

func newSession(c Conn) *session {
	return &session{transport: transportOf(c), lost: make(chan struct{})}
}

// newReconnector takes over an open plug. again opens its network once more, and
// says whether that is another one than the locator meant at first. ctx has the
// values that again wants.
func newReconnector(ctx context.Context, vnl string, c Conn, notify func(Link), again func(context.Context) (Conn, bool, error)) Conn {
	r := &reconnector{vnl: vnl, again: again, notify: notify, live: newSession(c)}
	r.ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	r.now.Store(r.live)
	return newPlug(vnl, r)
}

// RecvPackets implements [packet.Transport].
func (r *reconnector) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	for {
		s := r.now.Load()
		packets, err := s.transport.RecvPackets(b)
		if err == nil {
			return packets, nil
		}
		b.Release() // it may take long
		if err := r.lose(s, "recv", err); err != nil {
			return nil, err
		}
	}
}

// SendPackets implements [packet.Transport].
func (r *reconnector) SendPackets(packets []packet.Packet, wait bool) error {
	s := r.now.Load()
	err := s.transport.SendPackets(packets, wait)
	if err == nil {
		return nil
	}
	if err := r.lose(s, "send", err); err != nil {
		return err
	}
	r.DropPackets(packets)
	return nil
}

// lose records that a call of the session's plug has failed. It returns an error if there
// will be no other session.
func (r *reconnector) lose(s *session, op string, err error) error {
	if _, ok := errors.AsType[*Error](err); !ok { // of a plug that another package has made
		err = &Error{op, r.vnl, err}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return net.ErrClosed
	case s.absence != nil && r.now.Load() == s:
		return err // the absence is permanent
	case r.now.Load() != s:
		return nil
	}
	s.cause = err
	close(s.lost)
	r.link.Err, r.link.Reconnecting = err, true
	a := &absence{r: r, over: make(chan struct{})}
	r.now.Store(&session{transport: a, absence: a})
	if !r.running {
		r.running = true
		r.work.Go(func() { r.revive(s) })
	}
	return nil
}

// revive opens the network of a lost session again, until it is steady.
func (r *reconnector) revive(s *session) {
	wait := reconnectFirst
	for told := false; ; {
		if _, ok := errors.AsType[lastingError](s.cause); ok {
			r.Forget(s)
			r.end(s.cause)
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
		steady := time.NewTimer(reconnectSteady)
		select {
		case <-r.ctx.Done():
			steady.Stop()
			return
		case <-next.lost:
			steady.Stop()
			told = true
		case <-steady.C:
			if told {
				r.tell()
			}
			if r.rest(next) {
				return
			}
			told, wait = false, reconnectFirst
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
		timer := time.NewTimer(*wait - rand.N(*wait/4))
		*wait = min(2**wait, reconnectMax)
		select {
		case <-r.ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		ctx, cancel := context.WithTimeout(r.ctx, openTimeout)
		c, changed, err := r.again(ctx)
		cancel()
		if err == nil {
			return r.come(newSession(c))
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
	a := r.now.Load().absence
	r.link = Link{Reconnects: r.link.Reconnects + 1}
	r.live = s
	r.now.Store(s)
	r.mu.Unlock()
	close(a.over)
	return s
}

// end makes the absence permanent. Calls return err from now on.
func (r *reconnector) end(err error) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	a := r.now.Load().absence
	a.err = err
	r.link.Err, r.link.Reconnecting = err, false
	r.mu.Unlock()
	close(a.over)
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

// An absence is in the place of a plug while the network is gone. It drops what
// is sent.
type absence struct {
	r    *reconnector
	over chan struct{} // closed at the end of the absence
	err  error         // why it is permanent; set before over is closed
}

// errOver says that there is a new session.
var errOver = errors.New("vdeplug: the network is back")

func (a *absence) wait() error {
	select {
	case <-a.r.ctx.Done():
		return net.ErrClosed
	case <-a.over:
	}
	if a.err != nil {
		return a.err
	}
	return errOver
}

// ended returns why nothing will ever be sent.
func (a *absence) ended() error {
	if a.r.ctx.Err() != nil {
		return net.ErrClosed
	}
	select {
	case <-a.over:
		return a.err
	default:
		return nil
	}
}

func (a *absence) RecvPackets(*packet.Buffer) ([]packet.Packet, error) { return nil, a.wait() }

func (a *absence) SendPackets(packets []packet.Packet, _ bool) error {
	err := a.ended()
	if err == nil {
		a.r.DropPackets(packets)
	}
	return err
}

func (a *absence) Close() error { return nil }
