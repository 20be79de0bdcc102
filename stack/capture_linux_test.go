package stack_test

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/capture/capturetest"
	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/stack"
	"golang.org/x/sys/unix"
)

// checkSums looks at the checksums of a frame, and returns the payload of TCP.
func checkSums(frame []byte) (tcp []byte, err error) {
	ip := frame[14:]
	if binary.BigEndian.Uint16(frame[12:]) == 0x8100 {
		ip = frame[18:]
	}
	var proto byte
	var pseudo, l4 []byte
	switch {
	case ip[0]>>4 == 4 && ip[0]&15 == 5:
		if packettest.Sum(ip[:20], 0) != 0xffff {
			return nil, errors.New("checksum of the IPv4 header")
		}
		proto, pseudo, l4 = ip[9], ip[12:20], ip[20:binary.BigEndian.Uint16(ip[2:])]
	case ip[0]>>4 == 6:
		proto, pseudo, l4 = ip[6], ip[8:40], ip[40:40+binary.BigEndian.Uint16(ip[4:])]
	default:
		return nil, nil
	}
	s := packettest.Sum(l4, uint32(packettest.Sum(pseudo, uint32(proto)+uint32(len(l4)))))
	switch proto {
	case 6:
		tcp = l4[l4[12]>>4*4:]
	case 17, 58:
	case 1:
		s = packettest.Sum(l4, 0)
	default:
		return nil, nil
	}
	if s != 0xffff {
		return nil, fmt.Errorf("checksum of protocol %d: the sum is %#x", proto, s)
	}
	return tcp, nil
}

// TestCapture records interfaces of every kind: all that crosses the wire is in the
// file, in frames that the wire carries.
func TestCapture(t *testing.T) {
	testenv.Long(t)
	const size = 1 << 20
	dir := t.TempDir()
	for _, tt := range []struct {
		name string
		f    stack.Interface
		user bool // mem:// in user space
	}{
		{"mem", stack.Interface{VNL: "mem://capture"}, false},
		{"mem jumbo", stack.Interface{VNL: "mem://capture", MTU: 9000}, false},
		{"lan", stack.Interface{VNL: "lan://capture"}, false},
		{"mem in user space", stack.Interface{VNL: "mem://capture"}, true},
		{"TAP", stack.Interface{VNL: "ptp://" + dir + "/tap", Kind: stack.KindTAP}, false},
		{"veth", stack.Interface{VNL: "ptp://" + dir + "/veth", Kind: stack.KindVeth}, false},
		{"without offloads", stack.Interface{VNL: "ptp://" + dir + "/without", NoOffload: stack.OffloadHeader}, false},
		{"vlan", stack.Interface{VNL: "vlan://7{mem://capture}", MTU: 1400}, false},
		{"netemu", stack.Interface{VNL: "netemu://delay=1ms{mem://capture}"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.user {
				netnstest.InUserSpace(t)
			}
			netnstest.NoLeaks(t)
			var out bytes.Buffer
			var both [2]*Stack
			for i := range both {
				f := tt.f
				f.Capture, f.Name = &out, fmt.Sprint("cap", i)
				f.Addrs = testenv.Prefixes(fmt.Sprintf("10.0.0.%d/24", i+1), fmt.Sprintf("fc00::%d/64", i+1))
				both[i] = made(t, Config{Name: fmt.Sprint("stack", i), Interfaces: []Interface{f}})
			}
			transfer(t, both[0], both[1], "10.0.0.1:0", size)
			transfer(t, both[1], both[0], "[fc00::2]:0", size)
			var stats [2]InterfaceStats
			for i, s := range both {
				testenv.Check(t, s.Close())
				stats[i] = s.Stats().Interfaces[0]
				if stats[i].CaptureErr != nil {
					t.Error(stats[i].CaptureErr)
				}
			}
			f := testenv.Must(capturetest.Read(out.Bytes()))(t)
			if f.Sections != 1 || len(f.Interfaces) != 2 {
				t.Fatalf("%d sections, interfaces %+v", f.Sections, f.Interfaces)
			}
			mtu := cmp.Or(tt.f.MTU, stack.DefaultMTU)
			type place struct {
				id  int
				out bool
			}
			streams, frames := make(map[place]int), make(map[place]uint64) // bytes of TCP, and all frames
			for n, p := range f.Packets {
				if len(p.Data) > mtu+14 {
					t.Fatalf("frame %d has %d bytes", n, len(p.Data))
				}
				payload, err := checkSums(p.Data)
				if err != nil {
					t.Fatalf("frame %d (out: %v): %v: %x", n, p.Out, err, p.Data[:min(len(p.Data), 80)])
				}
				at := place{p.Interface, p.Out}
				frames[at]++
				streams[at] += len(payload)
			}
			for i, s := range f.Interfaces {
				if s.Name != fmt.Sprint("cap", i) || s.Description != fmt.Sprintf("stack%d: %s", i, tt.f.VNL) || !s.Closed {
					t.Errorf("interface %d: %+v", i, s)
				}
				if s.Dropped+s.OSDropped != stats[i].CaptureDropped || s.User != frames[place{i, true}]+frames[place{i, false}] {
					t.Errorf("interface %d: %+v, but %v frames and %d drops", i, s, frames, stats[i].CaptureDropped)
				}
				if s.Dropped+s.OSDropped == 0 {
					for _, out := range []bool{false, true} {
						if got := streams[place{i, out}]; got < size {
							t.Errorf("interface %d, out %v: %d bytes of TCP, want %d", i, out, got, size)
						}
					}
				} else {
					t.Logf("interface %d: %d frames were not recorded", i, s.Dropped+s.OSDropped)
				}
			}
		})
	}
}

