//go:build amd64 || arm64

package virtio

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

// A space is a network namespace with a TAP.
type space struct {
	t     *testing.T
	ns    *netns.NS
	tap   *os.File
	fd    int // of tap
	index int
}

// newSpace makes a namespace whose TAP has these offloads and the addresses
// 10.9.0.host and fd09::host, and which knows the other hosts.
func newSpace(t *testing.T, flags uint16, offloads int, host byte) *space {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		testenv.Skip(t, "no network namespace: %v", err)
	}
	t.Cleanup(func() { ns.Close() })
	s := &space{t: t, ns: ns}
	s.fd, _, _, err = ns.OpenTAP(netns.TAP{Name: "tap0", Flags: unix.IFF_TAP | unix.IFF_NO_PI | flags})
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOENT) {
		testenv.Skip(t, "no TAP: %v (modprobe tun, chmod 0666 /dev/net/tun)", err)
	}
	s.check(err)
	s.check(unix.IoctlSetInt(s.fd, unix.TUNSETOFFLOAD, offloads))
	s.tap = os.NewFile(uintptr(s.fd), "tap")
	t.Cleanup(func() { s.tap.Close() })

	nl := testenv.Must(rtnl.Dial(netns.Sockets{NS: ns}))(s.t)
	defer nl.Close()
	s.index = testenv.Must(nl.IfNameToIndex("tap0"))(s.t)
	s.check(nl.LinkSetAddr(s.index, hostMAC(host)))
	s.check(nl.LinkSetUp(s.index))
	for _, addr := range hostAddrs(host) {
		s.check(nl.AddrAdd(s.index, netip.PrefixFrom(addr, addr.BitLen()/4*3), rtnl.NoDAD))
	}
	// The kernel lets sockets use an IPv6 address before it takes packets for it.
	local := fmt.Sprintf("%x 80 ", hostAddrs(host)[1].AsSlice())
	testenv.Eventually(t, "a local route of the IPv6 address", func() bool { return strings.Contains(s.proc("ipv6_route"), local) })
	// Permanent entries: the tables of neighbours that the kernel fills itself are shared
	// by all namespaces of a machine, and may be full.
	for other := range byte(4) {
		if other != host {
			for _, addr := range hostAddrs(other) {
				s.check(nl.NeighborAdd(rtnl.Neighbor{IfIndex: s.index, Addr: addr, HardwareAddr: hostMAC(other)}))
			}
		}
	}
	return s
}

func hostMAC(host byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 1, host} }

func hostAddrs(host byte) []netip.Addr {
	return []netip.Addr{netip.AddrFrom4([4]byte{10, 9, 0, host}), netip.AddrFrom16([16]byte{0: 0xfd, 1: 9, 15: host})}
}

func (s *space) check(err error) {
	s.t.Helper()
	testenv.Check(s.t, err)
}

// packetSocket makes a socket for packets with virtio headers on the TAP.
func (s *space) packetSocket(proto int) *os.File {
	s.t.Helper()
	fd := testenv.Must(s.ns.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, 0))(s.t)
	f := os.NewFile(uintptr(fd), "packet")
	s.t.Cleanup(func() { f.Close() })
	s.check(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1))
	s.check(unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: s.index, Protocol: uint16(proto<<8 | proto>>8)}))
	return f
}

// readFrame returns the next frame of the file that was sent by a flow, with a
// header if the file has them.
func readFrame(t *testing.T, f *os.File, head int) []byte {
	t.Helper()
	buf := make([]byte, HeaderLen+1<<16)
	f.SetReadDeadline(time.Now().Add(testenv.Timeout))
	for {
		n := testenv.Must(f.Read(buf))(t)
		if b := buf[:n]; len(b) > head+12 && bytes.Equal(b[head+6:head+11], []byte{2, 0, 0, 0, 0}) {
			return b
		}
	}
}

// kernelSplits sends a packet to a TAP without offloads and compares the frames
// that come out with those that the package makes of it.
func kernelSplits(t *testing.T, s *space, socket *os.File, h Header, packet []byte) {
	t.Helper()
	b := make([]byte, HeaderLen, HeaderLen+len(packet))
	h.Encode(b)
	testenv.Must(socket.Write(append(b, packet...)))(t)
	frames := split(t, h, packet)
	for i, want := range frames {
		if got := readFrame(t, s.tap, 0); !bytes.Equal(got, want) {
			n := min(len(got), len(want), 100)
			t.Fatalf("frame %d of %d: the kernel makes %d bytes, Split %d:\n%x\n%x", i, len(frames), len(got), len(want), got[:n], want[:n])
		}
	}
}

