//go:build amd64 || arm64

package nic

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

// A space is a network namespace in which nothing speaks by itself.
type space struct {
	t  *testing.T
	ns *netns.NS
	nl *rtnl.Conn
}

func newSpace(t *testing.T) *space {
	t.Helper()
	ns := testenv.Must(netns.New())(t)
	s := &space{t: t, ns: ns}
	t.Cleanup(func() { ns.Close() })
	s.check(ns.WriteSysctl("net/ipv6/conf/default/disable_ipv6", "1"))
	s.nl = testenv.Must(rtnl.Dial(netns.Sockets{NS: ns}))(s.t)
	t.Cleanup(func() { s.nl.Close() })
	return s
}

func (s *space) check(err error) {
	s.t.Helper()
	testenv.Check(s.t, err)
}

// socket opens the interface with a packet socket.
func (s *space) socket(index int, o Offload) *Device {
	s.t.Helper()
	fd := testenv.Must(s.ns.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0))(s.t)
	d := testenv.Must(NewSocket(fd, index, o))(s.t)
	s.t.Cleanup(func() { d.Close() })
	return d
}

// tap makes a TAP interface, up.
func (s *space) tap(o Offload) (*Device, int) {
	s.t.Helper()
	fd, _, _, err := s.ns.OpenTAP(netns.TAP{Name: "tap0", Flags: Flags(o)})
	s.check(err)
	d := testenv.Must(NewTAP(fd, "tap0", o))(s.t)
	s.t.Cleanup(func() { d.Close() })
	index := testenv.Must(s.nl.IfNameToIndex("tap0"))(s.t)
	s.check(s.nl.LinkSetUp(index))
	return d, index
}

// cable makes a veth pair in a space and returns both ends, up.
func (s *space) cable() (a, b int) {
	s.t.Helper()
	a = testenv.Must(s.nl.LinkAdd(rtnl.LinkSpec{Name: "a", Kind: "veth", MTU: 9000, Peer: &rtnl.LinkSpec{Name: "b", MTU: 9000}}))(s.t)
	b = testenv.Must(s.nl.IfNameToIndex("b"))(s.t)
	s.check(s.nl.LinkSetUp(a))
	s.check(s.nl.LinkSetUp(b))
	s.await(a)
	s.await(b)
	return a, b
}

// await waits until the kernel has noticed the carrier of an interface: what is
// sent earlier is lost.
func (s *space) await(index int) {
	s.t.Helper()
	testenv.Eventually(s.t, "a carrier", func() bool {
		l := testenv.Must(s.nl.Link(index))(s.t)
		return l.OperState == rtnl.OperUp
	})
}

// plain returns packets that are the frames.
func plain(frames [][]byte) (packets []packet.Packet) {
	for _, f := range frames {
		packets = append(packets, packet.Packet{Data: bytes.Clone(f)})
	}
	return packets
}

// collect reads until so many frames have come, and returns them and how many
// packets they were in.
func collect(t *testing.T, d *Device, n int) (frames [][]byte, packets int) {
	t.Helper()
	stop := time.AfterFunc(testenv.Timeout, func() { d.Close() })
	defer stop.Stop()
	var b packet.Buffer
	defer b.Release()
	for len(frames) < n {
		got, err := d.Read(&b)
		if err != nil {
			t.Fatalf("after %d of %d frames: %v", len(frames), n, err)
		}
		packets += len(got)
		frames = append(frames, packettest.Frames(t, got...)...)
	}
	return frames, packets
}

func wantFrames(t *testing.T, got, want [][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d frames, want %d", len(got), len(want))
	}
	for i := range got {
		if !bytes.Equal(got[i], want[i]) {
			t.Fatalf("frame %d of %d\ngot  %.100x (%d)\nwant %.100x (%d)", i, len(got), got[i], len(got[i]), want[i], len(want[i]))
		}
	}
}

