package rtnl

import (
	"context"
	"errors"
	"iter"
	"net"
	"sync/atomic"
	"syscall"

	"github.com/mdlayher/netlink"
	"github.com/vdestack/vdestack/internal/nlsocket"
)

// An Event is one change. One of Link, Addr, Route and Neighbor is set.
type Event struct {
	// Deleted means that the entry is gone. Otherwise it is new or has changed.
	Deleted  bool
	Link     *Link
	Addr     *Addr
	Route    *Route
	Neighbor *Neighbor
}

// A watch is the socket of one Watch.
type watch struct {
	c    *Conn
	ctx  context.Context
	t    transport
	stop func() bool // detaches it from ctx
	used atomic.Bool
}

// Watch returns the changes of links, IPv4 and IPv6 addresses, routes and neighbours
// that happen after the call. For a complete picture call Watch, then list, then range
// over the changes.
//
//   - It can be ranged over once. It ends when ctx does, without an error and without the
//     changes that have not been read, when the Conn is closed (its last error is then
//     net.ErrClosed), and when the loop is left. A Watch that is never ranged over keeps a
//     descriptor until ctx or the Conn ends.
//   - ENOBUFS means that the loop was too slow and changes were lost. List again: later
//     changes are reported.
//   - After ENOBUFS, and after a message that could not be decoded, the loop goes on. Any
//     other error is the last element.
//   - The kernel does not report proxy entries, nor the IPv4 routes that disappear with
//     their link or address.
//   - A stack behind a socket pair has no Watch: errors.ErrUnsupported.
func (c *Conn) Watch(ctx context.Context) iter.Seq2[Event, error] {
	var w *watch
	t, err := openSocket(c.sockets, groupLink|groupNeigh|groupIPv4Addr|groupIPv4Route|groupIPv6Addr|groupIPv6Route)
	if err == nil {
		w, err = c.startWatch(ctx, t)
	}
	return func(yield func(Event, error) bool) {
		if err != nil {
			yield(Event{}, fail("watch", nil, err))
			return
		}
		w.run(yield)
	}
}

func (c *Conn) startWatch(ctx context.Context, t transport) (*watch, error) {
	w := &watch{c: c, ctx: ctx, t: t}
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.watches[w] = struct{}{}
		// Under the lock, so that close finds the watch in the map.
		w.stop = context.AfterFunc(ctx, w.close)
	}
	c.mu.Unlock()
	if closed {
		t.Close()
		return nil, net.ErrClosed
	}
	return w, nil
}

func (w *watch) close() {
	w.t.Close() // first: the Close of a Conn waits for those in the map
	w.c.mu.Lock()
	delete(w.c.watches, w)
	w.c.mu.Unlock()
}

func (w *watch) run(yield func(Event, error) bool) {
	if w.used.Swap(true) {
		yield(Event{}, fail("watch", nil, invalid(syscall.EINVAL, "it can be ranged over once")))
		return
	}
	defer w.close()
	defer w.stop()
	for {
		b, err := w.t.recv()
		switch {
		case w.ctx.Err() != nil:
			return
		case errors.Is(err, syscall.ENOBUFS):
			lost := invalid(syscall.ENOBUFS, "changes were lost: list again")
			if !yield(Event{}, fail("watch", nil, lost)) {
				return
			}
		case err != nil:
			yield(Event{}, fail("watch", nil, err))
			return
		}
		for m, err := range nlsocket.Messages(b) {
			e, ok := Event{}, false
			if err == nil {
				e, ok, err = decodeEvent(m)
			}
			if w.ctx.Err() != nil {
				return
			}
			if (ok || err != nil) && !yield(e, fail("watch", nil, err)) {
				return
			}
		}
	}
}

// decodeEvent returns false for messages that are not such a change.
func decodeEvent(m netlink.Message) (e Event, ok bool, err error) {
	switch m.Header.Type {
	case rtmNewLink, rtmDelLink:
		e.Link, ok, err = pointer(decodeLink(m.Data))
	case rtmNewAddr, rtmDelAddr:
		e.Addr, ok, err = pointer(decodeAddr(m.Data))
	case rtmNewRoute, rtmDelRoute:
		e.Route, ok, err = pointer(decodeRoute(m.Data))
	case rtmNewNeigh, rtmDelNeigh:
		e.Neighbor, ok, err = pointer(decodeNeighbor(m.Data))
	}
	if !ok || err != nil {
		return Event{}, false, err
	}
	e.Deleted = m.Header.Type&rtmKind == rtmKindDel
	return e, true, nil
}

func pointer[T any](v T, ok bool, err error) (*T, bool, error) { return &v, ok, err }