// TestKernelSplits compares what the kernel and the package make of the same
// packets, byte for byte.
func TestKernelSplits(t *testing.T) {
	s := newSpace(t, 0, 0, 1)
	socket := s.packetSocket(0)
	for _, tt := range segmentTests {
		t.Run(tt.name, func(t *testing.T) {
			n := min(tt.n, 400*tt.size) // the queue of a TAP holds 1000 frames
			h, packet := tt.flow.with(func(*flow) {}).packet(n, tt.size)
			if tt.ecn {
				h.GSOType |= GSOECN
			}
			kernelSplits(t, s, socket, h, packet)
			h, packet = tt.flow.with(func(*flow) {}).packet(101, 0)
			h.GSOType = GSONone
			kernelSplits(t, s, socket, h, packet)
		})
	}
}

const offloads = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6

// TestKernelTakes writes joined frames to a TAP and sees them as one packet
// inside.
func TestKernelTakes(t *testing.T) {
	s := newSpace(t, unix.IFF_VNET_HDR, offloads, 2)
	socket := s.packetSocket(unix.ETH_P_ALL)
	for _, tt := range segmentTests {
		if tt.flow.ipOpts != nil || tt.flow.flags&flagCWR != 0 {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			frames := wantFrames(tt.flow, tt.n, tt.size)
			packets := coalesce(&Coalescer{UDP: true}, frames[:min(len(frames), 45)])
			if len(packets) != 1 || packets[0].Frames == 1 {
				t.Fatalf("%d packets, want 1", len(packets))
			}
			want, packet := decode(t, packets[0])
			if _, err := unix.Writev(s.fd, packets[0].Parts); err == unix.EINVAL && tt.flow.udp {
				testenv.Skip(t, "the TAP does not take UDP_L4 (Linux before 6.2)")
			} else if err != nil {
				t.Fatalf("header %+v: %v", want, err)
			}
			got := readFrame(t, socket, HeaderLen)
			var h Header
			h.Decode(got)
			h.HdrLen = want.HdrLen // the kernel's has another meaning
			if len(tt.flow.tags) > 0 {
				// The outer tag has left the packet, but not its device.
				packet = slices.Concat(packet[:12], packet[16:])
				want.CsumStart -= 4
			}
			if h != want {
				t.Errorf("the kernel has header %+v, want %+v", h, want)
			}
			equalFrames(t, [][]byte{got[HeaderLen:]}, [][]byte{packet})
		})
	}
}

// A wire carries what two spaces send to each other as frames.
type wire struct {
	t       *testing.T
	mangle  func(frame []byte) // if not nil
	pumps   sync.WaitGroup
	split   atomic.Uint64 // packets read that became several frames
	joined  atomic.Uint64 // packets written that were several frames
	samples chan sample   // some packets that were split
}

type sample struct {
	h      Header
	packet []byte
}

func newWire(t *testing.T, a, b *space, mangle func(frame []byte)) *wire {
	w := &wire{t: t, mangle: mangle, samples: make(chan sample, 20)}
	w.pumps.Go(func() { w.carry(a, b) })
	w.pumps.Go(func() { w.carry(b, a) })
	t.Cleanup(func() {
		a.tap.Close()
		b.tap.Close()
		w.pumps.Wait()
	})
	return w
}

func (w *wire) carry(from, to *space) {
	var s Segmenter
	c := Coalescer{UDP: true}
	buf := make([]byte, HeaderLen+1<<16)
	out, err := to.tap.SyscallConn()
	if err != nil {
		w.t.Error(err)
		return
	}
	for {
		n, err := from.tap.Read(buf)
		if err != nil {
			return // the TAP was closed
		}
		var h Header
		h.Decode(buf[:n])
		packet := bytes.Clone(buf[HeaderLen:n])
		segments, err := s.Split(h, packet, 0)
		if err != nil {
			w.t.Errorf("%+v: %v", h, err)
			continue
		}
		if len(segments) > 1 {
			w.split.Add(1)
			select {
			case w.samples <- sample{h, packet}:
			default:
			}
		}
		for frames := range slices.Chunk(join(segments, 0), 30) {
			for _, frame := range frames {
				if _, ok := parse(frame); ok {
					checkFrame(w.t, frame)
				}
				if w.mangle != nil {
					w.mangle(frame)
				}
				c.Add(frame)
			}
			for _, p := range c.Flush() {
				if p.Frames > 1 {
					w.joined.Add(1)
				}
				// At the end the TAP may be closed, and its number another file's.
				out.Control(func(fd uintptr) {
					// EIO: the interface is down.
					if _, err := unix.Writev(int(fd), p.Parts); err != nil && err != unix.EIO {
						w.t.Errorf("writing %d parts: %v", len(p.Parts), err)
					}
				})
			}
		}
	}
}

