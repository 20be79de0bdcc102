package rtnl

import (
	"encoding/binary"
	"errors"
	"syscall"
	"testing"

	"github.com/mdlayher/netlink"
)

// TestLinkAddWithoutEcho plays a kernel before 6.2, which does not report the index of a
// link whose name it picked.
func TestLinkAddWithoutEcho(t *testing.T) {
	tests := []struct {
		name string
		used int // tries that find their index used
		err  error
	}{
		{name: "free"},
		{name: "used", used: 2},
		{name: "never free", used: 100, err: syscall.EEXIST},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			requests, index := 0, 0
			c, _ := dialFake(t, func(req netlink.Message) []any {
				if req.Header.Flags&netlink.Echo != 0 {
					t.Error("the request asks for an echo")
				}
				index = int(int32(binary.NativeEndian.Uint32(req.Data[4:])))
				if requests++; requests <= tt.used {
					return []any{ack(req, int(syscall.EEXIST), "")}
				}
				return []any{ack(req, 0, "")}
			})
			c.noEcho = true
			got, err := c.LinkAdd(LinkSpec{Kind: "bridge"})
			switch {
			case !errors.Is(err, tt.err):
				t.Errorf("got %v, want %v", err, tt.err)
			case err == nil && (got != index || got < 1<<24 || requests != tt.used+1):
				t.Errorf("got index %d after %d requests, the last with %d", got, requests, index)
			}
		})
	}
}
