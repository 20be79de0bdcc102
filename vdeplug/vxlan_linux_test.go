package vdeplug

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vxlan"
	"golang.org/x/sys/unix"
)

// vxlanTest returns the locator of an endpoint on loopback with address 127.0.0.n. Its remotes
// are itself, another endpoint, and an address without one.
func vxlanTest(n int) string {
	return fmt.Sprintf("vxlan:///bind=127.0.0.%d/remote=127.0.0.2,127.0.0.3,127.0.0.4", n)
}

func TestVXLANPortTaken(t *testing.T) {
	testenv.NoLeaks(t)
	a := openInbox(t, "vxlan:///remote=127.0.0.3")
	for _, vnl := range []string{"vxlan:///remote=127.0.0.3", "vxlan:///vni=2/if=lo", "vxlan:///bind=127.0.0.2/remote=127.0.0.3"} {
		wantOpenError(t, vnl, "port 4789 is in use by a vxlan interface, another plug or another program")
	}
	openInbox(t, "vxlan:///remote=127.0.0.3/port=4790")
	a.Close()
	// No other program can take the port of an endpoint with a group either.
	openInbox(t, "vxlan:///if=lo")
	fd := testenv.Must(unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0))(t)
	defer unix.Close(fd)
	testenv.Check(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: vxlanPort}); err != unix.EADDRINUSE {
		t.Errorf("got %v, want that the port is in use", err)
	}
}

// vxlanKernel are locators here, and devices of the kernel at the other end of a wire.
var vxlanKernel = []struct{ name, vnl, device string }{
	{"IPv4 multicast", "vxlan://239.1.1.1/vni=42/if=wire0", "group 239.1.1.1 dev wire1"},
	{"IPv4 unicast", "vxlan:///remote=10.9.8.2/vni=42", "remote 10.9.8.1"},
	{"IPv4 list", "vxlan:///remote=10.9.8.1,10.9.8.3,10.9.8.2/vni=42/bind=10.9.8.1", "remote 10.9.8.1 udpcsum"},
	{"IPv6 multicast", "vxlan://ff05::42/vni=42/if=wire0", "group ff05::42 dev wire1"},
	{"IPv6 unicast", "vxlan:///remote=fd98::2/vni=42", "remote fd98::1"},
	{"IPv6 no checksum", "vxlan:///remote=fd98::2/vni=42", "remote fd98::1 udp6zerocsumtx udp6zerocsumrx"},
}

// newVXLANKernel makes a namespace with a device of the kernel, vx.
func newVXLANKernel(t *testing.T, device string) *netns {
	t.Helper()
	ns := newNetns(t)
	ns.wire(t)
	ns.ip(t, "link add vx type vxlan id 42 dstport 4789 "+device)
	ns.ip(t, "link set vx address 02:00:00:00:00:63 mtu 1400 up")
	return ns
}

// TestVXLANKernel exchanges frames with a vxlan interface of the kernel.
func TestVXLANKernel(t *testing.T) {
	testenv.Long(t)
	for _, tt := range vxlanKernel {
		t.Run(tt.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			ns := newVXLANKernel(t, tt.device)
			c := openPlug(t, tt.vnl)
			here, there := plugtest.NewInbox(t, c), ns.packetSocket(t, "vx")
			// The kernel must learn where the stations are first.
			plugtest.Carry(t, here, there, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
			plugtest.Carry(t, there, here, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(2), 60))
			plugtest.SendBoth(t, here, there, 15, 60, 1414)
			// A frame that does not fit into a packet of the wire is sent in fragments.
			plugtest.Deliver(t, here, there, plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 1514))
			v, _ := packet.Find[*vxlan.Endpoint](transportOf(c))
			peer, known := v.Lookup(plugtest.Station(2))
			if want := netip.MustParseAddr(map[bool]string{true: "10.9.8.2", false: "fd98::2"}[tt.name[3] == '4']); !known || peer.Addr() != want || peer.Port() != vxlanPort {
				t.Errorf("station 2 is at %v port %d, want %v", peer.Addr(), peer.Port(), want)
			}
			// Packets as the kernel's TCP makes them. The interface may join their frames
			// again.
			var joined Conn
			var err error
			ns.do(func() { joined, err = Open("pcap://vx", nil) })
			testenv.Check(t, err)
			all := plugtest.NewInbox(t, joined)
			p := packettest.TCP(40, 1300)
			want := packettest.Frames(t, p)
			testenv.Check(t, c.(packet.Transport).SendPackets([]packet.Packet{p, {Data: plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 99)}}, true))
			for _, frame := range want {
				all.Want(t, frame)
			}
			wantDrops(t, c, Drops{})
			wantSegments(t, v.Sender)
		})
	}
}

