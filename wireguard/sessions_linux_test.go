package wireguard

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
	"golang.zx2c4.com/wireguard/device"
)

// An end is one of two tunnels that lead to each other.
type end struct {
	*Tunnel
	under *vdestack.Stack // has the encrypted socket; nil is the host
	inner string          // address in the tunnel
	c     Config
}

// newEnds returns two ends, with the encrypted sockets at addresses on one network, or on the host.
// The first is told where the second is, which learns it from the first packet unless both is set.
func newEnds(t *testing.T, network string, addrs [2]string, both bool) (ends [2]*end) {
	t.Helper()
	keys := [2]Key{NewKey(), NewKey()}
	for i := range ends {
		e := &end{inner: fmt.Sprintf("10.0.0.%d", i+1)}
		e.c = Config{PrivateKey: keys[i], Addrs: testenv.Prefixes(e.inner + "/32"), Logger: testLogger(t)}
		if network != "" {
			e.under = newStack(t, vdestack.Interface{VNL: network, Addrs: testenv.Prefixes(addrs[i])})
			e.c.Underlay, e.c.ListenPort = e.under, peerPort
		}
		ends[i] = e
	}
	psk := NewKey()
	for i, e := range slices.Backward(ends[:]) {
		other := ends[1-i]
		peer := Peer{PublicKey: keys[1-i].Public(), PresharedKey: psk, AllowedIPs: testenv.Prefixes(other.inner + "/32")}
		switch {
		case network == "" && i == 0: // the second has its port by now
			peer.Endpoint = fmt.Sprint("localhost:", testenv.Must(other.ListenPort())(t))
		case network != "" && (i == 0 || both):
			peer.Endpoint = netip.AddrPortFrom(netip.MustParsePrefix(addrs[1-i]).Addr(), peerPort).String()
		}
		e.c.Peers = []Peer{peer}
		e.Tunnel = testenv.Opened(Up(t.Context(), testenv.Opened(vdestack.Open(""))(t), e.c))(t)
	}
	return ends
}

// expire has the device take its keys for too old, as those that it has used for two minutes.
func (e *end) expire(t *testing.T) {
	t.Helper()
	// The other end ignores a handshake that comes so soon after another.
	time.Sleep(time.Until(only(t, e.Tunnel).LastHandshake.Add(2 * device.HandshakeInitationRate)))
	e.dev.LookupPeer(device.NoisePublicKey(e.c.Peers[0].PublicKey)).ExpireCurrentKeypairs()
}

// move changes the address that encrypted packets come from, in the place of another.
func (e *end) move(t *testing.T, from, to string) {
	t.Helper()
	nl := testenv.Opened(e.under.RTNL())(t)
	index := e.under.Stats().Interfaces[0].Index
	testenv.Check(t, nl.AddrAdd(index, netip.MustParsePrefix(to), rtnl.NoDAD))
	testenv.Check(t, nl.AddrDel(index, netip.MustParsePrefix(from)))
	testenv.Check(t, nl.AddrReplace(index, netip.MustParsePrefix(to), rtnl.NoDAD)) // the kernel takes it with the first, unless told otherwise
}

// A flow is a TCP connection between two ends, on which both send until the end of the test.
type flow struct {
	ends      [2]*end
	sent, got [2]atomic.Int64 // by the end; sent has what is being written
}

// startFlow begins a flow. It takes little of a processor: 100 KB/s.
func startFlow(t *testing.T, ends [2]*end) *flow {
	t.Helper()
	f := &flow{ends: ends}
	ln := testenv.Listen(t, ends[1].Stack(), "tcp", ":9")
	conns := [2]net.Conn{testenv.Dial(t, ends[0].Stack(), "tcp", ends[1].inner+":9")}
	conns[1] = testenv.Must(ln.Accept())(t)
	var all sync.WaitGroup
	stop := make(chan struct{})
	for i, c := range conns {
		all.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			b := make([]byte, 1000)
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				// It counts before it can be on its way: what counts later is sent later.
				n := f.sent[i].Add(int64(len(b))) - int64(len(b))
				for j := range b {
					b[j] = content(n + int64(j))
				}
				if _, err := c.Write(b); err != nil {
					return // the reader says so
				}
			}
		})
		all.Go(func() {
			r := bufio.NewReader(c)
			for n := int64(0); ; n++ {
				b, err := r.ReadByte()
				select {
				case <-stop:
					return
				default:
				}
				if err != nil || b != content(n) {
					t.Errorf("end %d, byte %d: %d, %v, want %d", i, n, b, err, content(n))
					return
				}
				f.got[i].Store(n + 1)
			}
		})
	}
	t.Cleanup(func() {
		close(stop)
		for _, c := range conns {
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
		all.Wait()
	})
	return f
}