// transfer sends n bytes over TCP and compares what arrives.
func transfer(t *testing.T, from, to *space, addr netip.Addr, n int) {
	t.Helper()
	domain := unix.AF_INET6
	if addr.Is4() {
		domain = unix.AF_INET
	}
	l := to.listen(domain)
	defer l.Close()
	sockaddr := socketAddr(addr, l.Addr().(*net.TCPAddr).Port)
	fd := testenv.Must(from.ns.Socket(domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0))(from.t)
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr); err != unix.EINPROGRESS {
		t.Fatal(err)
	}
	ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(testenv.Timeout.Milliseconds()))
	if err != nil || ready != 1 {
		t.Fatalf("connecting: %d, %v", ready, err)
	}
	out := from.conn(fd)
	defer out.Close()
	in := testenv.Must(l.Accept())(from.t)
	defer in.Close()
	in.SetDeadline(time.Now().Add(testenv.Timeout))

	data := make([]byte, n)
	for i := range data {
		data[i] = byte(i ^ i>>8 ^ i>>16)
	}
	var sending sync.WaitGroup
	defer sending.Wait()
	sending.Go(func() {
		if _, err := out.Write(data); err != nil {
			t.Error(err)
		}
		out.(*net.TCPConn).CloseWrite()
	})
	hash := sha256.New()
	got, err := io.Copy(hash, in)
	if err != nil || got != int64(n) || [32]byte(hash.Sum(nil)) != sha256.Sum256(data) {
		t.Errorf("got %d bytes, %v, want the %d that were sent", got, err, n)
	}
}

func (s *space) listen(domain int) net.Listener {
	s.t.Helper()
	f := testenv.Must(netns.Sockets{NS: s.ns}.Socket(domain, unix.SOCK_STREAM, 0))(s.t)
	defer f.Close()
	s.check(unix.Listen(int(f.Fd()), 1))
	l := testenv.Must(net.FileListener(f))(s.t)
	l.(*net.TCPListener).SetDeadline(time.Now().Add(testenv.Timeout))
	return l
}

func (s *space) conn(fd int) net.Conn {
	s.t.Helper()
	dup := testenv.Must(unix.Dup(fd))(s.t)
	f := os.NewFile(uintptr(dup), "socket")
	defer f.Close()
	c := testenv.Must(net.FileConn(f))(s.t)
	c.SetDeadline(time.Now().Add(testenv.Timeout))
	return c
}

func socketAddr(addr netip.Addr, port int) unix.Sockaddr {
	if addr.Is4() {
		return &unix.SockaddrInet4{Addr: addr.As4(), Port: port}
	}
	return &unix.SockaddrInet6{Addr: addr.As16(), Port: port}
}

// counter returns a sum of the kernel's counters in the space whose names end so.
func (s *space) counter(suffix string) (sum int) {
	s.t.Helper()
	for _, name := range []string{"snmp", "snmp6"} {
		sum += countersIn(s.proc(name), suffix)
	}
	return sum
}

// proc reads a file of /proc/net as it is in the space.
func (s *space) proc(name string) string {
	s.t.Helper()
	fd := testenv.Must(s.ns.Open("/proc/thread-self/net/"+name, unix.O_RDONLY))(s.t)
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	text := testenv.Must(io.ReadAll(f))(s.t)
	return string(text)
}

// countersIn reads the two forms of such files: a line of names and one of
// values, and lines of a name and a value.
func countersIn(text, suffix string) (sum int) {
	var names []string
	for line := range strings.Lines(text) {
		values := strings.Fields(line)
		if !strings.HasSuffix(values[0], ":") {
			names, values = values[:1], values[1:]
		} else if names == nil {
			names = values
			continue
		}
		for i, name := range names {
			if strings.HasSuffix(name, suffix) {
				n, _ := strconv.Atoi(values[i])
				sum += n
			}
		}
		names = nil
	}
	return sum
}

