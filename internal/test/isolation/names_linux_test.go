//go:build amd64 || arm64

package isolation

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/dns/dnstest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// serveNames runs dnsmasq in a stack, at 10.0.0.1. The function returns its log of the
// queries so far.
func serveNames(t *testing.T, s *vdestack.Stack) func() string {
	t.Helper()
	args := []string{
		"--keep-in-foreground", "--log-facility=-", "--log-queries", "--conf-file=/dev/null", "--pid-file=", "--user=", "--group=",
		"--no-resolv", "--no-hosts", "--listen-address=10.0.0.1", "--bind-interfaces", "--local=/#/", "--local-ttl=60",
		"--host-record=www.stack.example,10.0.0.1,fc00::1:1",
		"--host-record=deep.sub.stack.example,10.0.0.7",
		"--host-record=other.test,10.0.0.8",
		"--cname=alias.stack.example,www.stack.example",
		"--txt-record=www.stack.example,a text",
		"--txt-record=stack.example,of the domain",
		"--txt-record=once.stack.example,one",
		"--mx-host=stack.example,www.stack.example,10",
		"--mx-host=stack.example,other.test,5",
		"--srv-host=_http._tcp.stack.example,www.stack.example,80,1,2",
		"--dns-rr=stack.example,2,026e7305737461636b076578616d706c6500", // NS ns.stack.example.
		"--server=/broken.test/#",                                       // refused
		// What must not be found by stacks.
		"--host-record=www.host.example,10.0.0.66",
		"--txt-record=www.host.example,of the host",
		"--txt-record=in.new.example,of the host",
		"--txt-record=in.named.example,of the host",
		"--srv-host=_http._tcp.www.host.example,www.host.example,80",
	}
	cmd := s.Command(t.Context(), testenv.Need(t, "dnsmasq", "dnsmasq-base"), args...)
	var log testenv.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	testenv.Check(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	testenv.Eventually(t, "dnsmasq to listen", func() bool { return testenv.Closing(s.Dial("tcp", "10.0.0.1:53")) == nil })
	r := resolver(s)
	marks := 0
	return func() string {
		t.Helper()
		// It logs in order, but later than it answers.
		marks++
		mark := fmt.Sprintf("mark%d.test.", marks)
		r.LookupTXT(t.Context(), mark) // does not exist
		testenv.Eventually(t, "dnsmasq to log", func() bool { return strings.Contains(log.String(), "query[TXT] "+strings.TrimSuffix(mark, ".")) })
		return log.String()
	}
}

// resolver returns a resolver of package net that asks the server of serveNames from a
// stack.
func resolver(s *vdestack.Stack) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return s.DialContext(ctx, network, "10.0.0.1:53")
	}}
}

// TestLookups makes every lookup of a stack, and of its resolver of package net. The host's
// server is not asked, and the stack's does not hear of the host's names.
func TestLookups(t *testing.T) {
	c := newCanary(t)
	server := newStack(t, vdestack.DNS{}, "10.0.0.1/24", "fc00::1:1/64")
	log := serveNames(t, server)
	dns := vdestack.DNS{
		Servers: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:53")},
		Search:  []string{"stack.example"},
		Hosts:   map[string][]netip.Addr{"own": testenv.Addrs("10.0.0.50"), "own.test": testenv.Addrs("10.0.0.50")},
	}
	s := newStack(t, dns, "10.0.0.2/24", "fc00::1:2/64")
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Timeout)
	defer cancel()
	r := s.Resolver()
	c.take()
	const none = "no such host"
	for _, tt := range []struct{ call, want, err, resolver string }{ // resolver: what differs
		{call: "txt www", want: "a text"},
		{call: "txt www.stack.example", want: "a text"},
		{call: "txt alias.stack.example.", want: "a text"},
		{call: "txt stack.example.", want: "of the domain"},
		{call: "txt none", err: none},
		{call: "txt www.none.test", err: none},
		{call: "txt 1.2.3.4.5.6.7.8.broken.test", err: "server misbehaving"}, // not followed by one of the search list
		{call: "mx stack.example", want: "5 other.test., 10 www.stack.example."},
		{call: "ns stack.example", want: "ns.stack.example."},
		{call: "srv http tcp stack.example", want: "_http._tcp.stack.example.: 1 2 80 www.stack.example."},
		{call: "srv _http._tcp", want: "_http._tcp.stack.example.: 1 2 80 www.stack.example."},
		{call: "cname alias", want: "www.stack.example."},
		{call: "cname deep.sub", want: "deep.sub.stack.example."},
		{call: "host alias", want: "10.0.0.1, fc00::1:1"},
		{call: "ip alias", want: "10.0.0.1, fc00::1:1"},
		{call: "ip6 alias", want: "fc00::1:1"},
		{call: "ipaddr other.test", want: "10.0.0.8"},
		{call: "ip4 own", want: "10.0.0.50"},
		{call: "addr 10.0.0.50", want: "own, own.test.", resolver: "own., own.test."},
		{call: "addr 10.0.0.7", want: "deep.sub.stack.example."},
		{call: "addr fc00::1:1", want: "www.stack.example."},
		// The host's file, which package net reads.
		{call: "host www", want: "10.0.0.1, fc00::1:1", resolver: "10.66.66.66"},
		{call: "host hostonly", err: none, resolver: "10.0.0.1"},
		{call: "cname hostonly.stack.example", err: none, resolver: "hostonly"},
		{call: "addr 10.66.66.66", err: none, resolver: "server, www, www.stack.example., localhost, localhost.stack.example."},
		{call: "host localhost", want: "127.0.0.1, ::1", resolver: "10.66.66.66"},
	} {
		got, err := dnstest.Call(ctx, s, tt.call)
		if got != tt.want || tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%s: %q, %v, want %q, %s", tt.call, got, err, tt.want, tt.err)
		}
		want, wantErr := tt.want, tt.err
		if tt.resolver != "" {
			want, wantErr = tt.resolver, ""
		}
		got, err = dnstest.Call(ctx, r, tt.call)
		if got != want || wantErr == "" && err != nil || wantErr != "" && (err == nil || !strings.Contains(err.Error(), wantErr)) {
			t.Errorf("resolver, %s: %q, %v, want %q, %s", tt.call, got, err, want, wantErr)
		}
	}
	// The host's domain does not exist for the resolver; the stack may ask for it.
	for _, call := range []string{"txt www.host.example", "txt www.host.example.", "ip4 www.host.example.", "cname www.host.example", "srv http tcp www.host.example."} {
		if got, err := dnstest.Call(ctx, r, call); err == nil || !strings.Contains(err.Error(), none) {
			t.Errorf("resolver, %s: %q, %v", call, got, err)
		}
	}
	t.Run("changes of the host", func(t *testing.T) { hostChanges(t, r) })
	queries := log()
	for _, domain := range []string{"host.example", "new.example", "named.example"} {
		if strings.Contains(queries, domain) {
			t.Errorf("the stack's server was asked for the host's domain %s", domain)
		}
	}
	if got, err := s.LookupTXT(ctx, "www.host.example"); err != nil || !slices.Equal(got, []string{"of the host"}) || !strings.Contains(log(), "www.host.example") {
		t.Errorf("a name of the host, asked for: %q, %v", got, err)
	}
	t.Run("cache", func(t *testing.T) {
		dns.Cache = 10
		for _, tt := range []struct {
			set   bool // which empties it
			asked int
		}{{true, 1}, {false, 1}, {true, 2}} {
			if tt.set {
				testenv.Check(t, s.SetDNS(dns))
			}
			got, err := s.LookupTXT(ctx, "once")
			if asked := strings.Count(log(), "query[TXT] once.stack.example"); err != nil || !slices.Equal(got, []string{"one"}) || asked != tt.asked {
				t.Errorf("got %q, %v, asked %d times, want %d", got, err, asked, tt.asked)
			}
		}
	})
	if seen := c.take(); len(seen) > 0 {
		t.Errorf("the host has noticed:\n%s", strings.Join(seen, "\n"))
	}
}

