//go:build amd64 || arm64

package stack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"testing"
	"testing/synctest"
	"time"
)

// TestAwaitLocal has a kernel that is late with the routes of addresses, or
// never makes one.
func TestAwaitLocal(t *testing.T) {
	first, second := netip.MustParsePrefix("fd00::1/64"), netip.MustParsePrefix("fd00::2/64")
	tests := []struct {
		name   string
		routes []netip.Prefix // each comes 10 seconds after the last
		want   time.Duration
		left   string
	}{
		{name: "late", routes: []netip.Prefix{second, first}, want: 20 * time.Second, left: "[]"},
		{name: "one only", routes: []netip.Prefix{first}, want: localWait, left: "[fd00::2]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), localWait)
				defer cancel()
				begin := time.Now()
				missing := awaitLocal(func(yield func(netip.Addr) bool) {
					for _, p := range tt.routes {
						select {
						case <-ctx.Done():
						case <-time.After(10 * time.Second):
							if !yield(p.Addr()) {
								return
							}
						}
					}
					<-ctx.Done()
				}, map[netip.Addr]bool{first.Addr(): true, second.Addr(): true})
				if got := time.Since(begin); got != tt.want {
					t.Errorf("waited %v, want %v", got, tt.want)
				}
				if got := fmt.Sprint(missing); got != tt.left {
					t.Errorf("missing %s, want %s", got, tt.left)
				}
			})
		})
	}
}

// TestReported has counters that would go down.
func TestReported(t *testing.T) {
	var r reported
	a := InterfaceStats{TxFrames: 10, RxBytes: 5, Err: net.ErrClosed}
	r.raise(&a)
	b := InterfaceStats{TxFrames: 7, TxDropped: 3, RxBytes: 6}
	r.raise(&b)
	if want := (InterfaceStats{TxFrames: 10, TxDropped: 3, RxBytes: 6}); !reflect.DeepEqual(b, want) {
		t.Errorf("got  %+v\nwant %+v", b, want)
	}
	a = InterfaceStats{}
	if r.raise(&a); !reflect.DeepEqual(a, b) {
		t.Errorf("got  %+v\nwant %+v", a, b)
	}
}
