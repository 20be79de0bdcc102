package vxlan

import (
	"bytes"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// testIPv4 and testIPv6 are networks of the tests. IPv6 multicast needs an
// interface, and is cut into fragments there.
var (
	testIPv4 = Config{Group: netip.MustParseAddrPort("239.0.0.1:14789"), VNI: 1, TTL: 1, Stations: 1024, Expire: 128 * time.Second}
	testIPv6 = Config{Group: netip.MustParseAddrPort("[ff05:56de::1]:14789"), VNI: 1, TTL: 1, Interface: "test0", Stations: 1024, Expire: 128 * time.Second}
)

// eachFamily runs f for both.
func eachFamily(t *testing.T, f func(t *testing.T, cfg Config)) {
	t.Run("IPv4", func(t *testing.T) { f(t, testIPv4) })
	t.Run("IPv6", func(t *testing.T) { f(t, testIPv6) })
}

// openTest opens an endpoint with a clock of the test.
func openTest(t *testing.T, cfg Config) (*Endpoint, plugtest.Conn, *atomic.Int64) {
	t.Helper()
	clock := new(atomic.Int64)
	e := testenv.Must(openWithClock(cfg, func() time.Duration { return time.Duration(clock.Load()) }))(t)
	c := plugtest.NewConn(e)
	t.Cleanup(func() { c.Close() })
	return e, c, clock
}

// wantDrops compares how many frames were dropped.
func wantDrops(t *testing.T, e *Endpoint, wantRecv, wantSend uint64) {
	t.Helper()
	if recv, send := e.Dropped(); recv != wantRecv || send != wantSend {
		t.Errorf("dropped %d frames received and %d sent, want %d and %d", recv, send, wantRecv, wantSend)
	}
}

// TestVXVDECaptured plays the second of the captured endpoints against the packets of the
// first.
func TestVXVDECaptured(t *testing.T) {
	captured := plugtest.Captured(t, vxvdeCapture)
	eachFamily(t, func(t *testing.T, cfg Config) {
		testenv.NoLeaks(t)
		_, c, _ := openTest(t, cfg)
		in := plugtest.NewInbox(t, c)
		p := plugtest.NewProbe(t, cfg.Group)
		p.Send(t, captured["broadcast"])
		in.Want(t, captured["broadcast"][headerLen:])
		plugtest.Send(t, c, captured["unicast"][headerLen:])
		p.Want(t, p.Own, captured["unicast"])
		p.Send(t, captured["bye"])
		p.Send(t, captured["unicast"]) // anything, to know that the bye was received
		in.Want(t, captured["unicast"][headerLen:])
		plugtest.Send(t, c, captured["unicast"][headerLen:])
		p.Want(t, p.Group, captured["unicast"])
		c.Close()
		p.Want(t, p.Group, captured["bye"])
	})
}

// TestVXVDEJunk sends packets that are not of the network before one that is.
func TestVXVDEJunk(t *testing.T) {
	testenv.NoLeaks(t)
	cfg := testIPv4
	cfg.VNI = 7
	e, c, _ := openTest(t, cfg)
	in := plugtest.NewInbox(t, c)
	p := plugtest.NewProbe(t, cfg.Group)
	own := makeHeader(7)
	for i := range own {
		header := own
		header[i] ^= 1
		p.Send(t, withHeader(header, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)))
	}
	for n := range headerLen {
		p.Send(t, own[:n])
	}
	for _, n := range []int{1, 4, 10, 13, 14} {
		p.Send(t, withHeader(own, make([]byte, n)))
	}
	p.Send(t, withHeader(own, make([]byte, ether.MaxFrame+1)))
	p.Send(t, withHeader(own, make([]byte, 60000)))
	want := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 15)
	p.Send(t, withHeader(own, want))
	in.WantNext(t, want)
	wantDrops(t, e, 7, 0) // the five short and two long frames
}

