package vdestack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A scene is what the addresses of a name do when they are dialled: "ok" after a
// time, "refused" after a time, or nothing until the attempt is given up.
type scene map[string]struct {
	what  string
	after time.Duration
}

// dial plays the scene, and notes which address is dialled when.
func (sc scene) dial(start time.Time, note func(addr string, at time.Duration)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, _, _ := net.SplitHostPort(address)
		note(host, time.Since(start))
		act := sc[host]
		var done <-chan time.Time
		if act.what != "dead" {
			done = time.After(act.after)
		}
		select {
		case <-done:
		case <-ctx.Done():
			return nil, &net.OpError{Op: "dial", Net: network, Err: ctx.Err()}
		}
		if act.what == "refused" {
			return nil, errors.New(host + " refused")
		}
		c, peer := net.Pipe()
		peer.Close()
		return named{c, host}, nil
	}
}

// named is a connection that knows to whom it leads.
type named struct {
	net.Conn
	host string
}

// TestRace dials names with addresses of both families, some of which are dead.
// The times are exact.
func TestRace(t *testing.T) {
	const ms = time.Millisecond
	six, four := "fc00::1", "10.0.0.1"
	tests := []struct {
		name    string
		network string
		addrs   string
		delay   time.Duration
		limit   time.Duration
		scene   scene
		want    string // the host, or the text of the error
		after   time.Duration
		dialled string
	}{
		{name: "both are good", addrs: "fc00::1 10.0.0.1", scene: scene{six: {"ok", 10 * ms}, four: {"ok", 0}}, want: six, after: 10 * ms, dialled: "fc00::1 0s"},
		{name: "dead IPv6", addrs: "fc00::1 10.0.0.1", scene: scene{six: {"dead", 0}, four: {"ok", 10 * ms}}, want: four, after: 310 * ms, dialled: "fc00::1 0s, 10.0.0.1 300ms"},
		{name: "dead IPv4", addrs: "10.0.0.1 fc00::1", scene: scene{four: {"dead", 0}, six: {"ok", 10 * ms}}, want: six, after: 310 * ms, dialled: "10.0.0.1 0s, fc00::1 300ms"},
		{name: "several dead", addrs: "fc00::1 fc00::2 fc00::3 10.0.0.1", scene: scene{six: {"dead", 0}, "fc00::2": {"dead", 0}, "fc00::3": {"dead", 0}, four: {"ok", 0}}, want: four, after: 300 * ms, dialled: "fc00::1 0s, 10.0.0.1 300ms"},
		{name: "own delay", addrs: "fc00::1 10.0.0.1", delay: 50 * ms, scene: scene{six: {"dead", 0}, four: {"ok", 0}}, want: four, after: 50 * ms, dialled: "fc00::1 0s, 10.0.0.1 50ms"},
		{name: "slow IPv6 wins", addrs: "fc00::1 10.0.0.1", scene: scene{six: {"ok", 400 * ms}, four: {"ok", 200 * ms}}, want: six, after: 400 * ms, dialled: "fc00::1 0s, 10.0.0.1 300ms"},
		{name: "refused IPv6", addrs: "fc00::1 10.0.0.1", scene: scene{six: {"refused", 10 * ms}, four: {"ok", 0}}, want: four, after: 10 * ms, dialled: "fc00::1 0s, 10.0.0.1 10ms"},
		{name: "second of a family", addrs: "fc00::1 fc00::2 10.0.0.1", scene: scene{six: {"refused", 10 * ms}, "fc00::2": {"ok", 10 * ms}, four: {"dead", 0}}, want: "fc00::2", after: 20 * ms, dialled: "fc00::1 0s, fc00::2 10ms"},
		{name: "all refused", addrs: "fc00::1 10.0.0.1", scene: scene{six: {"refused", 0}, four: {"refused", 10 * ms}}, want: "fc00::1 refused", after: 10 * ms, dialled: "fc00::1 0s, 10.0.0.1 0s"},
		{name: "all dead", addrs: "fc00::1 10.0.0.1", limit: time.Second, scene: scene{six: {"dead", 0}, four: {"dead", 0}}, want: "deadline exceeded", after: time.Second, dialled: "fc00::1 0s, 10.0.0.1 300ms"},
		{name: "one family", network: "tcp6", addrs: "fc00::1 fc00::2", limit: 10 * time.Second, scene: scene{six: {"dead", 0}, "fc00::2": {"ok", 0}}, want: "fc00::2", after: 5 * time.Second, dialled: "fc00::1 0s, fc00::2 5s"},
		{name: "no race", addrs: "fc00::1 10.0.0.1", delay: -1, limit: 10 * time.Second, scene: scene{six: {"dead", 0}, four: {"ok", 0}}, want: four, after: 5 * time.Second, dialled: "fc00::1 0s, 10.0.0.1 5s"},
		{name: "no race over UDP", network: "udp", addrs: "fc00::1 10.0.0.1", scene: scene{six: {"refused", 0}, four: {"ok", 0}}, want: four, dialled: "fc00::1 0s, 10.0.0.1 0s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				var mu sync.Mutex
				var dialled []string
				note := func(addr string, at time.Duration) {
					mu.Lock()
					defer mu.Unlock()
					dialled = append(dialled, addr+" "+at.String())
				}
				network := tt.network
				if network == "" {
					network = "tcp"
				}
				ctx := t.Context()
				if tt.limit > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.limit)
					defer cancel()
				}
				var list []netip.Addr
				for a := range strings.FieldsSeq(tt.addrs) {
					list = append(list, netip.MustParseAddr(a))
				}
				r := race{network: network, port: "80", dial: tt.scene.dial(start, note), delay: tt.delay}
				c, err := r.run(ctx, list)
				took := time.Since(start)
				got := ""
				if err != nil {
					got = err.Error()
				} else {
					got = c.(named).host
					c.Close()
				}
				if !strings.HasSuffix(got, tt.want) || took != tt.after {
					t.Errorf("got %s after %v, want %s after %v", got, took, tt.want, tt.after)
				}
				synctest.Wait() // for the losers
				mu.Lock()
				defer mu.Unlock()
				if got := strings.Join(dialled, ", "); got != tt.dialled {
					t.Errorf("dialled %s, want %s", got, tt.dialled)
				}
			})
		})
	}
}
