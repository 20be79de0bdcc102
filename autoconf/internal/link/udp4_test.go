package link

import (
	"bytes"
	"net/netip"
	"testing"

	"golang.org/x/net/bpf"
)

// TestUDP4 reads what it has written, right and wrong. TestKernel has the kernel read it.
func TestUDP4(t *testing.T) {
	to := netip.MustParseAddrPort("255.255.255.255:67")
	got, err := appendUDP4(nil, netip.AddrPortFrom(netip.Addr{}, 68), to, []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := parseUDP4(got, 68, true); ok {
		t.Error("a packet to port 67 arrives at port 68")
	}
	p, ok := parseUDP4(append(got, "padding"...), 67, true)
	if !ok || string(p.Data) != "hello" || p.Peer != netip.MustParseAddrPort("0.0.0.0:68") || p.Local != to.Addr() {
		t.Errorf("got %+v, %v", p, ok)
	}
	for i := range got {
		bad := bytes.Clone(got)
		bad[i] ^= 0x10
		if p, ok := parseUDP4(bad, 67, true); ok {
			t.Errorf("byte %d is wrong, but the packet is taken: %+v", i, p)
		}
	}
	got[sizeofIP4+6]++
	if _, ok := parseUDP4(got, 67, false); !ok {
		t.Error("the checksum was not made, but is checked")
	}
	for _, bad := range []struct {
		to   string
		size int
	}{{"[::1]:67", 1}, {"10.0.0.1:67", 65536 - 28}} {
		if _, err := appendUDP4(nil, netip.AddrPort{}, netip.MustParseAddrPort(bad.to), make([]byte, bad.size)); err == nil {
			t.Errorf("%d bytes to %s: no error", bad.size, bad.to)
		}
	}
}

// TestARPFilter passes what concerns an address.
func TestARPFilter(t *testing.T) {
	for _, tt := range []struct {
		about, sender, target string
		want                  bool
	}{
		{"", "10.0.0.1", "10.0.0.2", true},
		{"10.0.0.42", "10.0.0.42", "10.0.0.1", true},
		{"10.0.0.42", "10.0.0.42", "10.0.0.42", true},
		{"10.0.0.42", "0.0.0.0", "10.0.0.42", true},
		{"10.0.0.42", "0.0.0.0", "10.0.0.43", false},
		{"10.0.0.42", "10.0.0.1", "10.0.0.42", false},
		{"10.0.0.42", "10.0.0.1", "10.0.0.2", false},
	} {
		about, _ := netip.ParseAddr(tt.about)
		vm, err := bpf.NewVM(arpFilter(about))
		if err != nil {
			t.Fatal(err)
		}
		for _, op := range []byte{1, 2} {
			b := append([]byte{0, 1, 8, 0, 6, 4, 0, op, 2, 0, 0, 0, 0, 9}, netip.MustParseAddr(tt.sender).AsSlice()...)
			b = append(append(b, 0, 0, 0, 0, 0, 0), netip.MustParseAddr(tt.target).AsSlice()...)
			if n, err := vm.Run(b); err != nil || (n > 0) != tt.want {
				t.Errorf("%+v: %d bytes pass, %v", tt, n, err)
			}
			if n, err := vm.Run(b[:20]); about.IsValid() && (n > 0 && !tt.want || err != nil) {
				t.Errorf("%+v: of a short packet %d bytes pass, %v", tt, n, err)
			}
		}
	}
}

// FuzzUDP4 checks that a packet that is taken has what it says, and survives being sent.
func FuzzUDP4(f *testing.F) {
	seed, _ := appendUDP4(nil, netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67"), []byte("hello"))
	f.Add(seed, uint16(67), true)
	f.Fuzz(func(t *testing.T, b []byte, port uint16, complete bool) {
		p, ok := parseUDP4(b, port, complete)
		if !ok {
			return
		}
		again, err := appendUDP4(nil, p.Peer, netip.AddrPortFrom(p.Local, port), p.Data)
		if err != nil {
			t.Fatal(err)
		}
		q, ok := parseUDP4(again, port, true)
		if !ok || !bytes.Equal(q.Data, p.Data) || q.Local != p.Local || q.Peer != p.Peer {
			t.Fatalf("%+v is sent as %+v, %v", p, q, ok)
		}
	})
}