// TestSocket moves packets of all kinds between the two ends of a cable.
func TestSocket(t *testing.T) {
	for _, o := range []Offload{All, All &^ (GRO | UDPGRO), 0} {
		t.Run(fmt.Sprintf("offload %#x", o), func(t *testing.T) {
			s := newSpace(t)
			ia, ib := s.cable()
			a, b := s.socket(ia, o), s.socket(ib, o)
			packets := []packet.Packet{
				{Data: packettest.Frame(60)}, {Data: packettest.Frame(1514)},
				packettest.TCP(40, 1446), packettest.TCP(1, 100), packettest.TagPacket(packettest.TCP(20, 1400), unix.ETH_P_8021Q, 77, 0),
				{Data: packettest.Frame(9014)}, packettest.TCP(8, 8000),
			}
			packets = append(packets, packet.Packet{Data: packettest.Tag(packettest.Frame(60), unix.ETH_P_8021Q, 5, 0)})
			want := packettest.Frames(t, packets...)
			counts, err := a.Write(packets)
			if err != nil || counts.Frames != uint64(len(want)) || counts.Dropped != 0 {
				t.Errorf("%+v, %v; want %d frames", counts, err, len(want))
			}
			got, n := collect(t, b, len(want))
			wantFrames(t, got, want)
			if o != 0 && n != len(packets) {
				t.Errorf("%d packets, want %d", n, len(packets))
			}
		})
	}
}

// TestSocketJoins lets frames become packets on their way to an interface.
func TestSocketJoins(t *testing.T) {
	s := newSpace(t)
	ia, ib := s.cable()
	a, b := s.socket(ia, All), s.socket(ib, All)
	want := packettest.Frames(t, packettest.TCP(40, 1446))
	testenv.Must(a.Write(plain(want)))(t)
	got, n := collect(t, b, len(want))
	wantFrames(t, got, want)
	if n != 1 {
		t.Errorf("%d packets, want 1", n)
	}
}

// TestTAP hands packets to the kernel and sees with a packet socket what it got,
// and the other way round.
func TestTAP(t *testing.T) {
	testenv.Long(t)
	for _, o := range []Offload{All, All &^ GRO, Header | GRO, Header, 0} {
		t.Run(fmt.Sprintf("offload %#x", o), func(t *testing.T) {
			s := newSpace(t)
			tap, index := s.tap(o)
			host := s.socket(index, All)
			if got := tap.Offload(); got&^o != 0 || o&Header == 0 && got != 0 {
				t.Errorf("offloads %#x of %#x", got, o)
			}
			super := packettest.TCP(40, 1446)
			frames := packettest.Frames(t, []packet.Packet{super}...)
			counts, err := tap.Write(plain(frames))
			if err != nil || counts != (Counts{Frames: 40, Bytes: 40 * 1500}) {
				t.Errorf("%+v, %v", counts, err)
			}
			got, n := collect(t, host, 40)
			wantFrames(t, got, frames)
			if want := map[bool]int{true: 1, false: 40}[o&GRO != 0]; n != want {
				t.Errorf("the kernel got %d packets, want %d", n, want)
			}
			counts, err = tap.Write([]packet.Packet{super, {Data: packettest.Frame(60)}})
			if err != nil || counts != (Counts{Frames: 41, Bytes: 40*1500 + 60}) {
				t.Errorf("%+v, %v", counts, err)
			}
			got, _ = collect(t, host, 41)
			wantFrames(t, got, append(slices.Clone(frames), packettest.Frame(60)))

			// What the kernel sends.
			testenv.Must(host.Write([]packet.Packet{packettest.TCP(40, 1446)}))(t)
			got, n = collect(t, tap, 40)
			wantFrames(t, got, frames)
			if want := map[bool]int{true: 1, false: 40}[o&TSO4 != 0]; n != want {
				t.Errorf("the interface sent %d packets, want %d", n, want)
			}
		})
	}
}

// TestTAPRefused joins frames that the kernel does not take joined: it is
// counted, and later ones are not joined.
func TestTAPRefused(t *testing.T) {
	s := newSpace(t)
	tap, index := s.tap(All)
	host := s.socket(index, All)
	frames := packettest.Frames(t, packettest.TCP(3, 1000))
	tap.unjoin() // as an EINVAL does
	if got := tap.GRORejected.Load(); got != 1 {
		t.Errorf("%d refused", got)
	}
	testenv.Must(tap.Write(plain(frames)))(t)
	got, n := collect(t, host, 3)
	wantFrames(t, got, frames)
	if n != 3 {
		t.Errorf("%d packets, want 3", n)
	}
}

