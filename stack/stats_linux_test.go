package stack_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/stack"
)

// TestStatsTruth compares what a stack has sent with what another has received, on
// networks of plugs.
func TestStatsTruth(t *testing.T) {
	testenv.Long(t)
	for name, vnl := range map[string]string{
		"mem": "mem://" + t.Name(), "ptp": "ptp://" + filepath.Join(t.TempDir(), "p"),
		"netemu": "netemu://delay=1us{mem://" + t.Name() + ".emu}", "vlan": "vlan://5{mem://" + t.Name() + ".vlan}",
	} {
		for _, kind := range kinds {
			for _, o := range []stack.Offload{0, 0xff} {
				t.Run(fmt.Sprintf("%s on %s without %#x", name, kind, o), func(t *testing.T) {
					netnstest.InUserSpace(t)
					with := func(addr string) Config {
						return Config{Interfaces: []Interface{{VNL: vnl, Kind: kind, NoOffload: o, Addrs: testenv.Prefixes(addr)}}}
					}
					b := made(t, with("10.0.0.2/24")) // first: it gets all
					a := made(t, with("10.0.0.1/24"))
					echo(t, a, b)
					transfer(t, b, a, "10.0.0.2:0", 64<<10)
					var sent, got InterfaceStats
					defer func() {
						if t.Failed() {
							t.Logf("sent %+v, received %+v", sent, got)
						}
					}()
					testenv.Eventually(t, "all that is sent has arrived", func() bool {
						sent, got = a.Stats().Interfaces[0], b.Stats().Interfaces[0]
						return sent.TxFrames > 0 && got.RxFrames+got.RxDropped == sent.TxFrames && (got.RxDropped > 0 || got.RxBytes == sent.TxBytes)
					})
				})
			}
		}
	}
}

// echo sends datagrams of many sizes from a to b and back.
func echo(t *testing.T, a, b *Stack) {
	t.Helper()
	p := testenv.ListenPacket(t, b, "udp", "10.0.0.2:7")
	c := testenv.Dial(t, a, "udp", "10.0.0.2:7")
	buf := make([]byte, 2000)
	for n := 1; n < 1500; n += 97 {
		for _, one := range []interface{ SetReadDeadline(time.Time) error }{p, c} {
			one.SetReadDeadline(time.Now().Add(10 * time.Second))
		}
		testenv.Must(c.Write(buf[:n]))(t)
		_, from, err := p.ReadFrom(buf)
		testenv.Check(t, err)
		testenv.Must(p.WriteTo(buf[:n], from))(t)
		testenv.Must(c.Read(buf))(t)
	}
}

// TestStatsDropped has a network that drops all: nothing counts as sent.
func TestStatsDropped(t *testing.T) {
	for _, kind := range kinds {
		for _, never := range []bool{false, true} {
			s := made(t, Config{Interfaces: []Interface{{Kind: kind, NoReconnect: never, Addrs: testenv.Prefixes("10.0.0.1/24", "fc00::1/64")}}})
			speaker := newSpeaker(t, s)
			for range 100 {
				speaker.send(t, "10.0.0.255:7", "nobody")
			}
			testenv.Check(t, s.Close())
			if st := s.Stats().Interfaces[0]; st.TxFrames != 0 || st.TxBytes != 0 || st.TxDropped < 100 {
				t.Errorf("%s: %+v", kind, st)
			}
		}
	}
}
