package testenv

import (
	"net"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

// TestPrivate checks that there is no interface of the machine, and that multicast works.
func TestPrivate(t *testing.T) {
	ifs, err := net.Interfaces()
	Check(t, err)
	for _, i := range ifs {
		if !strings.HasPrefix(i.Name, "test") && i.Name != "lo" {
			t.Errorf("interface %s: the namespace is not private", i.Name)
		}
	}
	for _, tt := range []struct{ group, ifname string }{
		{"234.0.0.1:14789", "lo"},
		{"[ff05:56de::1]:14789", "test0"},
	} {
		t.Run(tt.group, func(t *testing.T) {
			addr, err := net.ResolveUDPAddr("udp", tt.group)
			Check(t, err)
			ifi, err := net.InterfaceByName(tt.ifname)
			Check(t, err)
			in, err := net.ListenMulticastUDP("udp", ifi, addr)
			Check(t, err)
			defer in.Close()
			out, err := net.DialUDP("udp", nil, addr)
			Check(t, err)
			defer out.Close()
			Must(out.Write([]byte("hello")))(t)
			in.SetReadDeadline(time.Now().Add(5 * time.Second))
			buf := make([]byte, 100)
			if n, _, err := in.ReadFrom(buf); err != nil || string(buf[:n]) != "hello" {
				t.Fatalf("got %q, %v, want the multicast packet back", buf[:n], err)
			}
		})
	}
}
