package vdestack

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/memnet"
	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// inUserSpace makes the networks mem:// of a test as a kernel without bridges
// does.
func inUserSpace(t testing.TB) {
	memnet.UserSpace.Store(true)
	t.Cleanup(func() { memnet.UserSpace.Store(false) })
}

// TestUserSpace repeats tests of this package on mem:// in user space, whose
// interfaces are TAPs with a pump. Package stack has more.
func TestUserSpace(t *testing.T) {
	testenv.Long(t)
	inUserSpace(t)
	for name, test := range map[string]func(*testing.T){
		"Closed": TestClosed, "CloseBeside": TestCloseBeside, "CloseSockets": TestCloseSockets,
	} {
		t.Run(name, test)
	}
}

// onNetworks runs a test on each kind of network that joins stacks of a process.
func onNetworks(t *testing.T, test func(t *testing.T, vnl string)) {
	for _, scheme := range []string{"lan", "mem"} {
		t.Run(scheme, func(t *testing.T) {
			netnstest.NoLeaks(t)
			test(t, scheme+"://"+t.Name())
		})
	}
	t.Run("mem in user space", func(t *testing.T) {
		inUserSpace(t)
		netnstest.NoLeaks(t)
		test(t, "mem://"+t.Name())
	})
}

// TestMulticastBetween reaches those who want it.
func TestMulticastBetween(t *testing.T) {
	onNetworks(t, func(t *testing.T, vnl string) {
		a, b := open(t, vnl, "10.0.0.1/24", "fc00::1:1/64"), open(t, vnl, "10.0.0.2/24", "fc00::1:2/64")
		if err := b.Run(t.Context(), "ip route add default dev vde0"); err != nil {
			t.Fatal(err)
		}
		for network, group := range map[string]string{"udp4": "239.1.2.3:7", "udp6": "[ff05::123]:7"} {
			for _, ifname := range []string{"vde0", ""} {
				in, err := a.ListenMulticastUDP(network, ifname, netip.MustParseAddrPort(group))
				if err != nil {
					t.Fatalf("%s on %q: %v", group, ifname, err)
				}
				defer in.Close()
				out, err := b.Dial(network, group)
				if err != nil {
					t.Fatal(err)
				}
				defer out.Close()
				if _, err := out.Write([]byte(group + ifname)); err != nil {
					t.Fatal(err)
				}
				in.SetReadDeadline(time.Now().Add(10 * time.Second))
				buf := make([]byte, 100)
				for got := ""; got != group+ifname; {
					n, _, err := in.ReadFrom(buf)
					if err != nil {
						t.Fatalf("%q has not come: %v", group+ifname, err)
					}
					got = string(buf[:n])
				}
			}
		}
	})
}