// TestCaptureVLAN records frames whose tags the kernel takes out on their way in.
func TestCaptureVLAN(t *testing.T) {
	netnstest.OnNetworks(t, func(t *testing.T, vnl string) {
		var out bytes.Buffer
		var both [2]*Stack
		for i := range both {
			both[i] = made(t, Config{Interfaces: []Interface{{VNL: vnl, Capture: &out}}})
		}
		from := testenv.Socket(t, both[0], unix.AF_PACKET, unix.SOCK_RAW, 0)
		frame := append(bytes.Repeat([]byte{0xff}, 6), 2, 0, 0, 0, 0, 1, 0x81, 0, 0xa0, 7, 0x88, 0xb5)
		frame = append(frame, bytes.Repeat([]byte{1, 2, 3, 4}, 20)...)
		before := both[1].Stats().Interfaces[0].RxFrames
		testenv.Check(t, unix.Sendto(int(from.Fd()), frame, 0, &unix.SockaddrLinklayer{Ifindex: both[0].Stats().Interfaces[0].Index}))
		testenv.Eventually(t, "the frame", func() bool { return both[1].Stats().Interfaces[0].RxFrames > before })
		testenv.Check(t, errors.Join(both[0].Close(), both[1].Close()))
		f := testenv.Must(capturetest.Read(out.Bytes()))(t)
		var got []bool
		for _, p := range f.Packets {
			if bytes.Equal(p.Data, frame) {
				got = append(got, p.Out)
			}
		}
		if !slices.Equal(got, []bool{true, false}) && !slices.Equal(got, []bool{false, true}) {
			t.Errorf("the frame was recorded so (out): %v", got)
		}
	})
}