// TestVXVDELearning follows a station that is learned, moves, ages and leaves.
func TestVXVDELearning(t *testing.T) {
	eachFamily(t, func(t *testing.T, cfg Config) {
		testenv.NoLeaks(t)
		cfg.Expire = 2 * time.Second
		e, c, clock := openTest(t, cfg)
		in := plugtest.NewInbox(t, c)
		a, b := plugtest.NewProbe(t, cfg.Group), plugtest.NewProbe(t, cfg.Group)
		header := makeHeader(1)
		to := plugtest.Station(1)
		// speak makes the station send from a probe, by multicast.
		speak := func(p *plugtest.Probe) {
			t.Helper()
			frame := plugtest.TestFrame(plugtest.Broadcast, to, 60)
			p.Send(t, withHeader(header, frame))
			in.Want(t, frame)
		}
		// expect sends to the station and waits for the packet at a socket.
		expect := func(p *plugtest.Probe, at *net.UDPConn) {
			t.Helper()
			frame := plugtest.TestFrame(to, plugtest.Station(2), 60)
			plugtest.Send(t, c, frame)
			for {
				got, _ := p.Read(t, at)
				if bytes.Equal(got, withHeader(header, frame)) {
					return
				}
			}
		}
		expect(a, a.Group) // unknown
		speak(a)
		expect(a, a.Own)
		speak(b) // moved
		expect(b, b.Own)
		clock.Add(int64(2 * time.Second))
		expect(b, b.Own)
		clock.Add(1)
		expect(a, a.Group) // too old
		speak(a)
		expect(a, a.Own)
		a.Send(t, header[:]) // a bye by multicast
		speak2 := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(3), 60)
		b.Send(t, withHeader(header, speak2))
		in.Want(t, speak2)
		expect(a, a.Group)

		// A bye by unicast, of another endpoint first.
		speak(a)
		frame := plugtest.TestFrame(to, plugtest.Station(2), 60)
		plugtest.Send(t, c, frame)
		_, src := a.Read(t, a.Own)
		for _, p := range []*plugtest.Probe{b, a} {
			testenv.Must(p.Own.WriteToUDPAddrPort(header[:], src))(t)
			mark := plugtest.TestFrame(plugtest.Station(2), plugtest.Station(4), 60)
			testenv.Must(p.Own.WriteToUDPAddrPort(withHeader(header, mark), src))(t)
			in.Want(t, mark)
			if p == b {
				expect(a, a.Own)
			}
		}
		expect(a, a.Group)

		// A frame from a multicast address is delivered, not learned.
		frame = plugtest.TestFrame(plugtest.Station(2), ether.MAC{1, 0, 0x5e, 0, 0, 1}, 60)
		a.Send(t, withHeader(header, frame))
		in.Want(t, frame)
		e.mu.Lock()
		defer e.mu.Unlock()
		if _, ok := e.table.Lookup(ether.MAC{1, 0, 0x5e, 0, 0, 1}, 0); ok {
			t.Error("a multicast source was learned")
		}
	})
}

// TestVXVDELearningOff sends everything to the group.
func TestVXVDELearningOff(t *testing.T) {
	testenv.NoLeaks(t)
	cfg := testIPv4
	cfg.Stations = 0
	_, c, _ := openTest(t, cfg)
	in := plugtest.NewInbox(t, c)
	p := plugtest.NewProbe(t, cfg.Group)
	header := makeHeader(1)
	frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)
	p.Send(t, withHeader(header, frame))
	in.Want(t, frame)
	frame = plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60)
	plugtest.Send(t, c, frame)
	p.Want(t, p.Group, withHeader(header, frame))
}

// TestVXVDEOptions checks the options of the socket.
func TestVXVDEOptions(t *testing.T) {
	testenv.NoLeaks(t)
	cfg := testIPv4
	cfg.Group = netip.AddrPortFrom(cfg.Group.Addr(), 5555)
	cfg.TTL, cfg.RecvBuffer, cfg.Bind, cfg.Interface = 7, 32<<10, netip.MustParseAddr("127.0.0.1"), "lo"
	e, c, _ := openTest(t, cfg)
	for _, tt := range []struct {
		name               string
		level, option, min int
	}{
		{"IP_TTL", unix.IPPROTO_IP, unix.IP_TTL, 7},
		{"IP_MULTICAST_TTL", unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 7},
		{"SO_RCVBUF", unix.SOL_SOCKET, unix.SO_RCVBUF, 64 << 10}, // doubled, as always
	} {
		got, err := unix.GetsockoptInt(e.sockets.unicast, tt.level, tt.option)
		if err != nil || got != tt.min {
			t.Errorf("%s = %d, %v, want %d", tt.name, got, err, tt.min)
		}
	}
	in := plugtest.NewInbox(t, c)
	p := plugtest.NewProbe(t, cfg.Group)
	plugtest.Send(t, c, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
	if _, src := p.Read(t, p.Group); src.Addr().Unmap() != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("packet from %v, want the address of Bind", src)
	}
	// The own packet has come back by now.
	frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(2), 60)
	p.Send(t, withHeader(makeHeader(1), frame))
	in.WantNext(t, frame)
}

