package conformance

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
)

func TestMain(m *testing.M) {
	// The tests of TestScale all run at once, however few processors there are.
	flag.Set("test.parallel", strconv.Itoa(scale))
	testenv.Main(m)
}

// open opens a stack for the length of the test.
func open(t testing.TB, vnl string, prefixes ...string) *vdestack.Stack {
	t.Helper()
	s, err := vdestack.Open(vnl, prefixes...)
	if errors.Is(err, errors.ErrUnsupported) {
		testenv.Skip(t, "no stacks here: %v", err)
	}
	testenv.Check(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// A route is a way from one stack to another, or within one. A nil stack is the host.
type route struct {
	name     string
	host     string // address of to
	from, to *vdestack.Stack
}

// over runs a test on each route, and guards it.
func over(t *testing.T, routes func(testing.TB) []route, f func(t *testing.T, r route)) {
	t.Helper()
	guard(t)
	for _, r := range routes(t) {
		t.Run(r.name, func(t *testing.T) { f(t, r) })
	}
}

// routes returns the ways between two stacks, over an Ethernet in the kernel and over a
// cable in user space, and over loopback in one of them.
func routes(t testing.TB) []route {
	t.Helper()
	return append(ethernet(t), loopback(t)...)
}

// loopback returns the routes within a stack.
func loopback(t testing.TB) []route {
	t.Helper()
	s := open(t, "mem://"+t.Name(), "10.0.0.9/24", "fc00::1:9/64")
	return []route{{"loopback, IPv4", "127.0.0.1", s, s}, {"loopback, IPv6", "::1", s, s}}
}

// ethernet returns the routes between two stacks.
func ethernet(t testing.TB) (routes []route) {
	t.Helper()
	for _, n := range []struct{ name, vnl string }{{"ethernet", "mem://" + t.Name()}, {"cable", "ptp://" + filepath.Join(t.TempDir(), "ptp")}} {
		a := open(t, n.vnl, "10.0.0.1/24", "fc00::1:1/64")
		b := open(t, n.vnl, "10.0.0.2/24", "fc00::1:2/64")
		routes = append(routes, route{n.name + ", IPv4", "10.0.0.1", b, a}, route{n.name + ", IPv6", "fc00::1:1", b, a})
	}
	return routes
}

// listen listens at the end of the route.
func (r route) listen(t testing.TB) *net.TCPListener {
	t.Helper()
	listen := (&vdestack.ListenConfig{Stack: r.to}).Listen
	if r.to == nil {
		listen = (&net.ListenConfig{}).Listen
	}
	ln := testenv.Must(listen(t.Context(), "tcp", net.JoinHostPort(r.host, "0")))(t)
	t.Cleanup(func() { ln.Close() })
	return ln.(*net.TCPListener)
}

// dial connects to an address at the end of the route.
func (r route) dial(ctx context.Context, address string) (*net.TCPConn, error) {
	dial := (&vdestack.Dialer{Stack: r.from}).DialContext
	if r.from == nil {
		dial = (&net.Dialer{}).DialContext
	}
	c, err := dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(testenv.Timeout))
	return c.(*net.TCPConn), nil
}

// connect returns both ends of a connection.
func (r route) connect(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	ln := r.listen(t)
	defer ln.Close()
	near = testenv.Must(r.dial(t.Context(), ln.Addr().String()))(t)
	t.Cleanup(func() { near.Close() })
	ln.SetDeadline(time.Now().Add(testenv.Timeout))
	far = testenv.Must(ln.AcceptTCP())(t)
	t.Cleanup(func() { far.Close() })
	far.SetDeadline(time.Now().Add(testenv.Timeout))
	return near, far
}

// await waits for an event, and fails the test if it does not happen.
func await(t testing.TB, what string, event <-chan struct{}) {
	t.Helper()
	select {
	case <-event:
	case <-time.After(testenv.Timeout):
		t.Errorf("%s: not within %v", what, testenv.Timeout)
	}
}

// guard fails the test if it leaves goroutines or descriptors behind, or if a thread of
// the process leaves its namespaces meanwhile. It comes first in a test, so that its
// clean-up is the last.
func guard(t *testing.T) {
	t.Helper()
	// The first stack makes the helper task, whose descriptors stay.
	if s, err := vdestack.Open(""); err == nil {
		s.Close()
	}
	testenv.NoLeaks(t, netnstest.Settle, runtime.GC) // package net keeps the pipes of splice in a sync.Pool
	testenv.WatchNamespaces(t, "net", "user")        // of which the helper task has its own
}

// A payload is a stream of bytes that is determined by its seed.
type payload struct {
	seed uint64
	size int64
}

func (p payload) reader() io.Reader {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], p.seed)
	return io.LimitReader(rand.NewChaCha8(key), p.size)
}

func (p payload) bytes() []byte {
	b := make([]byte, p.size)
	io.ReadFull(p.reader(), b) // which has that many
	return b
}

func (p payload) sum() string {
	h := sha256.New()
	io.Copy(h, p.reader())
	return fmt.Sprintf("%d bytes %x", p.size, h.Sum(nil))
}

// sum reads r to its end and returns what payload.sum returns for the same
// bytes.
func sum(r io.Reader) (string, error) {
	h := sha256.New()
	n, err := io.Copy(h, r)
	return fmt.Sprintf("%d bytes %x", n, h.Sum(nil)), err
}

// check reads r to its end and returns an error if that is not the payload.
func (p payload) check(r io.Reader) error {
	got, err := sum(r)
	if err != nil {
		return fmt.Errorf("after %s: %w", got, err)
	}
	if want := p.sum(); got != want {
		return fmt.Errorf("got %s, want %s", got, want)
	}
	return nil
}

// checkNext reads as many bytes as the payload has, and returns an error if they are not
// the payload.
func (p payload) checkNext(r io.Reader) error { return p.check(io.LimitReader(r, p.size)) }

// send writes the payload, and ends the direction.
func (p payload) send(c interface {
	io.Writer
	CloseWrite() error
}) error {
	_, err := io.Copy(c, p.reader())
	return errors.Join(err, c.CloseWrite())
}
