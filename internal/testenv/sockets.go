package testenv

import (
	"io"
	"net"
	"os"
	"testing"
)

// Listen listens in a stack until the end of the test.
func Listen(t testing.TB, s interface {
	Listen(network, address string) (net.Listener, error)
}, network, address string) net.Listener {
	t.Helper()
	ln, err := s.Listen(network, address)
	return opened(t, ln, err)
}

// ListenPacket listens for packets in a stack until the end of the test.
func ListenPacket(t testing.TB, s interface {
	ListenPacket(network, address string) (net.PacketConn, error)
}, network, address string) net.PacketConn {
	t.Helper()
	c, err := s.ListenPacket(network, address)
	return opened(t, c, err)
}

// Dial connects in a stack until the end of the test.
func Dial(t testing.TB, s interface {
	Dial(network, address string) (net.Conn, error)
}, network, address string) net.Conn {
	t.Helper()
	c, err := s.Dial(network, address)
	return opened(t, c, err)
}

// Socket makes a socket in a stack until the end of the test.
func Socket(t testing.TB, s interface {
	Socket(domain, typ, proto int) (*os.File, error)
}, domain, typ, proto int) *os.File {
	t.Helper()
	f, err := s.Socket(domain, typ, proto)
	return opened(t, f, err)
}

func opened[C io.Closer](t testing.TB, c C, err error) C {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
