package packet_test

import (
	"net"
	"testing"
	"unsafe"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// udp returns a socket on loopback.
func udp(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	testenv.Check(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func setsockopt(t *testing.T, c *net.UDPConn, level, opt, value int) (err error) {
	t.Helper()
	if e := raw(t, c).Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, opt, value) }); e != nil {
		return e
	}
	return err
}

// sockaddr returns the address of a socket as Sender wants it.
func sockaddr(c *net.UDPConn) *unix.RawSockaddrInet6 {
	a := c.LocalAddr().(*net.UDPAddr).AddrPort()
	to := new(unix.RawSockaddrInet6)
	*(*unix.RawSockaddrInet4)(ptr(to)) = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: uint16(ntohs(a.Port())), Addr: a.Addr().As4()}
	return to
}

func ptr(a *unix.RawSockaddrInet6) unsafe.Pointer { return unsafe.Pointer(a) }

// ntohs swaps the bytes of a port on hosts that are little-endian.
func ntohs(port uint16) int {
	b := *(*[2]byte)(unsafe.Pointer(&port))
	return int(b[0])<<8 | int(b[1])
}
