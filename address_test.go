package vdestack

import (
	"net/netip"
	"testing"
)

// FuzzAddress takes networks and addresses of package net apart.
func FuzzAddress(f *testing.F) {
	for _, a := range [][2]string{
		{"tcp", "[fe80::1%vde0]:80"}, {"udp6", "a:b"}, {"tcp4", "10.0.0.1:http"}, {"ip4:icmp", "10.0.0.1"}, {"ip:300", ""}, {"", ""}, {"unix", "@x"}, {"tcp", "[::%]:1"},
	} {
		f.Add(a[0], a[1])
	}
	f.Fuzz(func(t *testing.T, network, address string) {
		var d Dialer
		host, _, ok := d.name(network, address)
		if !ok && host != "" {
			if ip, err := netip.ParseAddr(host); err != nil || ip.Zone() == "" {
				t.Errorf("%q has the literal %q: %v", address, host, err)
			}
		}
		if ok {
			if _, err := netip.ParseAddr(host); err == nil {
				t.Errorf("literal %q is taken for a name", host)
			}
			if f := family(network); f != "" && f != "4" && f != "6" {
				t.Errorf("%q is of family %q", network, f)
			}
		}
		if name, proto, err := parseIP(network); isIP(network) && err == nil && (proto < 0 || proto > 255 || name == "") {
			t.Errorf("%q is protocol %d of %q", network, proto, name)
		}
	})
}
