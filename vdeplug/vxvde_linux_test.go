package vdeplug

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// vxvdeFamilies are the networks of the tests: IPv6 multicast needs an
// interface, and is cut to fragments there.
var vxvdeFamilies = []struct{ name, vnl string }{
	{"IPv4", "vxvde://"},
	{"IPv6", "vxvde:///v6/if=test0"},
}

func TestVXVDEConn(t *testing.T) {
	for _, f := range vxvdeFamilies {
		t.Run(f.name, func(t *testing.T) {
			testConn(t, func(t *testing.T) Conn {
				c, err := Open(f.vnl, nil)
				if err != nil {
					t.Fatal(err)
				}
				return c
			})
		})
	}
}

// TestVXVDEPair has two endpoints on one host: each gets what the other sends,
// once, and nothing of its own.
func TestVXVDEPair(t *testing.T) {
	for _, f := range vxvdeFamilies {
		t.Run(f.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			a, b := openInbox(t, f.vnl), openInbox(t, f.vnl)
			for _, n := range []int{15, 60, 1514, ether.MaxFrame} {
				frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), n)
				plugtest.Send(t, a, frame)
				if got := b.Next(t); !bytes.Equal(got, frame) {
					t.Errorf("broadcast of %d bytes: got %d others", n, len(got))
				}
				frame = plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), n)
				plugtest.Send(t, b, frame)
				if got := a.Next(t); !bytes.Equal(got, frame) {
					t.Errorf("unicast of %d bytes: got %d others", n, len(got))
				}
			}
			// Nobody accepts a frame without payload.
			plugtest.Send(t, a, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 14))
			last := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 15)
			plugtest.Send(t, a, last)
			if got := b.Next(t); !bytes.Equal(got, last) {
				t.Errorf("got a frame of %d bytes", len(got))
			}
			if got := b.Conn.(Dropper).Drops(); got != (Drops{Recv: 1}) {
				t.Errorf("got %+v, want one short frame", got)
			}
		})
	}
}

// openVXVDETest opens an endpoint with a clock of the test.
func openVXVDETest(t *testing.T, vnl string) (plugOn[*vxvdeConn], *atomic.Int64) {
	t.Helper()
	l, err := Parse(vnl)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := parseVXVDE(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	clock := new(atomic.Int64)
	c, err := newVXVDEClock(l, cfg, func() time.Duration { return time.Duration(clock.Load()) })
	if err != nil {
		t.Fatal(err)
	}
	p := on[*vxvdeConn](newPlug(l.String(), c))
	t.Cleanup(func() { p.Close() })
	return p, clock
}

// TestVXVDECaptured plays the second of the captured endpoints against the
// bytes of the first.
func TestVXVDECaptured(t *testing.T) {
	captured := capturedVXVDE(t)
	for _, f := range vxvdeFamilies {
		t.Run(f.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			c, _ := openVXVDETest(t, f.vnl)
			in := plugtest.NewInbox(t, c)
			p := newProbe(t, c)
			p.send(t, captured["broadcast"])
			in.Want(t, captured["broadcast"][vxvdeHeaderLen:])
			plugtest.Send(t, c, captured["unicast"][vxvdeHeaderLen:])
			p.want(t, p.own, captured["unicast"])
			p.send(t, captured["bye"])
			p.send(t, captured["unicast"]) // anything, to know that the other has been read
			in.Want(t, captured["unicast"][vxvdeHeaderLen:])
			plugtest.Send(t, c, captured["unicast"][vxvdeHeaderLen:])
			p.want(t, p.group, captured["unicast"])
			c.Close()
			p.want(t, p.group, captured["bye"])
		})
	}
}

