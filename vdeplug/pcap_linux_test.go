package vdeplug

import (
	"bytes"
	"errors"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/nic"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/virtio"
)

// wirePCAP makes a wire with two ends, here0 and there0.
func wirePCAP(t *testing.T) {
	t.Helper()
	testenv.NeedRoot(t, "a packet socket")
	ip(t, "link add here0 type veth peer name there0")
	t.Cleanup(func() { exec.Command("/sbin/ip", "link", "del", "here0").Run() }) // the test may have done so
	ip(t, "link set here0 mtu 9216 up")
	ip(t, "link set there0 mtu 9216 up")
	waitRunning(t, "here0", "there0")
}

// waitRunning waits until interfaces that are up carry packets too.
func waitRunning(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		testenv.Eventually(t, name+" running", func() bool {
			ifi, err := net.InterfaceByName(name)
			return err == nil && ifi.Flags&net.FlagRunning != 0
		})
	}
}

// TestPCAP connects the plug by a wire with another one, of ours and in C.
func TestPCAP(t *testing.T) {
	wirePCAP(t)
	for _, opener := range openers {
		t.Run(opener.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			here := openInbox(t, "pcap://here0")
			there := opener.open(t, "pcap://there0").Inbox
			plugtest.CarryBoth(t, here, there, 60)
			// No interface has these addresses.
			plugtest.SendBoth(t, here, there, 15, 60, 1514, 9216+14)
			tagged := tagFrame(plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 60), etherTypeVLAN, 5, 3)
			plugtest.Deliver(t, here, there, tagged)
			tagged = tagFrame(plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60), etherTypeQinQ, 5, 3)
			plugtest.Deliver(t, there, here, tagged)
		})
	}
}

// TestPCAPHost checks that the plug does not get what the host sends.
func TestPCAPHost(t *testing.T) {
	wirePCAP(t)
	testenv.NoLeaks(t)
	here, there := openInbox(t, "pcap://here0"), openInbox(t, "pcap://there0")
	host := testNetns.packetSocket(t, "here0")
	outgoing, mark := plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 60), plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60)
	plugtest.Deliver(t, host, there, outgoing)
	plugtest.Send(t, there, mark)
	for {
		got := here.Next(t)
		if string(got) == string(outgoing) {
			t.Error("got what the host has sent")
		}
		if string(got) == string(mark) {
			break
		}
	}
}

// TestPCAPRemoved sees the interface go down, come up again, and go away.
func TestPCAPRemoved(t *testing.T) {
	testenv.Long(t)
	wirePCAP(t)
	testenv.NoLeaks(t)
	c, there := openPlug(t, "pcap://here0"), openInbox(t, "pcap://there0")
	here := plugtest.NewInbox(t, c)
	plugtest.Carry(t, there, here, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
	ip(t, "link set here0 down")
	if err := here.Send(plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)); err != nil {
		t.Errorf("down: %v", err)
	}
	if got := c.(Dropper).Drops().Send; got != 1 {
		t.Errorf("%d frames dropped, want 1", got)
	}
	ip(t, "link set here0 up")
	plugtest.CarryBoth(t, here, there, 60)
	ip(t, "link del here0")
	err := here.WantEnd(t)
	plugtest.WantError(t, err, `recv "pcap://here0": interface here0 was removed`, unix.EBADFD)
	plugtest.WantError(t, here.Send(plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)), "interface here0 was removed")
}

// TestPCAPPackets sends packets as the kernel's TCP makes them: the wire carries complete
// frames.
func TestPCAPPackets(t *testing.T) {
	wirePCAP(t)
	testenv.NoLeaks(t)
	a, b := openPlug(t, "vlan://4{pcap://here0}"), openPlug(t, "vlan://4{pcap://there0}")
	plugtest.Greet(t, a.(packet.Transport), b.(packet.Transport))
	plain, raw := openPlug(t, "pcap://here0"), testNetns.packetSocket(t, "there0") // which sees no virtio header
	for _, size := range [][2]int{{1, 100}, {44, 1446}, {7, 8900}} {
		p := packettest.TCP(size[0], size[1])
		want := packettest.Frames(t, p)
		testenv.Check(t, a.(packet.Transport).SendPackets([]packet.Packet{p}, true))
		plugtest.Collect(t, b.(packet.Transport), want)
		p = packettest.TCP(size[0], size[1])
		testenv.Check(t, plain.(packet.Transport).SendPackets([]packet.Packet{p}, true))
		for _, frame := range want {
			raw.Want(t, frame)
		}
	}
}

