package autoconf

import (
	"fmt"
	"net/netip"
	"reflect"
	"testing"

	"github.com/vdestack/vdestack/autoconf/internal/source"
)

// TestUsable leaves out what no honest server says.
func TestUsable(t *testing.T) {
	good := source.Lease{
		Addrs: []source.Addr{{Prefix: prefix("10.0.0.5/24")}, {Prefix: prefix("169.254.1.1/32")}, {Prefix: prefix("fd00::5/64"), Temporary: true}},
		Routes: []source.Route{
			{Dst: prefix("0.0.0.0/0"), Gateway: addr("10.0.0.1")}, {Dst: prefix("::/0"), Gateway: addr("fe80::1")}, {Dst: prefix("10.1.0.0/16")},
			{Dst: prefix("0.0.0.0/1"), Gateway: addr("10.0.0.1")}, {Dst: prefix("8000::/1")},
		},
		DNS:    []source.Server{{Addr: addr("10.0.0.3")}, {Addr: addr("fe80::1")}},
		Search: []source.Domain{{Name: "example.org"}},
		NTP:    []netip.Addr{addr("10.0.0.4")},
	}
	bad := good
	for _, p := range []string{"0.0.0.0/24", "127.0.0.1/8", "224.0.0.1/4", "255.255.255.255/32", "10.0.0.1/0", "::1/128", "ff02::1/16", "::/64", "::ffff:10.0.0.1/128"} {
		bad.Addrs = append(bad.Addrs, source.Addr{Prefix: prefix(p)})
	}
	bad.Addrs = append(bad.Addrs, source.Addr{}, source.Addr{Prefix: prefix("fd00::6/128"), Temporary: true})
	for _, p := range []string{"127.0.0.0/8", "127.1.0.0/16", "224.0.0.0/4", "::1/128", "fe80::/64", "ff02::/16", "10.0.0.1/8"} {
		bad.Routes = append(bad.Routes, source.Route{Dst: prefix(p)})
	}
	bad.Routes = append(bad.Routes, source.Route{}, source.Route{Dst: prefix("10.0.0.0/8"), Gateway: addr("fe80::1")}, source.Route{Dst: prefix("10.0.0.0/8"), Gateway: addr("127.0.0.1")})
	bad.DNS = append(bad.DNS, source.Server{}, source.Server{Addr: addr("127.0.0.1")}, source.Server{Addr: addr("::1")}, source.Server{Addr: addr("fe80::1%x")})
	bad.Search = append(bad.Search, source.Domain{}, source.Domain{Name: "a b"}, source.Domain{Name: "a."})
	bad.NTP = append(bad.NTP, netip.Addr{}, addr("0.0.0.0"))
	got, left := usable(bad)
	if !reflect.DeepEqual(got, good) {
		t.Errorf("got  %+v\nwant %+v", got, good)
	}
	if want := 11 + 10 + 4 + 3 + 2; len(left) != want {
		t.Errorf("%d left, want %d: %q", len(left), want, left)
	}
	var many source.Lease
	for i := range 1000 {
		many.Addrs = append(many.Addrs, source.Addr{Prefix: prefix(fmt.Sprintf("10.1.%d.%d/32", i/250, i%250+1))})
	}
	if got, _ := usable(many); len(got.Addrs) != source.MaxItems {
		t.Errorf("%d addresses, want %d", len(got.Addrs), source.MaxItems)
	}
}