// TestVXVDEJunk sends packets that are none of the network before one that is.
func TestVXVDEJunk(t *testing.T) {
	testenv.NoLeaks(t)
	c, _ := openVXVDETest(t, "vxvde:///vni=7")
	in := plugtest.NewInbox(t, c)
	p := newProbe(t, c)
	own := makeVXVDEHeader(7)
	for i := range own {
		header := own
		header[i] ^= 1
		p.send(t, withHeader(header, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)))
	}
	for n := range vxvdeHeaderLen {
		p.send(t, own[:n])
	}
	for _, n := range []int{1, 4, 10, 13, 14} {
		p.send(t, withHeader(own, make([]byte, n)))
	}
	p.send(t, withHeader(own, make([]byte, ether.MaxFrame+1)))
	p.send(t, withHeader(own, make([]byte, 60000)))
	want := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 15)
	p.send(t, withHeader(own, want))
	if got := in.Next(t); !bytes.Equal(got, want) {
		t.Errorf("got % .60x, want % x", got, want)
	}
	if got := c.Drops(); got != (Drops{Recv: 7}) {
		t.Errorf("got %+v, want the five short and two long frames", got)
	}
}

// TestVXVDEShortBuffer drops what the receiver has no room for.
func TestVXVDEShortBuffer(t *testing.T) {
	testenv.NoLeaks(t)
	c, _ := openVXVDETest(t, "vxvde://")
	p := newProbe(t, c)
	header := makeVXVDEHeader(1)
	for _, n := range []int{61, 200, 60} {
		p.send(t, withHeader(header, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), n)))
	}
	if n, err := c.Recv(make([]byte, 60)); n != 60 || err != nil {
		t.Errorf("got %d bytes, %v, want 60", n, err)
	}
	if got := c.Drops(); got != (Drops{Recv: 2}) {
		t.Errorf("got %+v, want 2", got)
	}
	p.send(t, withHeader(header, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)))
	p.send(t, header[:])
	go c.Recv(nil)
	testenv.Eventually(t, "a drop", func() bool { return c.Drops().Recv == 3 })
}

// TestVXVDELearning follows a station that is learned, moves, ages and leaves.
func TestVXVDELearning(t *testing.T) {
	for _, f := range vxvdeFamilies {
		t.Run(f.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			c, clock := openVXVDETest(t, f.vnl+map[bool]string{true: "/expiretime=2", false: "//expiretime=2"}[f.name == "IPv6"])
			in := plugtest.NewInbox(t, c)
			a, b := newProbe(t, c), newProbe(t, c)
			header := makeVXVDEHeader(1)
			to := plugtest.Station(1)
			// speak lets the station send from a probe, by multicast.
			speak := func(p *probe) {
				t.Helper()
				frame := plugtest.TestFrame(plugtest.Broadcast, to, 60)
				p.send(t, withHeader(header, frame))
				in.Want(t, frame)
			}
			// expect sends to the station and waits for the packet where it
			// should come.
			expect := func(p *probe, at *net.UDPConn) {
				t.Helper()
				frame := plugtest.TestFrame(to, plugtest.Station(2), 60)
				plugtest.Send(t, c, frame)
				for {
					got, _ := p.read(t, at)
					if bytes.Equal(got, withHeader(header, frame)) {
						return
					}
				}
			}
			expect(a, a.group) // unknown
			speak(a)
			expect(a, a.own)
			speak(b) // moved
			expect(b, b.own)
			clock.Add(int64(2 * time.Second))
			expect(b, b.own)
			clock.Add(1)
			expect(a, a.group) // too old
			speak(a)
			expect(a, a.own)
			a.send(t, header[:]) // a bye by multicast
			speak2 := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(3), 60)
			b.send(t, withHeader(header, speak2))
			in.Want(t, speak2)
			expect(a, a.group)

			// A bye by unicast, of another endpoint first.
			speak(a)
			frame := plugtest.TestFrame(to, plugtest.Station(2), 60)
			plugtest.Send(t, c, frame)
			_, src := a.read(t, a.own)
			for _, p := range []*probe{b, a} {
				if _, err := p.own.WriteToUDPAddrPort(header[:], src); err != nil {
					t.Fatal(err)
				}
				mark := plugtest.TestFrame(plugtest.Station(2), plugtest.Station(4), 60)
				if _, err := p.own.WriteToUDPAddrPort(withHeader(header, mark), src); err != nil {
					t.Fatal(err)
				}
				in.Want(t, mark)
				if p == b {
					expect(a, a.own)
				}
			}
			expect(a, a.group)

			// A frame from a multicast address is delivered, not learned.
			frame = plugtest.TestFrame(plugtest.Station(2), ether.MAC{1, 0, 0x5e, 0, 0, 1}, 60)
			a.send(t, withHeader(header, frame))
			in.Want(t, frame)
			c.on.mu.Lock()
			defer c.on.mu.Unlock()
			if _, ok := c.on.table.Lookup(ether.MAC{1, 0, 0x5e, 0, 0, 1}, 0); ok {
				t.Error("a multicast source was learned")
			}
		})
	}
}