// TestPCAPUnfinished sends packets as the kernel's TCP makes them: uncut to a station that
// has sent some of its own recently, and as frames to others.
func TestPCAPUnfinished(t *testing.T) {
	wirePCAP(t)
	testenv.NoLeaks(t)
	here := openPlug(t, "pcap://here0").(packet.Transport)
	tap, _ := packet.Find[*tapConn](here)
	var now time.Duration
	tap.unfinished.now = func() time.Duration { return now }
	there := openDevice(t, "there0")
	for _, step := range []struct {
		name   string
		before func()
		to     ether.MAC
		tag    bool
		whole  bool
	}{
		{"nothing is known", func() {}, plugtest.Station(2), false, false},
		{"its own packets are finished", func() { hello(t, there, here, 0) }, plugtest.Station(2), false, false},
		{"its own packets are not finished", func() { hello(t, there, here, virtio.FlagNeedsCsum) }, plugtest.Station(2), false, true},
		{"in a VLAN", func() {}, plugtest.Station(2), true, true},
		{"another station", func() {}, plugtest.Station(3), false, false},
		{"all stations", func() {}, plugtest.Broadcast, false, false},
		{"after a while", func() { now += unfinishedLife }, plugtest.Station(2), false, true},
		{"too late", func() { now++ }, plugtest.Station(2), false, false},
		{"it is back", func() { hello(t, there, here, virtio.FlagNeedsCsum) }, plugtest.Station(2), false, true},
		{"the interface refused", func() { tap.dev.GRORejected.Add(1) }, plugtest.Station(2), false, false},
	} {
		step.before()
		p := packettest.TCP(44, 1446)
		copy(p.Data, step.to[:])
		if step.tag {
			p = packettest.TagPacket(p, etherTypeVLAN, 5, 3)
		}
		want := packettest.Frames(t, p)
		testenv.Check(t, here.SendPackets([]packet.Packet{p}, true))
		n, wantPackets := 0, len(want)
		if step.whole {
			wantPackets = 1
		}
		var got []virtio.Header
		var b packet.Buffer
		for n < len(want) {
			packets, err := there.Read(&b)
			if err != nil {
				t.Fatalf("%s: %v", step.name, err)
			}
			for _, p := range packets {
				if _, src := ether.MACs(p.Data); src != plugtest.Station(1) {
					continue // the kernel's own
				}
				got = append(got, p.Offload)
				for _, frame := range packettest.Frames(t, p) {
					if n == len(want) || !bytes.Equal(frame, want[n]) {
						t.Fatalf("%s: frame %d is another", step.name, n)
					}
					n++
				}
			}
		}
		b.Release()
		if len(got) != wantPackets || (got[0] != virtio.Header{}) != step.whole {
			t.Errorf("%s: got %d packets, the first with %+v, want %d", step.name, len(got), got[0], wantPackets)
		}
	}
}

// openDevice opens a packet socket that sends packets uncut.
func openDevice(t *testing.T, ifname string) *nic.Device {
	t.Helper()
	ifi := testenv.Must(net.InterfaceByName(ifname))(t)
	fd := testenv.Must(unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0))(t)
	dev := testenv.Must(nic.NewSocket(fd, ifi.Index, nic.All&^(nic.GRO|nic.UDPGRO)))(t)
	stop := time.AfterFunc(testenv.Timeout, func() { dev.Close() })
	t.Cleanup(func() { stop.Stop(); dev.Close() })
	return dev
}

// hello has station 2 send a packet of one frame, with the flags of its header, and waits
// until it has arrived.
func hello(t *testing.T, from *nic.Device, to packet.Transport, flags uint8) {
	t.Helper()
	p := packettest.TCP(1, 100)
	dst, src := plugtest.Station(1), plugtest.Station(2)
	copy(p.Data, dst[:])
	copy(p.Data[6:], src[:])
	p.Offload.GSOType, p.Offload.GSOSize = virtio.GSONone, 0
	if flags == 0 {
		p = packet.Packet{Data: packettest.Frames(t, p)[0]}
	}
	testenv.Must(from.Write([]packet.Packet{p}))(t)
	stop := time.AfterFunc(testenv.Timeout, func() { to.(Conn).Close() })
	defer stop.Stop()
	var b packet.Buffer
	defer b.Release()
	for {
		packets := testenv.Must(to.RecvPackets(&b))(t)
		for _, p := range packets {
			if _, from := ether.MACs(p.Data); from == src {
				return
			}
		}
	}
}

// TestMacVTAP carries frames between a macvtap interface and its wire.
func TestMacVTAP(t *testing.T) {
	wirePCAP(t)
	out, err := exec.Command(testenv.Need(t, "ip", "iproute2"), strings.Fields("link add link here0 name mvt0 type macvtap mode passthru")...).CombinedOutput()
	if err != nil {
		t.Skipf("this kernel has no macvtap: %s", out)
	}
	t.Cleanup(func() { ip(t, "link del mvt0") })
	ip(t, "link set mvt0 up")
	if index, err := hostInterface("mvt0"); err != nil {
		t.Fatal(err)
	} else if ifi, err := net.InterfaceByIndex(int(index)); err != nil || ifi.Name != "mvt0" {
		t.Errorf("interface %d is %v, %v", index, ifi, err)
	}
	c, err := Open("macvtap://mvt0", nil)
	if errors.Is(err, unix.ENOENT) {
		t.Skipf("the machine makes no devices: %v", err)
	}
	testenv.Check(t, err)
	here, there := plugtest.NewInbox(t, c), openInbox(t, "pcap://there0")
	plugtest.CarryBoth(t, here, there, 60)
	plugtest.SendBoth(t, here, there, 60, 1514)
	p := packettest.TCP(20, 1400)
	want := packettest.Frames(t, p)
	testenv.Check(t, c.(packet.Transport).SendPackets([]packet.Packet{p}, true))
	for _, frame := range want {
		there.Want(t, frame)
	}
}
