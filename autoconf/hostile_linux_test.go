package autoconf

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/autoconf/internal/rd"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/autoconf/serve"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestBadRoutes has routes that the kernel does not take: the rest is configured, and Start
// has a result.
func TestBadRoutes(t *testing.T) {
	h := newHost(t, vdestack.Interface{VNL: "null://", Addrs: testenv.Prefixes("10.5.0.1/24")})
	mac, err := h.LinkAddr(h.index)
	testenv.Check(t, err)
	l := source.Lease{Addrs: []source.Addr{{Prefix: prefix("10.0.0.5/24")}}}
	for _, gw := range append(testenv.Addrs("10.0.0.5", "10.0.0.255", "10.5.0.1", "2001:db8::1"), rd.EUI64(netip.MustParseAddr("fe80::"), mac)) {
		l.Routes = append(l.Routes, source.Route{Dst: netip.PrefixFrom(zero(gw), 0), Gateway: gw})
	}
	l.Routes = append(l.Routes, source.Route{Dst: prefix("::/0"), Gateway: addr("fe80::9")})
	p := puppets(t, map[Source]source.Lease{DHCP4: l})
	c, err := Start(t.Context(), h.st, Config{DHCP4: true})
	testenv.Check(t, err)
	if got := h.state(); !strings.Contains(got, "10.0.0.5/24") || !strings.Contains(got, "default via fe80::9") || strings.Count(got, "default") != 1 {
		t.Errorf("got\n%s", got)
	}
	if err := p[DHCP4].sink.Set(l); !errors.Is(err, syscall.EINVAL) || !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("got %v, want what the kernel does not take", err)
	}
	testenv.Check(t, c.Close())
}

// TestRival has another host use the address of a client, which defends it, and then gives it
// up. Another interface of the same stack, whose kernel asks with that address, is no such host.
func TestRival(t *testing.T) {
	vnl := "mem://" + t.Name()
	srv := newHost(t, vdestack.Interface{VNL: vnl, Addrs: testenv.Prefixes("10.0.0.1/24")})
	testenv.Must(serve.Start(srv.st, serve.Config{}))(t)
	h := newHost(t, vdestack.Interface{VNL: vnl})
	testenv.Check(t, h.st.AddInterface(t.Context(), vdestack.Interface{Name: "vde1", VNL: vnl, Addrs: testenv.Prefixes("10.7.0.1/24")}))
	var log testenv.Buffer
	c, err := Start(t.Context(), h.st, Config{DHCP4: true, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	testenv.Check(t, err)
	had := c.Leases()[0].Addrs[0].Prefix.Addr()
	events := c.Watch(testenv.Context(t))
	// ask has a kernel ask for the hardware address of a host that is not there.
	ask := func(st *vdestack.Stack, from, to netip.Addr) {
		t.Helper()
		d := vdestack.Dialer{Stack: st}
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		conn := testenv.Must(d.Dial("udp", netip.AddrPortFrom(to, 9).String()))(t)
		testenv.Must(conn.Write([]byte("x")))(t)
		testenv.Check(t, conn.Close())
	}
	ask(h.st, had, addr("10.7.0.9"))
	ask(h.st, had, addr("10.7.0.10"))
	rival := newHost(t, vdestack.Interface{VNL: vnl, Addrs: []netip.Prefix{netip.PrefixFrom(had, 24)}})
	ask(rival.st, had, addr("10.0.0.250"))
	testenv.Eventually(t, "the address is defended", func() bool { return strings.Contains(log.String(), "defended") }, log.String)
	ask(rival.st, had, addr("10.0.0.251"))
	for e, err := range events {
		testenv.Check(t, err)
		if conflict, ok := errors.AsType[*source.ConflictError](e.Err); ok {
			if len(conflict.Addrs) != 1 || conflict.Addrs[0] != had || len(e.Lease.Addrs) > 0 {
				t.Errorf("got %+v", e)
			}
			break
		}
	}
	if got := h.state(); strings.Contains(got, had.String()) {
		t.Errorf("the kernel has the address:\n%s", got)
	}
	mac, err := rival.LinkAddr(rival.index)
	testenv.Check(t, err)
	want := fmt.Sprintf("(?s)defended.*host=%v.*given up.*host=%v", mac, mac)
	if got := log.String(); !regexp.MustCompile(want).MatchString(got) || strings.Count(got, "host=") != 2 {
		t.Errorf("logged: %s\nwant %s", got, want)
	}
	testenv.Check(t, c.Close())
}
