//go:build amd64 || arm64

package stack

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

//go:embed testdata/sock_diag.txt
var diagCapture string

func capturedDumps(t testing.TB) (all [][]byte) {
	t.Helper()
	for line := range strings.Lines(diagCapture) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		b, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

func TestDecodeDump(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		t.Skip("the bytes are little-endian")
	}
	var got []string
	for i, b := range capturedDumps(t) {
		ids, end := decodeDump(b)
		if want := i%2 == 1; end != want {
			t.Errorf("datagram %d: end is %v", i, end)
		}
		for _, id := range ids {
			port := binary.BigEndian.Uint16(id)
			addr := netip.AddrFrom4([4]byte(id[4:]))
			if i > 1 {
				addr = netip.AddrFrom16([16]byte(id[4:]))
			}
			if port > 1024 {
				port = 0 // of the kernel's choice
			}
			got = append(got, fmt.Sprint(netip.AddrPortFrom(addr, port)))
		}
	}
	slices.Sort(got)
	if got, want := strings.Join(got, " "), "127.0.0.1:0 127.0.0.1:80 127.0.0.1:80 [::1]:0 [::1]:81 [::1]:81"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// FuzzDump finds every identity where it lies in the datagram, in order.
func FuzzDump(f *testing.F) {
	for _, b := range capturedDumps(f) {
		f.Add(b)
	}
	f.Add([]byte("\x10\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ids, _ := decodeDump(b)
		if need := unix.NLMSG_HDRLEN + diagMessageLen; len(ids) > (len(b)+3)/need {
			t.Fatalf("%d sockets in %d bytes", len(ids), len(b))
		}
		rest := b
		for _, id := range ids {
			i := bytes.Index(rest, id)
			if len(id) != sockIDLen || i < 0 {
				t.Fatalf("%x is not in %x", id, rest)
			}
			rest = rest[i+sockIDLen:]
		}
		// Written as the kernel writes them they are found again.
		var again []byte
		for _, id := range ids {
			m := make([]byte, unix.NLMSG_HDRLEN+diagMessageLen)
			binary.NativeEndian.PutUint32(m, uint32(len(m)))
			binary.NativeEndian.PutUint16(m[4:], sockDiagByFamily)
			copy(m[unix.NLMSG_HDRLEN+diagMsgSockID:], id)
			again = append(again, m...)
		}
		got, end := decodeDump(again)
		if !bytes.Equal(bytes.Join(got, nil), bytes.Join(ids, nil)) || end {
			t.Errorf("got %x, %v, want %x", got, end, ids)
		}
	})
}

// FuzzProc reads the files of /proc that commands and Close look into: the name
// of a process in them is anybody's choice.
func FuzzProc(f *testing.F) {
	f.Add("42 (cat) S 1 42 7 0 -1", 42)
	f.Add("42 (a) S 1 2 3 (b) R 1 77 7", 77)
	f.Add("Name:\ta\nFDSize:\t64\n", 64)
	f.Add("", 0)
	f.Fuzz(func(t *testing.T, text string, n int) {
		groupIn([]byte(text))
		if size, ok := fdSize(text); ok && size <= 0 {
			t.Errorf("a table of %d descriptors", size)
		}
		if got := groupIn(fmt.Appendf(nil, "1 (%s) S 1 %d 7 0 -1", text, n)); got != n {
			t.Errorf("group %d behind the name %q, want %d", got, text, n)
		}
		name := strings.ReplaceAll(text, "\n", `\n`) // as the kernel writes it
		if size, ok := fdSize(fmt.Sprintf("Name:\t%s\nFDSize:\t%d\nUid:\t0\n", name, n)); ok != (n > 0) || ok && size != n {
			t.Errorf("table of %d, %v, want %d", size, ok, n)
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
			if !strings.HasPrefix(text, "interface 0: ") || len(text) < len(err.Error()) && !strings.Contains(name+prefix+gateway, "%!") {
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
