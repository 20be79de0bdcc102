package vdestack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestAddInterfaceDial adds an interface to a stack without one, and dials, listens and
// uses zones on it; then the stack moves to another network.
func TestAddInterfaceDial(t *testing.T) {
	netnstest.NoLeaks(t)
	vnl := "mem://" + t.Name()
	server := open(t, vnl, "10.0.0.2/24", "fe80::2/64")
	other := open(t, vnl+"-other", "10.0.0.2/24", "fe80::2/64")
	s := open(t, "")
	for _, peer := range []*Stack{server, other} {
		for _, addr := range []string{"10.0.0.2:80", "[::]:81"} {
			ln := testenv.Must(peer.Listen("tcp", addr))(t)
			answer(t, ln, func(net.Conn) string { return peer.String() })
		}
	}
	get := func(addr string) (string, error) {
		c, err := s.Dial("tcp", addr)
		if err != nil {
			return "", err
		}
		defer c.Close()
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		return string(buf[:n]), err
	}
	if text, err := get("10.0.0.2:80"); err == nil {
		t.Errorf("without an interface: %q", text)
	}
	for _, peer := range []*Stack{server, other, server} {
		i := Interface{VNL: peer.Stats().Interfaces[0].VNL, Addrs: testenv.Prefixes("10.0.0.1/24")}
		testenv.Check(t, s.AddInterface(t.Context(), i))
		for _, addr := range []string{"10.0.0.2:80", "[fe80::2%vde0]:81"} {
			if got, err := get(addr); err != nil || got != peer.String() {
				t.Errorf("%s: got %q, %v, want %q", addr, got, err, peer)
			}
		}
		testenv.Check(t, s.RemoveInterface("vde0"))
		if _, err := get("[fe80::2%vde0]:81"); err == nil {
			t.Error("the zone of an interface that was removed is known")
		}
	}
}

// TestSetDNS changes how names are resolved, also by a resolver that was handed out
// before.
func TestSetDNS(t *testing.T) {
	netnstest.NoLeaks(t)
	s := open(t, "")
	r := s.Resolver()
	if got := s.DNS(); !reflect.DeepEqual(got, DNS{}) {
		t.Errorf("got %+v", got)
	}
	for _, addr := range []string{"10.0.0.7", "10.0.0.8"} {
		want := netip.MustParseAddr(addr)
		d := DNS{Search: []string{"lab"}, Ndots: 2, Hosts: map[string][]netip.Addr{"server.test": {want}}}
		testenv.Check(t, s.SetDNS(d))
		if got := s.DNS(); !reflect.DeepEqual(got, d) {
			t.Errorf("got %+v, want %+v", got, d)
		}
		// Neither what was given nor what was returned belongs to the stack.
		d.Hosts["server.test"][0] = netip.Addr{}
		s.DNS().Search[0] = "x"
		if got := s.DNS(); got.Search[0] != "lab" || got.Hosts["server.test"][0] != want {
			t.Errorf("the DNS was changed from outside: %+v", got)
		}
		if got, err := s.LookupNetIP(t.Context(), "ip", "server.test"); err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("lookup: %v, %v", got, err)
		}
		if got, err := r.LookupNetIP(t.Context(), "ip4", "server.test."); err != nil || len(got) != 1 || got[0].Unmap() != want {
			t.Errorf("resolver: %v, %v", got, err)
		}
		c := s.Command(t.Context(), "getent", "hosts", "server.test")
		c.Names = true
		if out, err := c.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), addr) {
			t.Errorf("command: %s, %v", out, err)
		}
	}
	if err := s.SetDNS(DNS{Ndots: -1}); err == nil || err.Error() != "stack: dns: Ndots: -1 is negative" {
		t.Errorf("a bad one: %v", err)
	}
	if got := s.DNS(); got.Ndots != 2 {
		t.Errorf("a bad one was taken: %+v", got)
	}
	s.Close()
	var none *Stack
	if err := none.SetDNS(DNS{}); err != ErrNoStack || !reflect.DeepEqual(none.DNS(), DNS{}) {
		t.Errorf("a nil Stack has DNS: %v", err)
	}
}

// TestCompareAndSwapDNS has two change the DNS at once: nothing of either is lost.
func TestCompareAndSwapDNS(t *testing.T) {
	netnstest.NoLeaks(t)
	s := open(t, "")
	if swapped, err := s.CompareAndSwapDNS(DNS{Ndots: 1}, DNS{Ndots: 2}); swapped || err != nil || s.DNS().Ndots != 0 {
		t.Errorf("another DNS was swapped: %v, %v", swapped, err)
	}
	if swapped, err := s.CompareAndSwapDNS(DNS{}, DNS{Ndots: -1}); swapped || err == nil || s.DNS().Ndots != 0 {
		t.Errorf("a bad one was taken: %v, %v", swapped, err)
	}
	const times = 50
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			for j := range times {
				host := map[string][]netip.Addr{fmt.Sprintf("h%d-%d", i, j): {netip.MustParseAddr("10.0.0.7")}}
				for swapped := false; !swapped; {
					old := s.DNS()
					d := old
					d.Hosts = maps.Clone(host)
					maps.Copy(d.Hosts, old.Hosts)
					var err error
					if swapped, err = s.CompareAndSwapDNS(old, d); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	if n := len(s.DNS().Hosts); n != 2*times {
		t.Errorf("%d hosts are known, want %d", n, 2*times)
	}
	if got, err := s.LookupHost(t.Context(), "h1-49"); err != nil || len(got) != 1 {
		t.Errorf("lookup: %v, %v", got, err)
	}
	s.Close()
	if swapped, err := s.CompareAndSwapDNS(s.DNS(), DNS{}); swapped || !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v, %v", swapped, err)
	}
	var none *Stack
	if swapped, err := none.CompareAndSwapDNS(DNS{}, DNS{}); swapped || err != ErrNoStack {
		t.Errorf("a nil Stack: %v, %v", swapped, err)
	}
}

// TestChangeConcurrent dials by name while the interface comes and goes, and the
// DNS changes.
func TestChangeConcurrent(t *testing.T) {
	testenv.Long(t)
	netnstest.NoLeaks(t)
	vnl := "mem://" + t.Name()
	peer := open(t, vnl, "10.0.0.2/24")
	s := open(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if c, err := s.Dial("udp", "peer:9"); err == nil {
					c.Write([]byte("x"))
					c.Close()
				}
				s.Listen("tcp", "[fe80::1%vde0]:80")
			}
		})
	}
	for j := range 20 {
		if err := s.SetDNS(DNS{Hosts: map[string][]netip.Addr{"peer": {netip.MustParseAddr("10.0.0.2")}}, Ndots: j}); err != nil {
			t.Error(err)
		}
		if err := s.AddInterface(t.Context(), Interface{VNL: []string{vnl, "null://"}[j%2], Addrs: testenv.Prefixes("10.0.0.1/24")}); err != nil {
			t.Error(err)
		}
		if err := testenv.Closing(s.Dial("udp", net.JoinHostPort("peer", "9"))); err != nil {
			t.Error(err)
		}
		if err := s.RemoveInterface("vde0"); err != nil {
			t.Error(err)
		}
	}
	cancel()
	wg.Wait()
	peer.Close()
	s.Close()
}
