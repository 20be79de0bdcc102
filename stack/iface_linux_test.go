//go:build amd64 || arm64

package stack

import (
	"context"
	"iter"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack/rtnl"
)

// TestAwaitLocal has a kernel that is late with the routes of addresses, or
// never makes one.
func TestAwaitLocal(t *testing.T) {
	first, second := netip.MustParsePrefix("fd00::1/64"), netip.MustParsePrefix("fd00::2/64")
	tests := []struct {
		name   string
		routes []netip.Prefix // each comes 10 seconds after the last
		want   time.Duration
	}{
		{name: "late", routes: []netip.Prefix{second, first}, want: 20 * time.Second},
		{name: "one only", routes: []netip.Prefix{first}, want: localWait},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := &iface{s: &Stack{log: slog.New(slog.DiscardHandler)}, cfg: Interface{
					Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24"), first, second},
				}}
				ctx, cancel := context.WithTimeout(t.Context(), localWait)
				defer cancel()
				begin := time.Now()
				i.awaitLocal(ctx, func(ctx context.Context) iter.Seq2[rtnl.Event, error] {
					return func(yield func(rtnl.Event, error) bool) {
						for _, p := range tt.routes {
							select {
							case <-ctx.Done():
							case <-time.After(10 * time.Second):
								r := &rtnl.Route{Dst: netip.PrefixFrom(p.Addr(), 128), Table: rtnl.TableLocal}
								if !yield(rtnl.Event{Route: r}, nil) {
									return
								}
							}
						}
						<-ctx.Done()
						yield(rtnl.Event{}, ctx.Err())
					}
				})()
				if got := time.Since(begin); got != tt.want {
					t.Errorf("waited %v, want %v", got, tt.want)
				}
			})
		})
	}
}