// TestVXVDEFair floods one socket and waits for the other.
func TestVXVDEFair(t *testing.T) {
	testenv.NoLeaks(t)
	cfg := testIPv4
	e, c, _ := openTest(t, cfg)
	p := plugtest.NewProbe(t, cfg.Group)
	header := makeHeader(1)
	const starve = 32
	const flood = 5 * starve
	for range flood {
		to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), e.sockets.port)
		testenv.Must(p.Own.WriteToUDPAddrPort(withHeader(header, plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 60)), to))(t)
	}
	p.Send(t, withHeader(header, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)))
	buf := make([]byte, ether.MaxFrame)
	for i := range flood + 1 {
		testenv.Must(c.Recv(buf))(t)
		if dst, _ := ether.MACs(buf); dst == plugtest.Broadcast {
			if i > 2*starve {
				t.Errorf("the multicast packet came after %d others", i)
			}
			return
		}
	}
	t.Error("no multicast packet")
}

// testVXLAN is an endpoint on loopback with one remote.
func testVXLAN(vni uint32) Config {
	return Config{
		VXLAN: true, VNI: vni, TTL: 1, Bind: netip.MustParseAddr("127.0.0.2"),
		Remotes: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.3:4789")}, Listen: netip.MustParseAddrPort("0.0.0.0:4789"), Stations: 1024, Expire: 128 * time.Second,
	}
}

// TestVXLANPort answers to the port of the network from whatever port a packet comes: the
// kernel uses many.
func TestVXLANPort(t *testing.T) {
	testenv.NoLeaks(t)
	e, c, _ := openTest(t, testVXLAN(42))
	in := plugtest.NewInbox(t, c)
	listen := func(addr string) *net.UDPConn {
		t.Helper()
		c := testenv.Must(net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr))))(t)
		t.Cleanup(func() { c.Close() })
		return c
	}
	other, remote, peer := listen("127.0.0.4:5000"), listen("127.0.0.3:4789"), listen("127.0.0.4:4789")
	header := makeHeader(42)
	to := netip.MustParseAddrPort("127.0.0.2:4789")
	p := plugtest.Probe{Own: other, To: to}
	want := func(at *net.UDPConn, frame []byte) {
		t.Helper()
		if got, _ := p.Read(t, at); !bytes.Equal(got, withHeader(header, frame)) {
			t.Errorf("got packet % .40x", got)
		}
	}
	frame := plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60)
	plugtest.Send(t, in, frame)
	want(remote, frame)
	// Reserved bits do not matter, the VNI does.
	foreign, odd := header, header
	foreign[6]++
	odd[0], odd[1], odd[7] = 0xff, 0xff, 0xff
	p.Send(t, withHeader(foreign, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)))
	p.Send(t, header[:])
	p.Send(t, withHeader(header, make([]byte, ether.HeaderLen-1)))
	hello := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)
	p.Send(t, withHeader(odd, hello))
	in.WantNext(t, hello)
	arp := plugtest.Captured(t, vxlanCapture)["arp"]
	p.Send(t, arp)
	in.WantNext(t, arp[headerLen:]) // the packet of the kernel
	wantDrops(t, e, 2, 0)           // the two short packets
	plugtest.Send(t, in, frame)
	want(peer, frame)
}

// TestVXLANPartial receives packets as the kernel sends them through a virtual card: not
// segmented, and without checksums.
func TestVXLANPartial(t *testing.T) {
	testenv.NoLeaks(t)
	e, _, _ := openTest(t, testVXLAN(1))
	own := testenv.Must(net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 3)}))(t)
	defer own.Close()
	p := plugtest.Probe{Own: own, To: netip.MustParseAddrPort("127.0.0.2:4789")}
	for _, size := range [][2]int{{1, 100}, {40, assumedMTU - 40}} {
		whole := packettest.TCP(size[0], size[1])
		want := packettest.Frames(t, whole)
		p.Send(t, withHeader(makeHeader(1), whole.Data))
		plugtest.Collect(t, e, want)
	}
	// With a wrong checksum, the same packet is too long.
	whole := packettest.TCP(40, 1000)
	whole.Data[34+16] ^= 1
	p.Send(t, withHeader(makeHeader(1), whole.Data))
	last := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)
	p.Send(t, withHeader(makeHeader(1), last))
	plugtest.Collect(t, e, [][]byte{last})
	wantDrops(t, e, 1, 0)
}

func TestMain(m *testing.M) { testenv.Main(m) }

func withHeader(header header, frame []byte) []byte { return append(header[:], frame...) }
