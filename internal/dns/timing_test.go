package dns

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// TestTimeout asks servers that do not answer.
func TestTimeout(t *testing.T) {
	// onlyA takes a second, and does not answer for AAAA.
	onlyA := func(h handler) handler {
		return eitherType(func(q *query) { time.Sleep(time.Second); h(q) }, silent)
	}
	stalls := eitherNetwork(truncated, func(q *query) { q.raw([]byte{0, 40, 1, 2, 3}) })
	tests := []struct {
		name      string
		cfg       Config
		deadline  time.Duration // of the context; 0: no deadline
		network   string
		servers   []handler
		want, err string
		queries   []int // of each server
		took      time.Duration
	}{
		{name: "defaults", network: "ip4", servers: []handler{silent}, err: "i/o timeout",
			queries: []int{2}, took: 6 * time.Second},
		{name: "both types at once", network: "ip", servers: []handler{silent}, err: "i/o timeout",
			queries: []int{4}, took: 6 * time.Second},
		{name: "configured", network: "ip4", cfg: Config{Timeout: 7 * time.Second, Attempts: 3}, servers: []handler{silent, silent},
			err: "i/o timeout", queries: []int{3, 3}, took: 42 * time.Second},
		{name: "third server", network: "ip4", servers: []handler{silent, silent, zoneA.serve}, want: "10.0.0.1",
			queries: []int{1, 1, 1}, took: 6 * time.Second},
		{name: "TCP stalls", network: "ip4", servers: []handler{stalls, zoneA.serve}, want: "10.0.0.1",
			queries: []int{2, 1}, took: 3 * time.Second},
		{name: "AAAA has the time of one try left", network: "ip", servers: []handler{onlyA(zoneA.serve), silent}, want: "10.0.0.1",
			queries: []int{2, 1}, took: 4 * time.Second},
		{name: "AAAA of a name that does not exist", network: "ip", servers: []handler{onlyA(rcode(dnsmessage.RCodeNameError)), silent},
			err: "no such host", queries: []int{2, 1}, took: 4 * time.Second},
		{name: "deadline", network: "ip4", deadline: 4 * time.Second, servers: []handler{silent}, err: "i/o timeout",
			queries: []int{2}, took: 4 * time.Second},
		{name: "deadline shared by the servers", network: "ip4", deadline: 4 * time.Second, servers: []handler{silent, zoneA.serve},
			want: "10.0.0.1", queries: []int{1, 1}, took: time.Second},
		{name: "deadline too near to share", network: "ip4", deadline: 1500 * time.Millisecond, servers: []handler{silent, silent, zoneA.serve},
			err: "i/o timeout", queries: []int{1, 1, 0}, took: 1500 * time.Millisecond},
		{name: "slow but in time", network: "ip4", servers: []handler{func(q *query) { time.Sleep(2 * time.Second); zoneA.serve(q) }},
			want: "10.0.0.1", queries: []int{1}, took: 2 * time.Second},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			var fakes []*fake
			for i, h := range tt.servers {
				fakes = append(fakes, newPipeFake([]string{"10.0.0.1:53", "[fd00::1]:53", "[fe80::1%vde0]:5353"}[i], h))
			}
			c := newPipeClient(t, tt.cfg, fakes...)
			ctx := t.Context()
			if tt.deadline != 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, tt.deadline)
				defer cancel()
			}
			defer takes(t, tt.took, time.Now())
			got, err := c.LookupNetIP(ctx, tt.network, "a.example")
			check(t, got, err, tt.want, tt.err)
			for i, f := range fakes {
				if n := len(f.asked()); n != tt.queries[i] {
					t.Errorf("server %d was asked %d times, want %d", i, n, tt.queries[i])
				}
			}
		})
	}
}

// TestFamilies has answers that differ for A and AAAA.
func TestFamilies(t *testing.T) {
	z := zone{"a.example.": {"A 10.0.0.1", "AAAA fd00::1"}}
	const nx, failure, success = dnsmessage.RCodeNameError, dnsmessage.RCodeServerFailure, dnsmessage.RCodeSuccess
	tests := []struct {
		name          string
		a, aaaa       handler
		want, wantErr string
	}{
		{name: "A fails", a: rcode(failure), aaaa: z.serve, want: "fd00::1"},
		{name: "AAAA fails", a: z.serve, aaaa: rcode(failure), want: "10.0.0.1"},
		{name: "AAAA silent", a: z.serve, aaaa: silent, want: "10.0.0.1"},
		{name: "AAAA denied wrongly", a: z.serve, aaaa: rcode(nx), want: "10.0.0.1"},
		{name: "no A, AAAA fails", a: rcode(success), aaaa: rcode(failure), wantErr: "server misbehaving"},
		{name: "no A, AAAA silent", a: rcode(success), aaaa: silent, wantErr: "i/o timeout"},
		{name: "A denied, AAAA fails", a: rcode(nx), aaaa: rcode(failure), wantErr: "no such host"},
		{name: "AAAA denied, A silent", a: silent, aaaa: rcode(nx), wantErr: "no such host"},
		{name: "neither", a: rcode(success), aaaa: rcode(success), wantErr: "no such host"},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			c := newPipeClient(t, Config{}, newPipeFake("10.0.0.1:53", eitherType(tt.a, tt.aaaa)))
			wantAddrs(t, c, "ip", "a.example", tt.want, tt.wantErr)
		})
	}
}

// TestCancel cancels lookups at each of their waits.
func TestCancel(t *testing.T) {
	stalls := map[string]func(ctx context.Context, server net.Conn) error{
		"dial": func(ctx context.Context, _ net.Conn) error {
			<-ctx.Done()
			return &net.OpError{Op: "dial", Err: ctx.Err()}
		},
		"write": func(context.Context, net.Conn) error { return nil }, // the server does not read
		"read": func(_ context.Context, server net.Conn) error {
			go io.Copy(io.Discard, server)
			return nil
		},
	}
	for name, stall := range stalls {
		bubble(t, name, func(t *testing.T) {
			c := newClientOf(t, Config{}, []*fake{newPipeFake("10.0.0.1:53", nil)},
				func(ctx context.Context, _ string, _ *fake) (net.Conn, error) {
					client, server := net.Pipe()
					return client, stall(ctx, server)
				})
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			defer takes(t, time.Second, time.Now())
			_, err := c.LookupNetIP(ctx, "ip", "a.example")
			dnsErr, ok := err.(*net.DNSError)
			if !ok || !errors.Is(err, context.Canceled) || dnsErr.Err != "operation was canceled" || dnsErr.IsTimeout || dnsErr.IsNotFound {
				t.Errorf("error %#v, want a DNSError that wraps Canceled", err)
			}
		})
	}
}

// TestFlood has a server that sends spoofed packets as long as the client reads.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var flood sync.WaitGroup
		defer flood.Wait()
		c := newClientOf(t, Config{}, []*fake{newPipeFake("10.0.0.1:53", nil)}, func(context.Context, string, *fake) (net.Conn, error) {
			client, server := net.Pipe()
			flood.Go(func() {
				server.Read(make([]byte, 512))
				for err := error(nil); err == nil; _, err = server.Write([]byte("spoof")) {
					time.Sleep(time.Millisecond)
				}
			})
			return client, nil
		})
		defer takes(t, 6*time.Second, time.Now())
		wantAddrs(t, c, "ip", "a.example", "", "i/o timeout")
	})
}
