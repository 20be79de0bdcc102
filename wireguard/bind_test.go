package wireguard

import (
	"fmt"
	"syscall"
	"testing"

	"golang.zx2c4.com/wireguard/conn"
)

// A narrowBind refuses to send packets together, as the kernel those that are too large.
type narrowBind struct {
	conn.Bind
	err  error
	sent []string
}

func (b *narrowBind) Send(bufs [][]byte, _ conn.Endpoint) error {
	if len(bufs) > 1 {
		return fmt.Errorf("sendmmsg: %w", b.err)
	}
	b.sent = append(b.sent, string(bufs[0]))
	return nil
}

func TestBindLarge(t *testing.T) {
	for _, tt := range []struct {
		err  syscall.Errno
		want string
	}{{syscall.EMSGSIZE, "[a b c]"}, {syscall.EINVAL, "[a b c]"}, {syscall.ENETUNREACH, "[]"}} {
		b := &narrowBind{err: tt.err}
		err := newBind(b).Send([][]byte{[]byte("a"), []byte("b"), []byte("c")}, nil)
		if got := fmt.Sprint(b.sent); got != tt.want || (err == nil) != (tt.want != "[]") {
			t.Errorf("%v: sent %s, %v, want %s", tt.err, got, err, tt.want)
		}
	}
}
