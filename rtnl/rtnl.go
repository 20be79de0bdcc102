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
	// replyTimeout bounds the wait for an answer. The kernel has it ready when
	// the request was sent; only a lost one takes as long.
	replyTimeout = 10 * time.Second
	// dumpTries bounds the readings of a table that keeps changing.
	dumpTries = 100
)

// A SocketMaker makes a socket in some network stack. *vdestack.Stack and
// *stack.Stack are SocketMakers. The socket belongs to the caller. It need not be
// one of the kernel: a stack in user space answers at the other end of a socket
// pair, SOCK_SEQPACKET or SOCK_DGRAM, with a netlink message in each datagram or
// several. Such a Conn does everything but Watch.
type SocketMaker interface {
	Socket(domain, typ, proto int) (*os.File, error)
}

// A Conn configures one network stack. Any number of goroutines may use it at
// once; the kernel gets their requests one after the other. Requests end: with
// the answer of the kernel, after 10 seconds without one, or with Close.
type Conn struct {
	session *session
	sockets SocketMaker
	seq     atomic.Uint32
	noEcho  bool // the stack may ignore netlink.Echo for new links

	mu      sync.Mutex // guards closed and watches; never held across a system call
	closed  bool
	watches map[*watch]struct{}
}

var _ io.Closer = (*Conn)(nil)

// Dial opens a connection to the netlink service of s's stack; nil means the
// stack of the calling process. The connection stays in the stack it was made
// in. Changes need CAP_NET_ADMIN over that stack, listing needs nothing.
// Systems other than Linux have no netlink: errors.ErrUnsupported.
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
	}
}

// Close closes the connection and ends its watches. It may be called twice and
// together with other calls: those that wait return net.ErrClosed, as do all
// later ones. When it has returned no descriptor is left.
func (c *Conn) Close() error {
	c.mu.Lock()
	closed, watches := c.closed, c.watches
	c.closed, c.watches = true, nil
	c.mu.Unlock()
	if closed {
		return nil
	}
	for w := range watches {
		w.stop()
		w.t.Close()
	}
	return fail("close", nil, c.session.Close())
}

// Execute sends a prepared message and returns the messages of the answer, for
// what this package has no method for. Of the header only Type and Flags need
// be set. The Request flag is added, and so is Acknowledge for everything but
// queries, which answer in any case; an acknowledgment ends the answer as a
// message of type netlink.Error. The answer to a dump is all of its parts; one
// that a change interrupted is an error. It replaces nldialog.
func (c *Conn) Execute(m netlink.Message) ([]netlink.Message, error) {
	const kind, query = 3, 2 // of every four types the third is the query
	m.Header.Flags |= netlink.Request
	if m.Header.Type&kind != query {
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

// change sends a request to change something and waits until it is done.
func (c *Conn) change(typ netlink.HeaderType, flags netlink.HeaderFlags, body []byte) ([]netlink.Message, error) {
	return c.execute(netlink.Message{
		Header: netlink.Header{Type: typ, Flags: netlink.Request | netlink.Acknowledge | flags},
		Data:   body,
	})
}

// send is change with a body that is encoded here.
func (c *Conn) send(typ netlink.HeaderType, flags netlink.HeaderFlags, m interface{ encode() ([]byte, error) }) error {
	body, err := m.encode()
	if err == nil {
		_, err = c.change(typ, flags, body)
	}
	return err
}

// dump reads a table. A reading that a change or a full buffer spoilt is
// repeated: the kernel marks it but sends it all the same.
func (c *Conn) dump(typ netlink.HeaderType, body []byte) ([]netlink.Message, error) {
	var err error
	for range dumpTries {
		var answer []netlink.Message
		answer, err = c.execute(netlink.Message{
			Header: netlink.Header{Type: typ, Flags: netlink.Request | netlink.Dump},
			Data:   body,
		})
		if !errors.Is(err, errInterrupted) && !errors.Is(err, syscall.EINTR) && !errors.Is(err, syscall.ENOBUFS) {
			return answer, err
		}
	}
	if errors.Is(err, errInterrupted) {
		err = invalid(syscall.EAGAIN, "the table changed during each of %d readings", dumpTries)
	}
	return nil, err
}

// list reads a table and decodes what it holds. decode reports false for what
// does not belong into the list.
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

// check refuses what does not fit the kernel's field. 0 is the kernel's to
// judge: it means "any" to some requests.
func (i ifIndex) check() error {
	if i < 0 || int64(i) > 1<<31-1 {
		return invalid(syscall.EINVAL, "interface index %d", int(i))
	}
	return nil
}