// TestCaptureWireshark has the programs of Wireshark read a ping.
func TestCaptureWireshark(t *testing.T) {
	testenv.Long(t)
	tshark, capinfos := testenv.Need(t, "tshark", "tshark"), testenv.Need(t, "capinfos", "wireshark-common")
	netnstest.OnNetworks(t, func(t *testing.T, vnl string) {
		file := testenv.Opened(os.Create(filepath.Join(t.TempDir(), "ping.pcapng")))(t)
		a := made(t, Config{Interfaces: []Interface{{VNL: vnl, Capture: file, Addrs: testenv.Prefixes("10.0.0.1/24", "fc00::1/64")}}})
		open(t, vnl, "10.0.0.2/24", "fc00::2/64")
		for _, dst := range []string{"10.0.0.2", "fc00::2"} {
			if out, err := a.Command(t.Context(), "ping", "-c", "3", "-i", "0.01", dst).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		}
		testenv.Check(t, a.Close())
		run := func(name string, args ...string) string {
			out, err := exec.CommandContext(t.Context(), name, args...).Output()
			if err != nil {
				t.Fatalf("%s: %v: %s", name, err, out)
			}
			return string(out)
		}
		got := run(tshark, "-r", file.Name(), "-Y", "icmp || icmpv6.type in {128, 129}", "-T", "fields",
			"-e", "frame.interface_name", "-e", "frame.packet_flags_direction", "-e", "_ws.col.Info")
		lines := strings.Split(strings.TrimSpace(got), "\n")
		if len(lines) != 12 {
			t.Errorf("%d lines:\n%s", len(lines), got)
		}
		for _, line := range lines {
			way := "\t0x00000002\tEcho (ping) request"
			if strings.Contains(line, "reply") {
				way = "\t0x00000001\tEcho (ping) reply"
			}
			if !strings.HasPrefix(line, "vde0"+way) {
				t.Errorf("got %q", line)
			}
		}
		got = run(capinfos, "-M", file.Name())
		for _, text := range []string{"File type:           pcapng", "nanoseconds (9)", "Name = vde0", "Description = stack: " + vnl, "Number of stat entries = 1"} {
			if !strings.Contains(got, text) {
				t.Errorf("capinfos does not say %q:\n%s", text, got)
			}
		}
	})
}

// failing is a writer that fails after some bytes.
type failing struct{ after int }

var errDisk = errors.New("no space left on device")

func (f *failing) Write(b []byte) (int, error) {
	if f.after -= len(b); f.after < 0 {
		return 0, errDisk
	}
	return len(b), nil
}

// stuck is a writer that takes nothing until the end.
type stuck struct{ end chan struct{} }

func (s *stuck) Write(b []byte) (int, error) { <-s.end; return len(b), nil }

// TestCaptureWriters has writers that fail and that take nothing: the network goes
// on.
func TestCaptureWriters(t *testing.T) {
	testenv.Long(t)
	netnstest.OnNetworks(t, func(t *testing.T, vnl string) {
		var log testenv.Buffer
		end := make(chan struct{})
		open := func(n int, w io.Writer) *Stack {
			return testenv.Must(New(t.Context(), Config{
				Logger:     slog.New(slog.NewTextHandler(&log, nil)),
				Interfaces: []Interface{{VNL: vnl, Capture: w, Addrs: testenv.Prefixes(fmt.Sprintf("10.0.0.%d/24", n))}},
			}))(t)
		}
		a, b := open(1, &failing{after: 100e3}), open(2, &stuck{end})
		defer a.Close()
		defer b.Close()
		for range 3 { // more than is kept
			transfer(t, a, b, "10.0.0.1:0", transferSize)
		}
		st := a.Stats().Interfaces[0]
		if !errors.Is(st.CaptureErr, errDisk) || st.CaptureDropped == 0 {
			t.Errorf("%+v", st)
		}
		if err := a.Close(); !errors.Is(err, errDisk) {
			t.Errorf("close: %v", err)
		}
		if text := log.String(); strings.Count(text, "the capture has ended") != 1 || !strings.Contains(text, "no space left on device") {
			t.Errorf("logged %s", text)
		}
		// What is in the socket of an interface of the kernel is still to be read.
		testenv.Eventually(t, "dropped frames", func() bool {
			st = b.Stats().Interfaces[0]
			return st.CaptureDropped > 0
		})
		testenv.Check(t, st.CaptureErr)
		close(end)
		testenv.Check(t, b.Close())
	})
}