// laterYears is when the host changes; package net has looked at resolv.conf before.
var laterYears = 30

// hostChanges changes the search list of the host, which package net notices after five
// seconds. Its resolver finds no names below the new domains.
func hostChanges(t *testing.T, r *net.Resolver) {
	old := testenv.Must(os.ReadFile("/etc/resolv.conf"))(t)
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Duration(laterYears) * 366 * 24 * time.Hour)
		laterYears++
		for _, change := range []struct{ conf, name string }{
			{"search new.example\n", "in.new.example."},
			{"", "in.named.example."}, // the domain of the machine's name
			{string(old), "www.host.example."},
		} {
			testenv.Check(t, os.WriteFile("/etc/resolv.conf", []byte(change.conf), 0))
			time.Sleep(10 * time.Second)
			got, err := r.LookupTXT(t.Context(), change.name)
			if dnsErr, ok := errors.AsType[*net.DNSError](err); !ok || !dnsErr.IsNotFound {
				t.Errorf("%s: %q, %v, want that there is no such host", change.name, got, err)
			}
		}
	})
}

// TestLikePackageNet has a stack that is configured as the host is. What it finds, and its
// errors, are those of package net, pointed at the stack's server.
func TestLikePackageNet(t *testing.T) {
	serveNames(t, newStack(t, vdestack.DNS{}, "10.0.0.1/24", "fc00::1:1/64"))
	wrong, local := testenv.Addrs("10.66.66.66"), testenv.Addrs("10.0.0.1")
	s := newStack(t, vdestack.DNS{
		Servers: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:53")},
		Search:  []string{"host.example"},
		Ndots:   9,
		Hosts: map[string][]netip.Addr{
			"server": wrong, "www": wrong, "www.stack.example": wrong, "localhost": wrong, "localhost.stack.example": wrong,
			"hostonly": local, "hostonly.stack.example": local,
		},
	}, "10.0.0.2/24", "fc00::1:2/64")
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Timeout)
	defer cancel()
	plain := resolver(s)
	sorted := func(list string) []string { return slices.Sorted(slices.Values(strings.Split(list, ", "))) }
	for _, call := range []string{
		"txt www", "txt www.stack.example", "txt www.", "txt none", "txt none.stack.example.", "mx stack.example", "mx www", "ns stack.example",
		"srv http tcp www", "srv http tcp www.", "srv http tcp stack.example", "cname hostonly", "cname alias.stack.example",
		"cname www.host.example.", "cname none", "host www", "host server", "host SERVER", "host none", "host other.test", "host other.test.", "host localhost",
		"ip4 hostonly", "ip deep.sub.stack.example", "ip6 other.test", "ipaddr alias.stack.example", "addr 10.66.66.66", "addr 10.0.0.7", "addr 10.0.0.99",
	} {
		got, err := dnstest.Call(ctx, s, call)
		want, wantErr := dnstest.Call(ctx, plain, call)
		if !slices.Equal(sorted(got), sorted(want)) || dnstest.Essence(err) != dnstest.Essence(wantErr) {
			t.Errorf("%s: %q, %s; package net %q, %s", call, got, dnstest.Essence(err), want, dnstest.Essence(wantErr))
		}
	}
}