// content is what a flow has at a place.
func content(at int64) byte { return byte(at ^ at>>8) }

// goesOn waits until something arrives in both directions that was sent after now.
func (f *flow) goesOn(t *testing.T, what string) {
	t.Helper()
	want := [2]int64{f.sent[1].Load() + 1, f.sent[0].Load() + 1}
	testenv.Eventually(t, what+": the flow goes on", func() bool { return f.got[0].Load() > want[0] && f.got[1].Load() > want[1] },
		func() string {
			return fmt.Sprintf("received %d and %d, want %d", f.got[0].Load(), f.got[1].Load(), want)
		})
}

// TestMove changes addresses and ports of encrypted sockets while a flow goes through, at either
// end: the other end follows. Then the way gets narrower.
func TestMove(t *testing.T) {
	for name, tt := range map[string]struct {
		addrs [2]string
		moved string
	}{
		"IPv4": {[2]string{"192.0.2.1/24", "192.0.2.2/24"}, "192.0.2.%d/24"},
		"IPv6": {[2]string{"fd09::1/64", "fd09::2/64"}, "fd09::%d/64"},
		"host": {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			network := ""
			if tt.moved != "" {
				network = "mem://" + t.Name()
			}
			ends := newEnds(t, network, tt.addrs, false)
			f := startFlow(t, ends)
			f.goesOn(t, "at first")
			for i, e := range ends {
				other := ends[1-i]
				seen := only(t, other.Tunnel).Endpoint
				check := func(what string, want netip.AddrPort) {
					t.Helper()
					f.goesOn(t, what)
					if s := only(t, other.Tunnel); s.Endpoint != want {
						t.Errorf("%s of end %d: the other end is told %v, want %v", what, i, s.Endpoint, want)
					}
				}
				testenv.Check(t, e.dev.IpcSet("listen_port=0\n"))
				port := testenv.Must(e.ListenPort())(t)
				if port == seen.Port() {
					t.Errorf("end %d has the port that it had", i)
				}
				seen = netip.AddrPortFrom(seen.Addr(), port)
				check("another port", seen)
				if e.under != nil {
					to := fmt.Sprintf(tt.moved, 11+i)
					e.move(t, tt.addrs[i], to)
					check("another address", netip.AddrPortFrom(netip.MustParsePrefix(to).Addr(), port))
				}
			}
			for _, e := range ends {
				echo(t, e.Stack())
				if e.under != nil {
					nl := testenv.Opened(e.under.RTNL())(t)
					testenv.Check(t, nl.LinkSetMTU(e.under.Stats().Interfaces[0].Index, 1300))
				}
			}
			for i, e := range ends {
				transfer(t, e.Stack(), ends[1-i].inner, 1<<14)
			}
			f.goesOn(t, "at last")
		})
	}
}

// TestRekey has each end agree on new keys several times while a flow goes through.
func TestRekey(t *testing.T) {
	t.Parallel()
	ends := newEnds(t, "mem://"+t.Name(), [2]string{"192.0.2.1/24", "192.0.2.2/24"}, false)
	f := startFlow(t, ends)
	for range 3 {
		for i, e := range ends {
			var before [2]time.Time
			for j, e := range ends {
				before[j] = only(t, e.Tunnel).LastHandshake
			}
			e.expire(t)
			f.goesOn(t, fmt.Sprint("new keys, by end ", i))
			for j, e := range ends {
				if now := only(t, e.Tunnel).LastHandshake; !now.After(before[j]) {
					t.Errorf("new keys by end %d: to end %d they are of %v, before of %v", i, j, now, before[j])
				}
			}
		}
	}
}

// TestRestart ends a tunnel and begins it anew with the same keys while a flow goes through.
func TestRestart(t *testing.T) {
	for _, both := range []bool{true, false} {
		t.Run(fmt.Sprint("it knows the other end: ", both), func(t *testing.T) {
			t.Parallel()
			ends := newEnds(t, "mem://"+t.Name(), [2]string{"192.0.2.1/24", "192.0.2.2/24"}, both)
			f := startFlow(t, ends)
			f.goesOn(t, "at first")
			e := ends[1]
			st := e.Stack()
			testenv.Check(t, e.Close())
			e.Tunnel = testenv.Opened(Up(t.Context(), st, e.c))(t)
			if !both {
				ends[0].expire(t) // which it does itself after 15 s, see TestTimes
			}
			f.goesOn(t, "after the restart")
		})
	}
}
