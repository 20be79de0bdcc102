package autoconf

import (
	"net/netip"
	"testing"
)

// TestHash has vectors of iothconf and libioth.
func TestHash(t *testing.T) {
	tests := []struct {
		hash       Hash
		mac        string
		base, addr string
	}{
		{Hash{Name: "test.v2.cs.unibo.it"}, "6a:d6:2f:5a:5a:2e", "fe80::", "fe80::68d6:2fac:095a:5a2e"},
		{Hash{Name: "test.v2.cs.unibo.it."}, "6a:d6:2f:5a:5a:2e", "fe80::", "fe80::68d6:2fac:095a:5a2e"},
		{Hash{Name: "test.v2.cs.unibo.it"}, "6a:d6:2f:5a:5a:2e", "2001:db8:44::", "2001:db8:44:0:68d6:2fac:95a:5a2e"},
		{Hash{Name: "host.example.org"}, "ca:17:0a:62:29:2f", "fc00::", "fc00::c817:0abc:5a62:292f"},
		{Hash{Name: "host.example.org"}, "ca:17:0a:62:29:2f", "2001:db8:44::1", "2001:db8:44:0:c817:abc:5a62:292e"},
		{Hash{Name: "HOST.example.org"}, "26:ab:15:e9:27:25", "fc00::", "fc00::24ab:15c0:f1e9:2725"},
		{Hash{Name: "node1.vde.local"}, "8e:b1:1f:5b:eb:03", "fc00::", "fc00::8cb1:1fed:bc5b:eb03"},
		{Hash{Name: "a.b.c"}, "56:3f:76:43:61:75", "fc00::", "fc00::543f:764f:7b43:6175"},
		{Hash{Name: "a.b.c."}, "56:3f:76:43:61:75", "fc00::", "fc00::543f:764f:7b43:6175"},
		{Hash{Name: "a"}, "0e:c1:75:f1:b6:a8", "fc00::", "fc00::0cc1:75b9:c0f1:b6a8"},
		{Hash{Name: "hash.test.local"}, "", "fc00::", "fc00::f4b7:a5a9:259b:fb70"},
		{Hash{Name: "host.example.org", Password: "secret"}, "76:53:19:8d:7e:6b", "fc00::", "fc00::7453:1932:2d8d:7e6b"},
		{Hash{Name: "host.example.org", Password: "secret", Counter: 0x01020304}, "76:53:19:8d:7e:6b", "fc00::", "fc00::a83b:3ed4:9e5d:ebdb"},
		{Hash{Name: "a"}, "0e:c1:75:f1:b6:a8", "fe80::%7", "fe80::0cc1:75b9:c0f1:b6a8%7"},
	}
	for _, tt := range tests {
		if got := tt.hash.MAC().String(); got != tt.mac && tt.mac != "" {
			t.Errorf("%+v: MAC %s, want %s", tt.hash, got, tt.mac)
		}
		if got, want := tt.hash.Addr(netip.MustParseAddr(tt.base)), netip.MustParseAddr(tt.addr); got != want {
			t.Errorf("%+v: %s becomes %v, want %v", tt.hash, tt.base, got, want)
		}
	}
	for _, h := range []Hash{{}, {Name: "."}, {Password: "secret"}} {
		if mac, a := h.MAC(), h.Addr(netip.MustParseAddr("fc00::")); mac != nil || a.IsValid() {
			t.Errorf("%+v: MAC %v, address %v; want none without a name", h, mac, a)
		}
	}
	for _, base := range []netip.Addr{{}, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("::ffff:10.0.0.1")} {
		if a := (Hash{Name: "a"}).Addr(base); a.IsValid() {
			t.Errorf("%v becomes %v, want the zero Addr", base, a)
		}
	}
}
