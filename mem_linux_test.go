package vdestack

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestUserSpace repeats tests of this package on mem:// in user space, whose
// interfaces are TAPs with a pump. Package stack has more.
func TestUserSpace(t *testing.T) {
	testenv.Long(t)
	netnstest.InUserSpace(t)
	for name, test := range map[string]func(*testing.T){
		"ClosedErrors": TestClosedErrors, "CloseBeside": TestCloseBeside, "CloseSockets": TestCloseSockets,
	} {
		t.Run(name, test)
	}
}

// TestMulticast sends to groups: the members get the packets, and those of other groups do
// not.
func TestMulticast(t *testing.T) {
	testenv.Long(t)
	netnstest.OnNetworks(t, func(t *testing.T, vnl string) {
		a, b := open(t, vnl, "10.0.0.1/24", "fc00::1:1/64"), open(t, vnl, "10.0.0.2/24", "fc00::1:2/64")
		testenv.Check(t, b.Run(t.Context(), "ip route add default dev vde0"))
		for _, tt := range []struct{ network, group, other string }{
			{"udp4", "239.1.2.3:7", "239.9.9.9:7"}, {"udp", "239.1.2.3:8", "239.9.9.9:8"}, {"udp6", "[ff05::123]:7", "[ff05::999]:7"},
		} {
			for _, ifname := range []string{"vde0", ""} {
				join := func(group string) *net.UDPConn {
					c, err := a.ListenMulticastUDP(tt.network, ifname, netip.MustParseAddrPort(group))
					if err != nil {
						t.Fatalf("%s on %q: %v", group, ifname, err)
					}
					t.Cleanup(func() { c.Close() })
					checkIn(t, a, c)
					return c
				}
				in, other := join(tt.group), join(tt.other)
				out := testenv.Dial(t, b, "udp", tt.group)
				testenv.Must(out.Write([]byte(tt.group + ifname)))(t)
				in.SetReadDeadline(time.Now().Add(10 * time.Second))
				buf := make([]byte, 100)
				for got := ""; got != tt.group+ifname; {
					n, _, err := in.ReadFrom(buf)
					if err != nil {
						t.Fatalf("%q has not come: %v", tt.group+ifname, err)
					}
					got = string(buf[:n])
				}
				other.SetDeadline(time.Now().Add(10 * time.Millisecond))
				if n, _, err := other.ReadFrom(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("a member of another group got %q, %v", buf[:n], err)
				}
			}
		}
	})
}
