package vxlan

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestVXVDESelf asks the filter about sources with the endpoint's port.
func TestVXVDESelf(t *testing.T) {
	testenv.Long(t)
	testenv.NoLeaks(t)
	const port = 40000
	var clock time.Duration
	f := testenv.Must(newSelfFilter(port, netip.Addr{}, func() time.Duration { return clock }))(t)
	defer f.close()
	test0 := testenv.Must(net.InterfaceByName("test0"))(t)
	scope := uint32(test0.Index)
	addrs := testenv.Must(test0.Addrs())(t)
	var linkLocal netip.Addr
	for _, a := range addrs {
		if p := netip.MustParsePrefix(a.String()); p.Addr().IsLinkLocalUnicast() {
			linkLocal = p.Addr()
		}
	}
	if !linkLocal.IsValid() {
		t.Fatalf("no link-local address in %v", addrs)
	}
	// The address is not in use until the kernel has found no duplicate.
	testenv.Eventually(t, "a link-local address in use", func() bool { return f.isLocal(linkLocal, scope) })
	tests := []struct {
		addr  netip.Addr
		scope uint32
		want  bool
	}{
		{netip.MustParseAddr("0.0.0.0"), 0, true},
		{netip.MustParseAddr("127.0.0.1"), 0, true},
		{netip.MustParseAddr("10.1.2.3"), 0, false},
		{netip.MustParseAddr("239.0.0.1"), 0, false},
		{netip.MustParseAddr("::1"), 0, true},
		{netip.MustParseAddr("fd09::1"), 0, true},
		{netip.MustParseAddr("fd09::1"), scope, true},
		{netip.MustParseAddr("fd09::2"), 0, false},
		{netip.MustParseAddr("2001:db8::1"), 0, false}, // no route
		{linkLocal, scope, true},
		{netip.MustParseAddr("fe80::1"), scope, false},
	}
	for range 2 { // asked, and known
		for _, tt := range tests {
			s := sockio.MakeSockaddr(netip.AddrPortFrom(tt.addr, port), tt.scope)
			if got := f.own(&s); got != tt.want {
				t.Errorf("own(%v, scope %d) = %v, want %v", tt.addr, tt.scope, got, tt.want)
			}
			s = sockio.MakeSockaddr(netip.AddrPortFrom(tt.addr, port+1), tt.scope)
			if f.own(&s) {
				t.Errorf("%v with another port is own", tt.addr)
			}
		}
	}
	// An answer does not last.
	s := sockio.MakeSockaddr(netip.MustParseAddrPort("10.1.2.3:40000"), 0)
	f.known[s] = localAnswer{true, clock}
	clock += answerLifetime
	if !f.own(&s) {
		t.Error("the answer was not kept")
	}
	clock++
	if f.own(&s) {
		t.Error("the answer was kept too long")
	}
	// Invented sources do not fill the memory.
	for i := range 1000 {
		s := sockio.MakeSockaddr(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)}), port), 0)
		f.own(&s)
	}
	if n := len(f.known); n > maxAnswers {
		t.Errorf("%d answers are kept, want at most %d", n, maxAnswers)
	}

	bound := testenv.Must(newSelfFilter(port, netip.MustParseAddr("127.0.0.2"), nil))(t)
	for addr, want := range map[string]bool{"127.0.0.2:40000": true, "127.0.0.1:40000": false, "127.0.0.2:40001": false} {
		s := sockio.MakeSockaddr(netip.MustParseAddrPort(addr), 0)
		if got := bound.own(&s); got != want {
			t.Errorf("bound to 127.0.0.2: own(%s) = %v, want %v", addr, got, want)
		}
	}
}

// FuzzRouteReply compares the decoder with the kernel's layout: a message for a new route has
// the type of the route in its eighth byte.
func FuzzRouteReply(f *testing.F) {
	local := make([]byte, unix.NLMSG_HDRLEN+unix.SizeofRtMsg)
	binary.NativeEndian.PutUint16(local[4:], unix.RTM_NEWROUTE)
	local[unix.NLMSG_HDRLEN+7] = unix.RTN_LOCAL
	unicast := slices.Clone(local)
	unicast[unix.NLMSG_HDRLEN+7] = unix.RTN_UNICAST
	for _, b := range [][]byte{nil, local, unicast, local[:20], routeRequest(netip.MustParseAddr("10.0.0.1"), 0)} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		want := len(b) < unix.NLMSG_HDRLEN // no answer: only the port counts
		if len(b) >= unix.NLMSG_HDRLEN+8 {
			want = binary.NativeEndian.Uint16(b[4:6]) == unix.RTM_NEWROUTE && b[unix.NLMSG_HDRLEN+7] == unix.RTN_LOCAL
		}
		if got := isLocalRoute(b); got != want {
			t.Errorf("%x: %v, want %v", b, got, want)
		}
	})
}
