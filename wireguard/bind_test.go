package wireguard

import (
	"fmt"
	"net/netip"
	"syscall"
	"testing"

	"golang.zx2c4.com/wireguard/conn"
)

// A narrowBind refuses to send packets together, as the kernel those that are too large, or from an
// address.
type narrowBind struct {
	stackBind
	together, from error
	sent           []string
}

func (b *narrowBind) Send(bufs [][]byte, to conn.Endpoint) error {
	switch {
	case len(bufs) > 1 && b.together != nil:
		return fmt.Errorf("sendmmsg: %w", b.together)
	case to.SrcIP().IsValid() && b.from != nil:
		return fmt.Errorf("sendmmsg: %w", b.from)
	}
	for _, buf := range bufs {
		b.sent = append(b.sent, string(buf)+" "+to.SrcToString()+" "+to.DstToString())
	}
	return nil
}

func TestBindRefused(t *testing.T) {
	with := func(source string) string { return fmt.Sprintf("[a %s [fe80::1%%3]:1 b %[1]s [fe80::1%%3]:1]", source) }
	for _, tt := range []struct {
		together, from syscall.Errno
		want           string
	}{
		{0, 0, with("fe80::2")},
		{syscall.EMSGSIZE, 0, with("fe80::2")},
		{syscall.EINVAL, 0, with("fe80::2")},
		{syscall.EPERM, 0, "[]"},
		{0, syscall.ENETUNREACH, with("invalid IP")},
		{syscall.EINVAL, syscall.EINVAL, with("invalid IP")},
		{syscall.EMSGSIZE, syscall.EMSGSIZE, "[]"},
	} {
		b := &narrowBind{}
		if tt.together != 0 {
			b.together = tt.together
		}
		if tt.from != 0 {
			b.from = tt.from
		}
		to := &endpoint{AddrPort: netip.MustParseAddrPort("[fe80::1%3]:1"), src: netip.MustParseAddr("fe80::2"), index: 3}
		err := newBind(b).Send([][]byte{[]byte("a"), []byte("b")}, to)
		if got := fmt.Sprint(b.sent); got != tt.want || (err == nil) != (tt.want != "[]") {
			t.Errorf("%v, %v: sent %s, %v, want %s", b.together, b.from, got, err, tt.want)
		}
	}
}