// TestDown drops and counts what an interface that is down does not take, and
// goes on when it is up.
func TestDown(t *testing.T) {
	s := newSpace(t)
	tap, index := s.tap(All)
	s.check(s.nl.LinkSetDown(index))
	counts, err := tap.Write([]packet.Packet{{Data: packettest.Frame(60)}, {Data: packettest.Frame(60)}})
	if err != nil || counts != (Counts{Dropped: 2}) {
		t.Errorf("TAP: %+v, %v", counts, err)
	}
	ia, ib := s.cable()
	a, b := s.socket(ia, All), s.socket(ib, All)
	s.check(s.nl.LinkSetDown(ia))
	counts, err = a.Write([]packet.Packet{{Data: packettest.Frame(60)}, {Data: packettest.Frame(60)}})
	if err != nil || counts != (Counts{Dropped: 2}) {
		t.Errorf("socket: %+v, %v", counts, err)
	}
	s.check(s.nl.LinkSetUp(ia))
	testenv.Eventually(t, "a carrier", func() bool {
		counts = testenv.Must(a.Write([]packet.Packet{{Data: packettest.Frame(60)}}))(s.t)
		return counts.Frames > 0
	})
	got, _ := collect(t, b, 1)
	wantFrames(t, got[:1], [][]byte{packettest.Frame(60)})
}

// TestClose ends a Read that waits.
func TestClose(t *testing.T) {
	s := newSpace(t)
	tap, index := s.tap(All)
	for _, d := range []*Device{s.socket(index, All), tap} { // which removes the interface
		errs := make(chan error)
		go func() {
			var b packet.Buffer
			for {
				if _, err := d.Read(&b); err != nil {
					errs <- err
					return
				}
			}
		}()
		d.Close()
		select {
		case err := <-errs:
			if err != os.ErrClosed {
				t.Errorf("read: %v", err)
			}
		case <-time.After(testenv.Timeout):
			t.Fatal("a Read goes on after Close")
		}
		if _, err := d.Write(nil); err != os.ErrClosed {
			t.Errorf("write: %v", err)
		}
	}
}

