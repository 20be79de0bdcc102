package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
)

const (
	// largest4 is what an IPv4 packet holds: 65535 less 20 for IP and 8 for UDP.
	largest4 = 65507
	// largest6 is what an IPv6 packet holds: its length does not count the header.
	largest6 = 65527
	// resend is after how long a datagram without an answer is sent again: networks may
	// lose datagrams, although the tests send few at once.
	resend = 3 * time.Second
)

// largest returns the size of the largest datagram of the route.
func (r route) largest() int {
	if netip.MustParseAddr(r.host).Is4() {
		return largest4
	}
	return largest6
}

// packets opens a socket at the end of the route, and one that is connected to
// it.
func (r route) packets(t testing.TB) (near, far *net.UDPConn) {
	t.Helper()
	lc := vdestack.ListenConfig{Stack: r.to}
	p := testenv.Must(lc.ListenPacket(t.Context(), "udp", net.JoinHostPort(r.host, "0")))(t)
	t.Cleanup(func() { p.Close() })
	d := vdestack.Dialer{Stack: r.from}
	c := testenv.Must(d.Dial("udp", p.LocalAddr().String()))(t)
	t.Cleanup(func() { c.Close() })
	p.SetDeadline(time.Now().Add(testenv.Timeout))
	return c.(*net.UDPConn), p.(*net.UDPConn)
}

// insist writes again and again until read has all that it reads from a socket.
func insist(c *net.UDPConn, write func() error, read func() (all bool, err error)) error {
	for end := time.Now().Add(testenv.Timeout); time.Now().Before(end); {
		if err := write(); err != nil {
			return err
		}
		c.SetReadDeadline(time.Now().Add(resend))
		for {
			all, err := read()
			if isTimeout(err) {
				break
			}
			if all || err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("no answer within %v", testenv.Timeout)
}

// ask writes a datagram until its answer, which is the datagram itself, has arrived.
func ask(c *net.UDPConn, datagram []byte) error {
	buf := make([]byte, 1<<16)
	return insist(c, func() error {
		_, err := c.Write(datagram)
		return err
	}, func() (bool, error) {
		n, err := c.Read(buf)
		same := n == len(datagram) // late answers have other lengths
		if err == nil && same && !bytes.Equal(buf[:n], datagram) {
			err = errors.New("the answer is not what was sent")
		}
		return same, err
	})
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// TestDatagrams exchanges datagrams of many lengths, up to the largest, which needs many
// fragments.
func TestDatagrams(t *testing.T) {
	over(t, routes, func(t *testing.T, r route) {
		near, far := r.packets(t)
		echo(t, far)
		largest := r.largest()
		for i, size := range []int{0, 1, 1000, 1472, 1473, 9000, 10000, 30000, 65000, largest - 1, largest} {
			if err := ask(near, payload{uint64(i), int64(size)}.bytes()); err != nil {
				t.Errorf("%d bytes: %v", size, err)
			}
		}
		if _, err := near.Write(make([]byte, largest+1)); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("%d bytes: %v, want EMSGSIZE", largest+1, err)
		}
	})
}

// TestRefused sends datagrams to a closed port, and gets an error.
func TestRefused(t *testing.T) {
	testenv.Long(t)
	over(t, routes, func(t *testing.T, r route) {
		near, far := r.packets(t)
		far.Close()
		err := ask(near, []byte("hello"))
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("got %v, want ECONNREFUSED", err)
		}
	})
}

// echo answers datagrams until the socket is closed.
func echo(t testing.TB, c net.PacketConn) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, err = c.WriteTo(buf[:n], from)
			}
			if err != nil {
				t.Errorf("echo: %v", err)
				return
			}
		}
	}()
	t.Cleanup(func() {
		c.Close()
		<-done
	})
}

// TestLinkLocal uses addresses with a zone, which is an interface of the stack.
func TestLinkLocal(t *testing.T) {
	guard(t)
	a := open(t, "mem://"+t.Name(), "fe80::a/64")
	b := open(t, "mem://"+t.Name(), "fe80::b/64")
	ln := testenv.Must(a.Listen("tcp", "[fe80::a%vde0]:80"))(t)
	s := protocols[0].site(t, ln, b)
	s.url = "http://[fe80::a%25vde0]"
	if err := s.echo(payload{1, 100000}); err != nil {
		t.Error(err)
	}
	near, far := route{host: "fe80::a%vde0", from: b, to: a}.packets(t)
	echo(t, far)
	if err := ask(near, payload{2, 20000}.bytes()); err != nil {
		t.Error(err)
	}
}