// TestVXVDELearningOff sends everything to the group.
func TestVXVDELearningOff(t *testing.T) {
	testenv.NoLeaks(t)
	c, _ := openVXVDETest(t, "vxvde:///hashsize=0")
	in := plugtest.NewInbox(t, c)
	p := newProbe(t, c)
	header := makeVXVDEHeader(1)
	frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)
	p.send(t, withHeader(header, frame))
	in.Want(t, frame)
	frame = plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60)
	plugtest.Send(t, c, frame)
	p.want(t, p.group, withHeader(header, frame))
}

// TestVXVDEOther has two networks on one group: their members do not meet.
func TestVXVDEOther(t *testing.T) {
	testenv.NoLeaks(t)
	a, b := openInbox(t, "vxvde:///vni=1"), openInbox(t, "vxvde:///vni=2")
	a2 := openInbox(t, "vxvde://")
	first, second := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60), plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(2), 60)
	plugtest.Send(t, b, first)
	plugtest.Send(t, a, second)
	if got := a2.Next(t); !bytes.Equal(got, second) {
		t.Errorf("got a frame of another network")
	}
}

// TestVXVDEOptions looks at what the kernel was told.
func TestVXVDEOptions(t *testing.T) {
	testenv.NoLeaks(t)
	c, _ := openVXVDETest(t, "vxvde:///ttl=7/rcvbuf=32k/bind=127.0.0.1/port=5555")
	for _, tt := range []struct {
		name               string
		level, option, min int
	}{
		{"IP_TTL", unix.IPPROTO_IP, unix.IP_TTL, 7},
		{"IP_MULTICAST_TTL", unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 7},
		{"SO_RCVBUF", unix.SOL_SOCKET, unix.SO_RCVBUF, 64 << 10}, // doubled, as always
	} {
		got, err := unix.GetsockoptInt(c.on.sockets.uni, tt.level, tt.option)
		if err != nil || got != tt.min {
			t.Errorf("%s = %d, %v, want %d", tt.name, got, err, tt.min)
		}
	}
	in := plugtest.NewInbox(t, c)
	p := newProbe(t, c)
	plugtest.Send(t, c, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
	if _, src := p.read(t, p.group); src.Addr().Unmap() != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("packet from %v, want the address of the option bind", src)
	}
	// The own packet has come back by now.
	frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(2), 60)
	p.send(t, withHeader(makeVXVDEHeader(1), frame))
	if got := in.Next(t); !bytes.Equal(got, frame) {
		t.Error("got the own frame")
	}
}

func TestVXVDEOpenErrors(t *testing.T) {
	tests := []struct {
		vnl, text string
		err       error
	}{
		{"vxvde:///if=nosuch0", `option "if=nosuch0": no such interface`, unix.ENODEV},
		{"vxvde:///if=sixteen-bytes-xx", `at most 15 bytes`, nil},
		{"vxvde:///bind=10.11.12.13", `option "bind=10.11.12.13": not an address of this host`, unix.EADDRNOTAVAIL},
		{"vxvde://ff05::1/if=test0/bind=fd09::99", `option "bind=fd09::99": not an address of this host`, unix.EADDRNOTAVAIL},
	}
	for _, tt := range tests {
		t.Run(tt.vnl, func(t *testing.T) {
			testenv.NoLeaks(t)
			_, err := Open(tt.vnl, nil)
			wantError(t, err, tt.text)
			if tt.err != nil && !errors.Is(err, tt.err) {
				t.Errorf("%v is not %v", err, tt.err)
			}
		})
	}
}