// TestCaptureJoined records in a namespace that others have, from the first frame
// of an interface on.
func TestCaptureJoined(t *testing.T) {
	a := open(t, "")
	ns := testenv.Opened(a.NetNS())(t)
	var out bytes.Buffer
	b := made(t, Config{
		NetNS:      fmt.Sprintf("/proc/self/fd/%d", ns.Fd()),
		Interfaces: []Interface{{VNL: "mem://" + t.Name(), Capture: &out}},
	})
	// A new interface tells its groups of IPv6.
	testenv.Eventually(t, "a frame", func() bool { return b.Stats().Interfaces[0].TxFrames > 0 })
	testenv.Check(t, b.Close())
	f, err := capturetest.Read(out.Bytes())
	if err != nil || !slices.ContainsFunc(f.Packets, func(p capturetest.Packet) bool { return p.Out }) {
		t.Errorf("%d packets, %v", len(f.Packets), err)
	}
}

// TestCaptureOrder records three stacks of a network in one file: each frame is
// there as sent before it is there as received, no time contradicts that, and no
// interface acknowledges what it has not received.
func TestCaptureOrder(t *testing.T) {
	testenv.Long(t)
	ping, tshark := testenv.Need(t, "ping", "iputils-ping"), testenv.Need(t, "tshark", "tshark")
	test := func(t *testing.T, vnl string) {
		file := testenv.Opened(os.Create(filepath.Join(t.TempDir(), "order.pcapng")))(t)
		recorded := func() []byte { return testenv.Must(os.ReadFile(file.Name()))(t) }
		const count = 3
		var stacks [count]*Stack
		for i := range stacks {
			stacks[i] = made(t, Config{Interfaces: []Interface{{VNL: vnl, Name: fmt.Sprint("cap", i), Capture: file,
				Addrs: testenv.Prefixes(fmt.Sprintf("10.0.0.%d/24", i+1), fmt.Sprintf("fc00::%d/64", i+1))}}})
		}
		var sent uint32 // numbered datagrams
		for i, s := range stacks {
			next := (i + 1) % count
			addr := fmt.Sprintf("10.0.0.%d", next+1)
			to := testenv.ListenPacket(t, stacks[next], "udp", addr+":0")
			from := testenv.Dial(t, s, "udp", to.LocalAddr().String())
			// No more than this is sent before all of it is recorded, so that the socket
			// of the capture has room for all, on whatever machine.
			settle := func() {
				last := sendNumbered(t, from, &sent)
				testenv.Eventually(t, "all to be recorded", func() bool { return bytes.Count(recorded(), last) == 2 })
			}
			for _, dst := range []string{addr, fmt.Sprintf("fc00::%d", next+1)} {
				if out, err := s.Command(t.Context(), ping, "-q", "-c", "100", "-i", "0.002", dst).CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				settle()
			}
			for range 8 {
				transfer(t, stacks[next], s, addr+":0", 128<<10)
				settle()
			}
		}
		for _, s := range stacks {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if st := s.Stats().Interfaces[0]; st.CaptureDropped > 0 {
				t.Errorf("%d frames were not recorded", st.CaptureDropped)
			}
		}
		f, err := capturetest.Read(recorded())
		if err != nil {
			t.Fatal(err)
		}
		checkOrder(t, f)
		checkNumbered(t, f, sent)
		for i := range stacks {
			// A file for each: of both ends of a connection, segments are there twice.
			one := filepath.Join(t.TempDir(), "one.pcap")
			if err := os.WriteFile(one, pcapOf(f, i), 0o600); err != nil {
				t.Fatal(err)
			}
			// The kernel itself can send segments again, and change the order of those
			// that it sends from several processors. But each sender leaves no gap, and
			// nobody acknowledges what is still to come.
			out, err := exec.CommandContext(t.Context(), tshark, "-r", one, "-Y",
				fmt.Sprintf("tcp.analysis.ack_lost_segment || tcp.analysis.lost_segment && ip.src == 10.0.0.%d", i+1)).Output()
			if err != nil || len(out) > 0 {
				t.Errorf("tshark on interface %d: %v\n%s", i, err, out)
			}
		}
	}
	netnstest.OnNetworks(t, test)
	t.Run("switch", func(t *testing.T) { test(t, "switch://"+filepath.Join(t.TempDir(), "sw")) })
}