// TestKernelStream lets two kernels talk: each sends packets that are split,
// and gets packets that are joined of the frames.
func TestKernelStream(t *testing.T) {
	testenv.Long(t)
	for _, addr := range []string{"10.9.0.2", "fd09::2"} {
		t.Run(addr, func(t *testing.T) {
			a, b := newSpace(t, unix.IFF_VNET_HDR, offloads, 1), newSpace(t, unix.IFF_VNET_HDR, offloads, 2)
			w := newWire(t, a, b, nil)
			transfer(t, a, b, netip.MustParseAddr(addr), 8<<20)
			if a.counter("InCsumErrors")+b.counter("InCsumErrors") != 0 {
				t.Error("the kernel found wrong checksums")
			}
			if b.counter("InSegs") == 0 {
				t.Error("the counters are not those of the namespace")
			}
			t.Logf("%d packets were split, %d joined", w.split.Load(), w.joined.Load())
			if w.split.Load() == 0 || w.joined.Load() == 0 {
				t.Error("there were no packets of several frames")
			}

			// The same packets, cut by the kernel.
			plain := newSpace(t, 0, 0, 3)
			socket := plain.packetSocket(0)
			for range len(w.samples) {
				p := <-w.samples
				copy(p.packet[6:], []byte{2, 0, 0, 0, 0}) // which readFrame looks for
				kernelSplits(t, plain, socket, p.h, p.packet)
			}
		})
	}
}

// TestKernelCorrupted changes a byte now and then: the kernel must find every
// frame with a wrong checksum, and no other.
func TestKernelCorrupted(t *testing.T) {
	testenv.Long(t)
	a, b := newSpace(t, unix.IFF_VNET_HDR, offloads, 1), newSpace(t, unix.IFF_VNET_HDR, offloads, 2)
	var n, corrupted atomic.Int64
	newWire(t, a, b, func(frame []byte) {
		if len(frame) > 1000 && n.Add(1)%200 == 0 {
			frame[len(frame)-100] ^= 0x10
			corrupted.Add(1)
		}
	})
	transfer(t, a, b, netip.MustParseAddr("10.9.0.2"), 2<<20)
	got, want := a.counter("InCsumErrors")+b.counter("InCsumErrors"), int(corrupted.Load())
	if got != want || want == 0 {
		t.Errorf("the kernel found %d wrong checksums, want %d", got, want)
	}
}

// TestKernelUDP sends datagrams of equal size that travel as one packet on
// both sides.
func TestKernelUDP(t *testing.T) {
	const uso = offloads | unix.TUN_F_USO4 | unix.TUN_F_USO6
	for _, addr := range []string{"10.9.0.2", "fd09::2"} {
		t.Run(addr, func(t *testing.T) {
			a, b := newSpace(t, unix.IFF_VNET_HDR, offloads, 1), newSpace(t, unix.IFF_VNET_HDR, offloads, 2)
			for _, s := range []*space{a, b} {
				if err := unix.IoctlSetInt(s.fd, unix.TUNSETOFFLOAD, uso); err != nil {
					testenv.Skip(t, "the TAP has no USO: %v (Linux before 6.2)", err)
				}
			}
			w := newWire(t, a, b, nil)
			ip := netip.MustParseAddr(addr)
			domain := unix.AF_INET6
			if ip.Is4() {
				domain = unix.AF_INET
			}
			in := testenv.Must(b.ns.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0))(b.t)
			defer unix.Close(in)
			b.check(unix.Bind(in, socketAddr(ip, 5000)))
			out := testenv.Must(a.ns.Socket(domain, unix.SOCK_DGRAM, 0))(a.t)
			defer unix.Close(out)
			a.check(unix.SetsockoptInt(out, unix.SOL_UDP, unix.UDP_SEGMENT, 1000))
			data := bytes.Repeat([]byte("datagram"), 20500/8)
			a.check(unix.Sendto(out, data, 0, socketAddr(ip, 5000)))
			conn := b.conn(in)
			defer conn.Close()
			buf := make([]byte, 2000)
			for rest := data; len(rest) > 0; {
				n := testenv.Must(conn.Read(buf))(t)
				if want := min(1000, len(rest)); !bytes.Equal(buf[:n], rest[:want]) {
					t.Fatalf("got a datagram of %d bytes, want %d", n, want)
				}
				rest = rest[n:]
			}
			if a.counter("InCsumErrors")+b.counter("InCsumErrors") != 0 {
				t.Error("the kernel found wrong checksums")
			}
			if w.split.Load() != 1 || w.joined.Load() != 1 {
				t.Errorf("%d packets were split and %d joined, want 1 each", w.split.Load(), w.joined.Load())
			}
		})
	}
}
