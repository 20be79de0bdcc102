//go:build amd64 || arm64

package bridge_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/bridge"
	"github.com/vdestack/vdestack/internal/memnet"
	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
	"github.com/vdestack/vdestack/stack"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

// set gives a variable a value for the length of a test. Namespaces that are made ahead in the
// background depend on some.
func set[T any](t *testing.T, v *T, value T) {
	netns.EmptyPool()
	old := *v
	*v = value
	t.Cleanup(func() {
		netns.EmptyPool()
		*v = old
	})
}

func member(t *testing.T, vnl string, number int) *stack.Stack {
	t.Helper()
	s := testenv.Must(stack.New(t.Context(), config(vnl, number)))(t)
	t.Cleanup(func() { s.Close() })
	return s
}

func config(vnl string, number int) stack.Config {
	return stack.Config{Interfaces: []stack.Interface{{VNL: vnl, Addrs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/24", number))}}}}
}

func ping(t *testing.T, s *stack.Stack, number int) {
	t.Helper()
	out, err := s.Command(t.Context(), "ping", "-c", "1", "-W", "10", fmt.Sprintf("10.0.0.%d", number)).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestLANBridges fills bridges with ports, as a network with thousands does.
func TestLANBridges(t *testing.T) {
	testenv.Long(t)
	testenv.Need(t, "ping", "iputils-ping")
	set(t, bridge.BridgePorts, 2)
	set(t, bridge.MaxBridges, 3)
	for _, scheme := range []string{"lan://", "mem://"} {
		t.Run(scheme[:3], func(t *testing.T) {
			vnl := scheme + t.Name()
			var stacks []*stack.Stack
			for i := range *bridge.BridgePorts * *bridge.MaxBridges {
				stacks = append(stacks, member(t, vnl, i+1))
			}
			for i, s := range stacks {
				ping(t, s, (i+1)%len(stacks)+1)
				ping(t, s, (i+3)%len(stacks)+1)
			}
			if scheme == "mem://" {
				p := testenv.Must(vdeplug.Open(vnl, nil))(t)
				defer p.Close()
				ping(t, stacks[5], 1) // its question goes to all, over bridges
				buf := make([]byte, vdeplug.MaxFrame)
				stop := time.AfterFunc(10*time.Second, func() { p.Close() })
				defer stop.Stop()
				if err := stacks[5].Command(t.Context(), "ping", "-c", "1", "-W", "1", "10.0.0.99").Run(); err == nil {
					t.Error("nobody has answered")
				}
				for {
					n, err := p.Recv(buf)
					if err != nil {
						t.Fatal("the question has not reached the plug")
					}
					if f := buf[:n]; n >= 42 && f[12] == 8 && f[13] == 6 && f[41] == 99 {
						break
					}
				}
			}
			_, err := stack.New(t.Context(), config(vnl, 100))
			if err == nil || !strings.Contains(err.Error(), "the network has 6 interfaces, more do not fit") {
				t.Errorf("one too many: %v", err)
			}
			// There is room again when the kernel has removed what is closed.
			stacks[1].Close()
			bridge.Reap(vnl)
			member(t, vnl, 50)
			ping(t, stacks[4], 50)
		})
	}
}

// TestLANHeld closes stacks whose namespaces live on: their ports go.
func TestLANHeld(t *testing.T) {
	set(t, bridge.ReapDelay, time.Hour) // only Reap removes
	vnl := "mem://" + t.Name()
	member(t, vnl, 1)
	for i := range 10 {
		s := member(t, vnl, i+2)
		f := testenv.Must(s.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0))(t)
		defer f.Close()
		s.Close()
	}
	if got := bridge.Ports(t, vnl); got != 11 {
		t.Errorf("%d ports, want 11", got)
	}
	bridge.Reap(vnl)
	if got := bridge.Ports(t, vnl); got != 1 {
		t.Errorf("%d ports, want 1", got)
	}
	if got := bridge.Reserved(vnl); got != 1 {
		t.Errorf("%d places are taken, want 1", got)
	}
}

// TestWithoutLAN plays a kernel without bridges, and one without veth: mem://
// works, lan:// says what is missing.
func TestWithoutLAN(t *testing.T) {
	testenv.Need(t, "ping", "iputils-ping")
	for kind, want := range map[string]string{
		"bridge": "the kernel has no bridge interfaces: modprobe bridge; mem:// does without, more slowly",
		"veth":   "the kernel has no veth interfaces: modprobe veth; mem:// does without, more slowly",
	} {
		t.Run(kind, func(t *testing.T) {
			set(t, bridge.AddLink, func(c *rtnl.Conn, l rtnl.LinkSpec) (int, error) {
				if l.Kind == kind {
					l.Peer, l.Data, l.Kind = nil, nil, "none"
				}
				return c.LinkAdd(l)
			})
			t.Cleanup(func() { memnet.UserSpace.Store(false) })
			bridge.EndSpare()
			_, err := stack.New(t.Context(), config("lan://"+t.Name(), 1))
			if !errors.Is(err, unix.EOPNOTSUPP) || !strings.Contains(err.Error(), want) {
				t.Errorf("lan://: %v", err)
			}
			p := testenv.Must(vdeplug.Open("mem://"+t.Name(), nil))(t)
			defer p.Close()
			a, b := member(t, "mem://"+t.Name(), 1), member(t, "mem://"+t.Name(), 2)
			nl := testenv.Must(a.RTNL())(t)
			defer nl.Close()
			if l, err := nl.Link(a.Stats().Interfaces[0].Index); err != nil || l.Kind != "tun" {
				t.Errorf("the interface is no TAP: %+v, %v", l, err)
			}
			ping(t, a, 2)
			ping(t, b, 1)
			if all := bridge.Names(); len(all) != 0 {
				t.Errorf("networks %v", all)
			}
		})
	}
}
