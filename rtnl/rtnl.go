package rtnl

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
)

const (
	// replyTimeout bounds the wait for an answer. The kernel answers at once, so
	// this ends only the wait for an answer that was lost.
	replyTimeout = 10 * time.Second
	// dumpTries is how often a table that keeps changing is read.
	dumpTries = 100
)

// A SocketMaker makes sockets in a network stack. *vdestack.Stack and *stack.Stack
// are SocketMakers. Dial and Watch ask for AF_NETLINK, SOCK_RAW and NETLINK_ROUTE. The
// socket belongs to the caller.
//
// A stack in user space returns one end of a socket pair (SOCK_SEQPACKET or
// SOCK_DGRAM) and answers at the other, with one or more netlink messages in each
// datagram. Everything but Watch works on it.
type SocketMaker interface {
	Socket(domain, typ, proto int) (*os.File, error)
}

// A Conn configures one network stack. Any number of goroutines may use it at
// once; the kernel gets their requests one after the other. A request ends with
// the kernel's answer, after 10 seconds without one, or with Close.
type Conn struct {
	session *session
	sockets SocketMaker
	seq     atomic.Uint32
	noEcho  bool // the stack may ignore netlink.Echo for new links

	mu      sync.Mutex // guards closed and watches; never held across a system call
	closed  bool
	watches map[*watch]struct{}
	ended   chan struct{} // closed when the first Close returns
}

var _ io.Closer = (*Conn)(nil)

// Dial opens a connection to the netlink service of s's stack; nil means the
// stack of the calling process. [github.com/vdestack/vdestack.Stack.RTNL] does the
// same for a stack. Changes need CAP_NET_ADMIN over the stack, listing needs no
// privilege. On systems other than Linux the error is errors.ErrUnsupported.
func Dial(s SocketMaker) (*Conn, error) {
	t, err := openSocket(s, 0)
	if err != nil {
		return nil, fail("dial", nil, err)
	}
	c := newConn(t, s, replyTimeout)
	c.noEcho = !linkEcho(t)
	return c, nil
}

func newConn(t transport, s SocketMaker, timeout time.Duration) *Conn {
	return &Conn{
		session: &session{transport: t, timeout: timeout},
		sockets: s,
		watches: make(map[*watch]struct{}),
		ended:   make(chan struct{}),
	}
}

// Close closes the connection and ends its watches. It may be called twice, and
// while other calls run: those and all later ones return net.ErrClosed. When it
// returns, all descriptors are closed.
func (c *Conn) Close() error {
	c.mu.Lock()
	closed, watches := c.closed, c.watches
	c.closed, c.watches = true, nil
	c.mu.Unlock()
	if closed {
		<-c.ended
		return nil
	}
	defer close(c.ended)
	for w := range watches {
		w.stop()
		w.t.Close()
	}
	return fail("close", nil, c.session.Close())
}

// Execute sends a message of the caller's and returns the answer, for requests that
// have no method here. It replaces nldialog.
//
//   - Only Type and Flags of the header need to be set. Execute adds the flag Request
//     and, to everything but queries, Acknowledge.
//   - An acknowledgment is the last message of the answer, of type netlink.Error.
//   - The answer to a dump has all of its parts. It is an error if a change
//     interrupted the dump.
func (c *Conn) Execute(m netlink.Message) ([]netlink.Message, error) {
	m.Header.Flags |= netlink.Request
	if m.Header.Type&rtmKind != rtmKindGet {
		m.Header.Flags |= netlink.Acknowledge
	}
	answer, err := c.execute(m)
	return answer, fail("execute", text(fmt.Sprintf("message of type %d", m.Header.Type)), err)
}

func (c *Conn) execute(m netlink.Message) ([]netlink.Message, error) {
	for m.Header.Sequence == 0 {
		m.Header.Sequence = c.seq.Add(1)
	}
	return c.session.execute(m)
}

// request sends a request and returns the answer.
func (c *Conn) request(typ netlink.HeaderType, flags netlink.HeaderFlags, body []byte) ([]netlink.Message, error) {
	return c.execute(netlink.Message{Header: netlink.Header{Type: typ, Flags: netlink.Request | flags}, Data: body})
}

// change sends a request to change something, unless err says that it could not be
// encoded, and waits until it is done.
func (c *Conn) change(typ netlink.HeaderType, flags netlink.HeaderFlags, body []byte, err error) error {
	if err == nil {
		_, err = c.request(typ, netlink.Acknowledge|flags, body)
	}
	return err
}

// send is change with a body that is encoded here.
func (c *Conn) send(typ netlink.HeaderType, flags netlink.HeaderFlags, m interface{ encode() ([]byte, error) }) error {
	body, err := m.encode()
	return c.change(typ, flags, body, err)
}

// dump reads a table, again if a change or a full buffer has spoilt the answer: the
// kernel marks such an answer, but sends it.
func (c *Conn) dump(typ netlink.HeaderType, body []byte) ([]netlink.Message, error) {
	var err error
	for range dumpTries {
		var answer []netlink.Message
		answer, err = c.request(typ, netlink.Dump, body)
		if !errors.Is(err, errInterrupted) && !errors.Is(err, syscall.EINTR) && !errors.Is(err, syscall.ENOBUFS) {
			return answer, err
		}
	}
	if errors.Is(err, errInterrupted) {
		err = invalid(syscall.EAGAIN, "the table changed during each of %d readings", dumpTries)
	}
	return nil, err
}

// list reads a table and decodes it. decode returns false for messages that do not
// belong into the list.
func list[T any](c *Conn, op string, typ netlink.HeaderType, body []byte, decode func([]byte) (T, bool, error)) ([]T, error) {
	answer, err := c.dump(typ, body)
	if err != nil {
		return nil, fail(op, nil, err)
	}
	all := make([]T, 0, len(answer))
	for _, m := range answer {
		v, ok, err := decode(m.Data)
		if err != nil {
			return nil, fail(op, nil, err)
		}
		if ok {
			all = append(all, v)
		}
	}
	return all, nil
}

// text is a subject in words, for fail.
type text string

func (t text) String() string { return string(t) }

// ifIndex is an interface as the subject of an error.
type ifIndex int

func (i ifIndex) String() string { return fmt.Sprintf("interface %d", int(i)) }

// check leaves 0 to the kernel: it means "any" in some requests.
func (i ifIndex) check() error { return checkInt("interface index", int(i)) }