// numbered begins the datagrams of sendNumbered.
const numbered = "a datagram with the number "

// sendNumbered sends datagrams with the numbers from *sent on, and returns the last one.
// They stay on one processor, so that the kernel keeps their order.
func sendNumbered(t *testing.T, to net.Conn, sent *uint32) (last []byte) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, one unix.CPUSet
	testenv.Check(t, unix.SchedGetaffinity(0, &all))
	for cpu := 0; one.Count() == 0; cpu++ {
		if all.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	testenv.Check(t, unix.SchedSetaffinity(0, &one))
	defer func() { testenv.Check(t, unix.SchedSetaffinity(0, &all)) }()
	for range 20 {
		last = binary.BigEndian.AppendUint32([]byte(numbered), *sent)
		if _, err := to.Write(last); err != nil {
			t.Fatal(err)
		}
		*sent++
	}
	return last
}

// checkNumbered wants all numbered datagrams, at each interface in their order.
func checkNumbered(t *testing.T, f capturetest.File, sent uint32) {
	t.Helper()
	type place struct {
		id  int
		out bool
	}
	last, count := make(map[place]uint32), uint32(0)
	for n, p := range f.Packets {
		_, rest, ok := bytes.Cut(p.Data, []byte(numbered))
		if !ok {
			continue
		}
		count++
		at, number := place{p.Interface, p.Out}, binary.BigEndian.Uint32(rest)
		if before, ok := last[at]; ok && number <= before {
			t.Errorf("frame %d, %+v: datagram %d comes after %d", n, at, number, before)
		}
		last[at] = number
	}
	if count != 2*sent {
		t.Errorf("%d datagrams were recorded, want %d, sent and received", count, sent)
	}
}

// pcapOf returns the frames of an interface in the format pcap, with nanoseconds.
func pcapOf(f capturetest.File, id int) []byte {
	le := binary.LittleEndian
	b := append(le.AppendUint32(nil, 0xa1b23c4d), 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0)
	for _, p := range f.Packets {
		if p.Interface == id {
			b = le.AppendUint32(b, uint32(p.Time/1e9))
			b = le.AppendUint32(b, uint32(p.Time%1e9))
			b = le.AppendUint32(b, uint32(len(p.Data)))
			b = append(le.AppendUint32(b, uint32(len(p.Data))), p.Data...)
		}
	}
	return b
}

// checkOrder wants, before each frame that an interface received, one that another
// had sent.
func checkOrder(t *testing.T, f capturetest.File) {
	t.Helper()
	type arrival struct {
		data string
		at   int
	}
	sent, received := make(map[string][]int64), make(map[arrival]int)
	late := 0
	for _, p := range f.Packets {
		if p.Out {
			sent[string(p.Data)] = append(sent[string(p.Data)], p.Time)
		}
	}
	all := sent
	sent = make(map[string][]int64)
	for n, p := range f.Packets {
		data := string(p.Data)
		if p.Out {
			sent[data] = append(sent[data], p.Time)
			continue
		}
		a := arrival{data, p.Interface}
		i := received[a]
		received[a]++
		switch {
		case i >= len(all[data]):
			continue // sent before the capture began, or by nobody who is recorded
		case i >= len(sent[data]):
			t.Errorf("frame %d of %d is received before it is sent: %x", n, len(f.Packets), p.Data[:min(len(data), 60)])
		case p.Time < sent[data][i]:
			t.Errorf("frame %d is received %d ns before it is sent: %x", n, sent[data][i]-p.Time, p.Data[:min(len(data), 60)])
		default:
			continue
		}
		if late++; late > 10 {
			t.Fatal("and so on")
		}
	}
	if len(received) == 0 {
		t.Error("nothing was received")
	}
}
