//go:build amd64 || arm64

package stack

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzProc reads a file of /proc in which the name of the process is anybody's choice.
func FuzzProc(f *testing.F) {
	f.Add("42 (cat) S 1 42 7 0 -1", 42)
	f.Add("42 (a) S 1 2 3 (b) R 1 77 7", 77)
	f.Add("", 0)
	f.Fuzz(func(t *testing.T, text string, n int) {
		groupIn([]byte(text))
		if got := groupIn(fmt.Appendf(nil, "1 (%s) S 1 %d 7 0 -1", text, n)); got != n {
			t.Errorf("group %d behind the name %q, want %d", got, text, n)
		}
	})
}

// FuzzSysctl wants the path of a setting to be one of the network's.
func FuzzSysctl(f *testing.F) {
	for _, name := range []string{"net.ipv4.ip_forward", "net/ipv4/conf/eth0.1/forwarding", "net/../kernel", "net..x", "kernel.x", "net.a\x00"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		path, err := sysctlPath(name)
		if err != nil {
			return
		}
		if !strings.HasPrefix(path, "net/") || filepath.Clean(path) != path || strings.ContainsRune(path, 0) {
			t.Errorf("%q is the setting %q", name, path)
		}
	})
}

// FuzzInterface wants an interface that is accepted to be one that the kernel
// can have.
func FuzzInterface(f *testing.F) {
	f.Add("vde0", []byte{2, 0, 0, 0, 0, 1}, 1500, "10.0.0.1/24", "10.0.0.2")
	f.Add("lo", []byte{1}, 67, "fe80::1%a/64", "fe80::1%lo")
	f.Add("a/b", []byte{0, 0, 0, 0, 0, 0}, 0, "::ffff:10.0.0.1/120", "::ffff:10.0.0.2")
	f.Fuzz(func(t *testing.T, name string, mac []byte, mtu int, prefix, gateway string) {
		p, _ := netip.ParsePrefix(prefix)
		gw, _ := netip.ParseAddr(gateway)
		cfg := Config{Interfaces: []Interface{{Name: name, MAC: mac, MTU: mtu, Addrs: []netip.Prefix{p}, Gateways: []netip.Addr{gw}}}}
		if err := cfg.check(); err != nil {
			text := strings.ReplaceAll(err.Error(), "%!", "") // a wrong verb, if it is not of the input
			if _, ok := errors.AsType[*InterfaceError](err); !ok || !strings.HasPrefix(text, "interface ") || len(text) < len(err.Error()) && !strings.Contains(name+prefix+gateway, "%!") {
				t.Errorf("got %q", err)
			}
			return
		}
		i := cfg.Interfaces[0]
		if i.Name == "" || len(i.Name) > 15 || strings.ContainsAny(i.Name, "/: \x00") {
			t.Errorf("name %q", i.Name)
		}
		if i.MTU < 68 || i.MTU > 9216 || i.MAC != nil && len(i.MAC) != 6 {
			t.Errorf("MTU %d, MAC %v", i.MTU, i.MAC)
		}
		if !p.IsValid() || !gw.IsValid() || gw.Is4In6() || p.Addr().Is6() && i.MTU < 1280 {
			t.Errorf("address %v, gateway %v, MTU %d", p, gw, i.MTU)
		}
	})
}