// TestAllocs reads and writes without allocating.
func TestAllocs(t *testing.T) {
	s := newSpace(t)
	ia, ib := s.cable()
	tap, index := s.tap(All)
	for name, pair := range map[string][2]*Device{"tap": {tap, s.socket(index, All)}, "socket": {s.socket(ia, All), s.socket(ib, All)}} {
		frames := plain(packettest.Frames(t, packettest.TCP(40, 1446)))
		packets := make([]packet.Packet, len(frames)+1)
		var heads [][]byte
		for _, f := range frames {
			heads = append(heads, bytes.Clone(f.Data[:54]))
		}
		super := packettest.TCP(40, 1446)
		var b packet.Buffer
		n := testing.AllocsPerRun(100, func() {
			for i := range frames {
				copy(frames[i].Data, heads[i]) // joining changes them
			}
			copy(packets, frames)
			packets[len(frames)] = super
			_, err := pair[0].Write(packets)
			testenv.Check(t, err)
			for n := 0; n < 2; {
				got, err := pair[1].Read(&b)
				testenv.Check(t, err)
				n += len(got)
			}
		})
		if n != 0 && !testenv.Race {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// TestQuiet has the kernel send a packet: the interface is quiet again when who
// reads has come back for more, not when it was read.
func TestQuiet(t *testing.T) {
	s := newSpace(t)
	d, index := s.tap(All)
	if !d.Quiet() {
		t.Fatal("not quiet in the beginning")
	}
	from := testenv.Must(s.ns.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0))(s.t)
	defer unix.Close(from)
	s.check(unix.Sendto(from, make([]byte, 60), 0, &unix.SockaddrLinklayer{Ifindex: index}))
	if d.Quiet() {
		t.Error("quiet with a packet that was not read")
	}
	var b packet.Buffer
	packets, err := d.Read(&b)
	if err != nil || len(packets) != 1 {
		t.Fatalf("%d packets, %v", len(packets), err)
	}
	if d.Quiet() {
		t.Error("quiet while somebody has a packet")
	}
	ended := make(chan error)
	go func() {
		_, err := d.Read(&b)
		ended <- err
	}()
	if Drain(d, testenv.Timeout); !d.Quiet() {
		t.Error("not quiet when all is read")
	}
	d.Close()
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

// TestDrain waits for a reader that has its turn late, and for one that is never done.
func TestDrain(t *testing.T) {
	testenv.Long(t)
	s := newSpace(t)
	d, index := s.tap(All)
	from := testenv.Must(s.ns.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0))(s.t)
	defer unix.Close(from)
	s.check(unix.Sendto(from, make([]byte, 60), 0, &unix.SockaddrLinklayer{Ifindex: index}))
	var received atomic.Bool
	ended := make(chan error)
	go func() {
		time.Sleep(20 * time.Millisecond)
		var b packet.Buffer
		for {
			if _, err := d.Read(&b); err != nil {
				ended <- err
				return
			}
			received.Store(true)
		}
	}()
	if Drain(d, DrainTime); !received.Load() {
		t.Error("the reader has not had its turn")
	}
	testenv.Check(t, d.Close())
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	busy, _ := s.tap(All)
	busy.reading.Store(true)
	start, stop := time.Now(), time.AfterFunc(20*time.Millisecond, func() { busy.taken.Add(backlog) })
	defer stop.Stop()
	if Drain(busy, 2*testenv.Timeout); time.Since(start) > testenv.Timeout {
		t.Error("waited for a reader that has read the backlog")
	}
	testenv.Check(t, busy.Close())
}

// TestStop stops a monitor: what was queued is read, and nothing later.
func TestStop(t *testing.T) {
	s := newSpace(t)
	_, index := s.tap(All)
	socket := func() int {
		fd, err := s.ns.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		s.check(err)
		return fd
	}
	m, err := NewMonitor(socket(), index)
	s.check(err)
	from := socket()
	defer unix.Close(from)
	send := func(first byte) {
		s.check(unix.Sendto(from, append([]byte{first}, make([]byte, 59)...), 0, &unix.SockaddrLinklayer{Ifindex: index}))
	}
	send(2)
	send(4)
	s.check(m.Stop())
	send(6)
	var got []byte
	ended := make(chan error)
	go func() {
		var b packet.Buffer
		for {
			packets, _, err := m.Read(&b)
			if err != nil {
				ended <- err
				return
			}
			for _, p := range packets {
				if p.Data[0] < 0x33 { // not of IPv6 itself
					got = append(got, p.Data[0])
				}
			}
		}
	}()
	testenv.Eventually(t, "all to be read", m.Quiet)
	s.check(m.Close())
	if err := <-ended; !errors.Is(err, os.ErrClosed) || string(got) != "\x02\x04" {
		t.Errorf("read %v, %v", got, err)
	}
	if err := m.Stop(); err == nil {
		t.Error("a closed monitor is stopped")
	}
}

// TestDetach closes an interface and leaves it: it is there, and the namespace
// can end.
func TestDetach(t *testing.T) {
	s := newSpace(t)
	d, index := s.tap(All)
	if name, err := d.Name(); name != "tap0" || err != nil {
		t.Errorf("the name is %q, %v", name, err)
	}
	s.check(d.Detach())
	if _, err := s.nl.Link(index); err != nil {
		t.Error(err)
	}
	if _, err := d.Read(new(packet.Buffer)); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	s.check(s.nl.LinkDel(index))
}

// TestQuietRemoved removes interfaces: what they have sent before is read, and they are
// quiet then.
func TestQuietRemoved(t *testing.T) {
	s := newSpace(t)
	tap, index := s.tap(All)
	s.check(s.nl.LinkDel(index))
	if !tap.Quiet() {
		t.Error("a TAP is not quiet")
	}
	a, b := s.cable()
	d := s.socket(b, All)
	from := testenv.Must(s.ns.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0))(s.t)
	defer unix.Close(from)
	s.check(unix.Sendto(from, packettest.Frame(60), 0, &unix.SockaddrLinklayer{Ifindex: a}))
	testenv.Eventually(t, "the packet", func() bool { return !d.Quiet() })
	s.check(s.nl.LinkDel(b))
	var buf packet.Buffer
	if packets, err := d.Read(&buf); err != nil || len(packets) != 1 {
		t.Errorf("got %d packets, %v, want the one that was sent before", len(packets), err)
	}
	if _, err := d.Read(&buf); !errors.Is(err, ErrRemoved) {
		t.Errorf("got %v, want %v", err, ErrRemoved)
	}
	if !d.Quiet() {
		t.Error("a socket is not quiet")
	}
}
