package testenv

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
)

// Opened returns what a call has opened, and closes it at the end of the test, which may
// have done so before:
//
//	nl := testenv.Opened(s.RTNL())(t)
func Opened[T io.Closer](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		Check(t, err)
		t.Cleanup(func() {
			if err := v.Close(); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrClosed) {
				t.Errorf("closing a %T: %v", v, err)
			}
		})
		return v
	}
}

// Listen listens in a stack until the end of the test.
func Listen(t testing.TB, s interface {
	Listen(network, address string) (net.Listener, error)
}, network, address string) net.Listener {
	t.Helper()
	return Opened(s.Listen(network, address))(t)
}

// ListenPacket listens for packets in a stack until the end of the test.
func ListenPacket(t testing.TB, s interface {
	ListenPacket(network, address string) (net.PacketConn, error)
}, network, address string) net.PacketConn {
	t.Helper()
	return Opened(s.ListenPacket(network, address))(t)
}

// Dial connects in a stack until the end of the test.
func Dial(t testing.TB, s interface {
	Dial(network, address string) (net.Conn, error)
}, network, address string) net.Conn {
	t.Helper()
	return Opened(s.Dial(network, address))(t)
}

// Socket makes a socket in a stack until the end of the test.
func Socket(t testing.TB, s interface {
	Socket(domain, typ, proto int) (*os.File, error)
}, domain, typ, proto int) *os.File {
	t.Helper()
	return Opened(s.Socket(domain, typ, proto))(t)
}
