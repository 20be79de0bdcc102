//go:build amd64 || arm64

package forward

import (
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/stack"
	"golang.org/x/sys/unix"
)

// TestNear has the kernel limit what waits for a peer on this machine, and leave the buffer
// for one that is far away as it is.
func TestNear(t *testing.T) {
	const vnl = "netemu://delay=2ms{mem://near}"
	var far [2]*stack.Stack
	for i, addr := range []string{"10.0.0.1/24", "10.0.0.2/24"} {
		far[i] = testenv.Opened(stack.New(t.Context(), stack.Config{Interfaces: []stack.Interface{{VNL: vnl, Addrs: testenv.Prefixes(addr)}}}))(t)
	}
	for _, tt := range []struct {
		name   string
		server net.ListenConfig
		client net.Dialer
		addr   string
		near   bool
	}{
		{"this machine", net.ListenConfig{}, net.Dialer{}, "127.0.0.1:0", true},
		{"far away", net.ListenConfig{Control: far[0].Control}, net.Dialer{Control: far[1].Control}, "10.0.0.1:0", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx := testenv.Context(t)
			l := testenv.Opened(tt.server.Listen(ctx, "tcp4", tt.addr))(t)
			c := testenv.Opened(tt.client.DialContext(ctx, "tcp4", l.Addr().String()))(t)
			echo := testenv.Opened(l.Accept())(t)
			go io.Copy(echo, echo)
			for _, end := range []net.Conn{c, echo} {
				raw := testenv.Must(end.(syscall.Conn).SyscallConn())(t)
				size := func() (n int) {
					raw.Control(func(fd uintptr) { n, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF) })
					return n
				}
				before := size()
				exchange := func() bool {
					var b [1]byte
					testenv.Must(c.Write(b[:]))(t)
					testenv.Must(io.ReadFull(c, b[:]))(t)
					return limitNear(raw)
				}
				if tt.near {
					// A busy machine may need some attempts for a short time.
					testenv.Eventually(t, "the peer is near", exchange)
					if got := size(); got != 2*nearBuffer { // the kernel doubles what it is given
						t.Errorf("the buffer has %d bytes, want %d", got, 2*nearBuffer)
					}
				} else if near := exchange(); near || size() < before {
					t.Errorf("near: %v; the buffer had %d bytes and has %d", near, before, size())
				}
			}
		})
	}
}