// TestVXVDEPortTaken meets a program that does not share the port.
func TestVXVDEPortTaken(t *testing.T) {
	testenv.NoLeaks(t)
	other, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 5556})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	_, err = Open("vxvde:///port=5556", nil)
	wantError(t, err, "port 5556 of group 239.0.0.1 is taken")
}

// inNamespace runs f in a new network namespace, with nothing in it.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making a namespace for a thread needs root")
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestVXVDENoRoute also shows that the sockets are of the caller's namespace.
func TestVXVDENoRoute(t *testing.T) {
	inNamespace(t, func() {
		for vnl, text := range map[string]string{
			"vxvde://234.0.0.1": "no route to the group 234.0.0.1: add one (ip route add 224.0.0.0/4 dev NAME), or say the interface (if=NAME)",
			"vxvde://ff05::1":   "no route to the group ff05::1: bring up an interface that has IPv6, or say",
		} {
			_, err := Open(vnl, nil)
			wantError(t, err, text)
			if !errors.Is(err, unix.ENODEV) {
				t.Errorf("%v is not ENODEV", err)
			}
		}
		c, err := Open("vxvde:///if=lo", nil)
		if err != nil {
			t.Errorf("with an interface: %v", err)
			return
		}
		defer c.Close()
		// The interface is down: nothing can be sent, but that may change.
		if err := c.Send(plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)); err != nil {
			t.Errorf("send: %v", err)
		}
		if got := c.(Dropper).Drops(); got != (Drops{Send: 1}) {
			t.Errorf("got %+v, want one frame not sent", got)
		}
	})
}

// TestVXVDEFair floods one socket and waits for the other.
func TestVXVDEFair(t *testing.T) {
	testenv.NoLeaks(t)
	c, _ := openVXVDETest(t, "vxvde://")
	p := newProbe(t, c)
	header := makeVXVDEHeader(1)
	const starve = 32
	const flood = 5 * starve
	for range flood {
		to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), c.on.sockets.port)
		if _, err := p.own.WriteToUDPAddrPort(withHeader(header, plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 60)), to); err != nil {
			t.Fatal(err)
		}
	}
	p.send(t, withHeader(header, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)))
	buf := make([]byte, ether.MaxFrame)
	for i := range flood + 1 {
		if _, err := c.Recv(buf); err != nil {
			t.Fatal(err)
		}
		if dst, _ := ether.MACs(buf); dst == plugtest.Broadcast {
			if i > 2*starve {
				t.Errorf("the multicast packet came after %d others", i)
			}
			return
		}
	}
	t.Error("no multicast packet")
}

// TestVXVDEAllocs moves frames without allocating.
func TestVXVDEAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties pools")
	}
	for _, f := range vxvdeFamilies {
		t.Run(f.name, func(t *testing.T) {
			a, _ := openVXVDETest(t, f.vnl)
			b, _ := openVXVDETest(t, f.vnl)
			hello, frame, buf := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60), plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 1514), make([]byte, ether.MaxFrame)
			round := func() {
				plugtest.Send(t, a.plug, hello)
				b.Recv(buf)
				plugtest.Send(t, b.plug, frame)
				if n, err := a.Recv(buf); n != len(frame) || err != nil {
					t.Fatalf("got %d bytes, %v", n, err)
				}
			}
			round()
			if n := testing.AllocsPerRun(200, round); n != 0 {
				t.Errorf("%v allocations", n)
			}
		})
	}
}

func BenchmarkVXVDE(b *testing.B) {
	open := func() Conn {
		c, err := Open("vxvde://", nil)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		return c
	}
	from, to := open(), open()
	frame, buf := plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 1514), make([]byte, ether.MaxFrame)
	hello := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)
	to.Send(hello)
	from.Recv(buf)
	b.ReportAllocs()
	b.SetBytes(int64(len(frame)))
	for b.Loop() {
		from.Send(frame)
		if _, err := to.Recv(buf); err != nil {
			b.Fatal(err)
		}
	}
}