// cable carries packets between two plugs until one is closed.
func cable(t *testing.T, a, b Conn) {
	t.Helper()
	var wg sync.WaitGroup
	x, y := a.(packet.Transport), b.(packet.Transport)
	wg.Go(func() { packet.Carry(x, y) })
	wg.Go(func() { packet.Carry(y, x) })
	t.Cleanup(func() {
		a.Close()
		b.Close()
		wg.Wait()
	})
}

// TestVXLANTCP has the kernel's TCP on both sides, with a TAP and our plug here and the
// kernel's vxlan there, so that packets come unfinished.
func TestVXLANTCP(t *testing.T) {
	testenv.Long(t)
	needTAP(t)
	for _, tt := range vxlanKernel {
		t.Run(tt.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			ns := newVXLANKernel(t, tt.device)
			ns.ip(t, "addr add 10.7.7.2/24 dev vx")
			tap := openPlug(t, "tap://vxtap0")
			ip(t, "link set vxtap0 mtu 1400 up")
			ip(t, "addr add 10.7.7.1/24 dev vxtap0")
			cable(t, tap, openPlug(t, tt.vnl))
			var l net.Listener
			var err error
			ns.do(func() { l, err = net.Listen("tcp", "10.7.7.2:0") })
			testenv.Check(t, err)
			defer l.Close()
			data := bytes.Repeat([]byte("vdestack "), 1<<20)
			done := make(chan error, 1)
			go func() { // returns what it gets
				c, err := l.Accept()
				if err == nil {
					defer c.Close()
					var got []byte
					c.SetDeadline(time.Now().Add(2 * testenv.Timeout))
					if got, err = io.ReadAll(c); err == nil {
						_, err = c.Write(got)
					}
				}
				done <- err
			}()
			c := testenv.Must(net.DialTimeout("tcp", l.Addr().String(), 2*testenv.Timeout))(t)
			defer c.Close()
			c.SetDeadline(time.Now().Add(4 * testenv.Timeout))
			testenv.Must(c.Write(data))(t)
			c.(*net.TCPConn).CloseWrite()
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d of %d bytes came back, %v", len(got), len(data), err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// wantSegments checks that the kernel has cut all datagrams.
func wantSegments(t *testing.T, u *sockio.UDPSender) {
	t.Helper()
	if limit := u.Limit.Load(); limit != math.MaxInt64 {
		t.Errorf("the kernel did not cut datagrams of %d bytes", limit)
	}
}

// TestVXLANC exchanges frames with the plug in C, which loses frames for known stations
// unless it has hashsize=0.
func TestVXLANC(t *testing.T) {
	for _, tt := range []struct{ ours, c string }{
		{"vxlan://239.0.0.1/vni=42/if=wire0", "vxlan://239.0.0.1/vni=42/if=wire1/hashsize=0"},
		{"vxlan:///v6/vni=42/if=wire0", "vxlan:///v6/vni=42/if=wire1/hashsize=0"},
	} {
		t.Run(tt.c, func(t *testing.T) {
			testenv.NoLeaks(t)
			ns := newNetns(t)
			ns.wire(t)
			ns.ip(t, "route add 224.0.0.0/4 dev wire1")
			here := openInbox(t, tt.ours)
			there := ns.cPlug(t, tt.c)
			plugtest.Carry(t, here, there.Inbox, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
			plugtest.Carry(t, there, here, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(2), 60))
			plugtest.SendBoth(t, here, there.Inbox, 15, 60, 1514, 9000, ether.MaxFrame)
		})
	}
}
