package packet_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/virtio"
	"golang.org/x/sys/unix"
)

// pair returns two local datagram sockets that are connected to each other.
func pair(t *testing.T) (a, b *os.File) {
	t.Helper()
	fds := testenv.Must(unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0))(t)
	a, b = os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// raw returns the connection of a file or of a connection of package net.
func raw(t *testing.T, c syscall.Conn) syscall.RawConn {
	t.Helper()
	r := testenv.Must(c.SyscallConn())(t)
	return r
}

// udp returns a socket on loopback.
func udp(t *testing.T) *net.UDPConn {
	t.Helper()
	c := testenv.Must(net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}))(t)
	t.Cleanup(func() { c.Close() })
	return c
}

func setsockopt(t *testing.T, c *net.UDPConn, level, opt, value int) {
	t.Helper()
	var err error
	closed := raw(t, c).Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, opt, value) })
	testenv.Check(t, errors.Join(closed, err))
}

// sockaddr returns the address of a socket as Sender wants it.
func sockaddr(c *net.UDPConn) sockio.Sockaddr {
	return sockio.MakeSockaddr(c.LocalAddr().(*net.UDPAddr).AddrPort(), 0)
}

// A receiver has RecvMsgs wait for datagrams.
type receiver struct {
	size, control int
	n             int
}

func (r *receiver) Receive(fd int, b *packet.Buffer) (done bool, err error) {
	r.n, err = b.RecvMsgs(fd, r.size, r.control)
	if err == unix.EAGAIN {
		return false, nil
	}
	return true, err
}

// receive waits for datagrams on c.
func receive(t *testing.T, c syscall.Conn, b *packet.Buffer, size, control int) (n int) {
	t.Helper()
	r := &receiver{size: size, control: control}
	if err, closed := b.Receive(raw(t, c), r); err != nil || closed != nil {
		t.Fatal(err, closed)
	}
	return r.n
}

// TestRecvMsgs receives more datagrams than fit into one call, some of them larger
// than wanted, and then others of another size with the same buffer.
func TestRecvMsgs(t *testing.T) {
	for _, brief := range []bool{false, true} {
		t.Run(fmt.Sprint("brief ", brief), func(t *testing.T) {
			testenv.NoLeaks(t)
			a, far := pair(t)
			b := packet.Buffer{Brief: brief}
			defer b.Release()
			if b.Full() {
				t.Error("an empty buffer is full")
			}
			const size = packet.Size / 5 // room for five
			for i := range 7 {
				testenv.Must(a.Write(bytes.Repeat([]byte{byte(i)}, 1000*(i+1))))(t)
			}
			if n := receive(t, far, &b, size, packet.DataOnly); n != 5 || !b.Full() {
				t.Fatalf("%d datagrams, full %v, want 5, true", n, b.Full())
			}
			for i := range 5 {
				d := b.Datagram(i)
				if len(d.Data) != 1000*(i+1) || d.Data[0] != byte(i) || d.Truncated || d.Segment != 0 || d.Right != -1 || d.TagType != 0 || d.Time != 0 {
					t.Errorf("datagram %d: %d bytes, %+v", i, len(d.Data), d)
				}
			}
			if n := receive(t, far, &b, 6500, packet.ControlInt); n != 2 || b.Full() {
				t.Fatalf("%d datagrams, full %v, want 2, false", n, b.Full())
			}
			if d := b.Datagram(0); len(d.Data) != 6000 || d.Truncated || d.From.Family != unix.AF_UNSPEC {
				t.Errorf("%d bytes, truncated %v, from %v", len(d.Data), d.Truncated, d.From)
			}
			if d := b.Datagram(1); len(d.Data) != 6500 || !d.Truncated {
				t.Errorf("%d bytes, truncated %v, want 6500, true", len(d.Data), d.Truncated)
			}
			if n, err := b.RecvMsgs(int(far.Fd()), 100, packet.DataOnly); err != unix.EAGAIN {
				t.Errorf("received %d, %v, want EAGAIN", n, err)
			}
		})
	}
}

// TestReceiveWaits has nothing to receive, and no memory, until something comes or
// the descriptor is closed.
func TestReceiveWaits(t *testing.T) {
	testenv.NoLeaks(t)
	a, far := pair(t)
	var b packet.Buffer
	got := make(chan string)
	conn := raw(t, far)
	go func() {
		for {
			r := &receiver{size: 100}
			err, closed := b.Receive(conn, r)
			if err != nil || closed != nil {
				got <- fmt.Sprint(err, " ", closed)
				return
			}
			got <- string(b.Datagram(0).Data)
		}
	}()
	for _, text := range []string{"one", "two"} {
		testenv.Must(a.Write([]byte(text)))(t)
		if g := <-got; g != text {
			t.Errorf("got %q, want %q", g, text)
		}
	}
	far.Close()
	if g := <-got; g != "<nil> use of closed file" {
		t.Errorf("closed: %s", g)
	}
}

// TestRights receives descriptors: one of a message, whatever it has, and each closed
// on exec.
func TestRights(t *testing.T) {
	testenv.NoLeaks(t)
	a, far := pair(t)
	file := testenv.Must(os.Open("/dev/null"))(t)
	defer file.Close()
	fd := int(file.Fd())
	for _, fds := range [][]int{{fd}, {fd, fd}} {
		testenv.Check(t, unix.Sendmsg(int(a.Fd()), []byte("x"), unix.UnixRights(fds...), nil, 0))
	}
	var b packet.Buffer
	defer b.Release()
	if n := receive(t, far, &b, 100, packet.ControlInt); n != 2 {
		t.Fatalf("%d datagrams, want 2", n)
	}
	for i := range 2 {
		d := b.Datagram(i)
		if d.Right < 0 {
			t.Fatalf("datagram %d has no descriptor", i)
		}
		flags, err := unix.FcntlInt(uintptr(d.Right), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("flags of the descriptor: %#x, %v", flags, err)
		}
		unix.Close(d.Right)
	}
}

// TestTimestamp receives the time of a datagram, and its sender.
func TestTimestamp(t *testing.T) {
	in, out := udp(t), udp(t)
	setsockopt(t, in, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	before := time.Now()
	testenv.Must(out.WriteTo([]byte("x"), in.LocalAddr()))(t)
	var b packet.Buffer
	defer b.Release()
	receive(t, in, &b, 100, packet.ControlStamped)
	d := b.Datagram(0)
	if at := time.Unix(0, d.Time); at.Before(before) || at.After(time.Now()) {
		t.Errorf("received at %v, sent after %v", at, before)
	}
	if from, want := (sockio.Sockaddr{Raw: *d.From}), sockaddr(out); from != want {
		t.Errorf("from %v, want %v", from, want)
	}
}

// TestTag receives frames of a packet socket, whose tags the kernel takes out.
func TestTag(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("packet sockets are for root")
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
	open := func(ifname string) *os.File {
		ifi := testenv.Must(net.InterfaceByName(ifname))(t)
		fd := testenv.Must(unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0))(t)
		f := os.NewFile(uintptr(fd), ifname)
		t.Cleanup(func() { f.Close() })
		if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifi.Index})); err != nil {
			t.Fatal(err)
		}
		return f
	}
	in, out := open("test1"), open("test0")
	head := append(bytes.Repeat([]byte{0xff}, 6), 2, 0, 0, 0, 0, 1)
	for _, tag := range []struct {
		kind, tci uint16
	}{{0, 0}, {unix.ETH_P_8021Q, 5}, {unix.ETH_P_8021AD, 7<<13 | 4094}} {
		frame := bytes.Clone(head)
		if tag.kind != 0 {
			frame = binary.BigEndian.AppendUint16(frame, tag.kind)
			frame = binary.BigEndian.AppendUint16(frame, tag.tci)
		}
		text := fmt.Sprint("tag ", tag)
		frame = append(append(frame, 0x88, 0xb5), text...)
		testenv.Must(out.Write(frame))(t)
		var b packet.Buffer
		for found := false; !found; {
			for i := range receive(t, in, &b, 2000, packet.ControlStamped) {
				d := b.Datagram(i)
				if !strings.HasSuffix(string(d.Data), text) {
					continue // the kernel's own
				}
				found = true
				if d.TagType != tag.kind || d.Tag != tag.tci || d.Time == 0 || len(d.Data) != 14+len(text) {
					t.Errorf("got tag %#x %#x, time %d, %d bytes, want %#x %#x", d.TagType, d.Tag, d.Time, len(d.Data), tag.kind, tag.tci)
				}
			}
		}
		b.Release()
	}
}

// TestSegments sends datagrams that the kernel cuts (UDP_SEGMENT), and receives them
// joined (UDP_GRO).
func TestSegments(t *testing.T) {
	in, out := udp(t), udp(t)
	setsockopt(t, in, unix.SOL_UDP, unix.UDP_GRO, 1)
	to := sockaddr(in)
	s := packet.NewSender()
	defer s.Free()
	segments := []virtio.Segment{{Head: []byte("AB"), Data: []byte("cdef")}, {Head: []byte("GH"), Data: []byte("ijkl")}, {Data: []byte("mn")}}
	if !s.Add(segments, 6, &to.Raw) || s.Empty() {
		t.Fatal("no room in an empty Sender")
	}
	all, err, closed := s.Send(raw(t, out), nil)
	if !all || err != nil || closed != nil || s.Lost() != 0 {
		t.Fatal(all, err, closed, s.Lost())
	}
	var b packet.Buffer
	defer b.Release()
	var got []string
	for joined := ""; len(joined) < 14; {
		for i := range receive(t, in, &b, 2000, packet.ControlInt) {
			d := b.Datagram(i)
			joined += string(d.Data)
			got = append(got, fmt.Sprint(string(d.Data), " ", d.Segment))
		}
	}
	if len(got) != 1 || got[0] != "ABcdefGHijklmn 6" {
		t.Errorf("received %q, want one datagram in segments of 6", got)
	}
}

// TestLocal learns to which address of the host datagrams were sent, and answers from
// there, in datagrams that the kernel cuts, or refuses to.
func TestLocal(t *testing.T) {
	for _, tt := range []struct {
		listen, ask string
		level, opt  int
	}{
		{"0.0.0.0:0", "127.0.0.9", unix.SOL_IP, unix.IP_PKTINFO},
		{"[::]:0", "127.0.0.9", unix.SOL_IPV6, unix.IPV6_RECVPKTINFO},
		{"[::]:0", "::1", unix.SOL_IPV6, unix.IPV6_RECVPKTINFO},
	} {
		for _, refuse := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s asks %s, refused %v", tt.ask, tt.listen, refuse), func(t *testing.T) {
				c := testenv.Opened(net.ListenPacket("udp", tt.listen))(t).(*net.UDPConn)
				setsockopt(t, c, tt.level, tt.opt, 1)
				setsockopt(t, c, unix.SOL_UDP, unix.UDP_GRO, 1)
				if refuse {
					setsockopt(t, c, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1)
				}
				server := &net.UDPAddr{IP: net.ParseIP(tt.ask), Port: c.LocalAddr().(*net.UDPAddr).Port}
				a := testenv.Opened(net.DialUDP("udp", nil, server))(t)
				testenv.Must(a.Write([]byte("hello")))(t)
				b := packet.Buffer{Many: true}
				defer b.Release()
				if n := receive(t, c, &b, packet.Slot, packet.ControlLocal); n != 1 {
					t.Fatalf("%d datagrams, want 1", n)
				}
				g := b.Datagram(0)
				if g.Local.Addr.Unmap().String() != tt.ask || string(g.Data) != "hello" {
					t.Errorf("%q to %v, want %v", g.Data, g.Local, tt.ask)
				}
				s := packet.NewSender()
				defer s.Free()
				s.Add([]virtio.Segment{{Data: []byte("one")}, {Data: []byte("two")}, {Data: []byte("3")}}, 3, g.From)
				s.From(g.Local)
				s.Add([]virtio.Segment{{Data: []byte("last")}}, 0, g.From)
				s.From(g.Local)
				all, err, closed := s.Send(raw(t, c), decider(func(fd int, s *packet.Sender, _ int, _ error) (int, bool, error) {
					return s.Separately(fd), false, nil
				}))
				frames, bytes := s.Sent()
				if !all || err != nil || closed != nil || s.Lost() != 0 || frames != 4 || bytes != 11 || s.Refused() != nil {
					t.Errorf("%v, %v, %v, %d lost, sent %d frames of %d bytes, refused: %v", all, err, closed, s.Lost(), frames, bytes, s.Refused())
				}
				buf := make([]byte, 100)
				for _, want := range []string{"one", "two", "3", "last"} { // a takes nothing from other addresses
					a.SetReadDeadline(time.Now().Add(testenv.Timeout))
					if n, err := a.Read(buf); err != nil || string(buf[:n]) != want {
						t.Errorf("received %q, %v, want %q", buf[:n], err, want)
					}
				}
			})
		}
	}
}

// A decider is a Sending of a test.
type decider func(fd int, s *packet.Sender, frames int, err error) (lost int, again bool, final error)

func (f decider) HandleError(fd int, s *packet.Sender, frames int, err error) (lost int, again bool, final error) {
	return f(fd, s, frames, err)
}

// TestRefused has the kernel refuse datagrams that it would have to cut, and does
// what the Sending says.
func TestRefused(t *testing.T) {
	segments := []virtio.Segment{{Head: []byte("AB"), Data: []byte("cdef")}, {Data: []byte("ghijkl")}, {Data: []byte("mn")}}
	final := errors.New("final")
	for _, tt := range []struct {
		name     string
		decide   decider
		received []string
		lost     int
		calls    int
		err      error
	}{
		{"separately", func(fd int, s *packet.Sender, frames int, _ error) (int, bool, error) {
			if s.Segment() != 6 || frames != 3 {
				t.Errorf("segments of %d, %d frames", s.Segment(), frames)
			}
			return s.Separately(fd), false, nil
		}, []string{"ABcdef", "ghijkl", "mn", "plain"}, 0, 1, nil},
		{"lost", func(_ int, _ *packet.Sender, frames int, _ error) (int, bool, error) { return frames, false, nil },
			[]string{"plain"}, 3, 1, nil},
		{"once more", func(_ int, _ *packet.Sender, frames int, _ error) (int, bool, error) { return 0, true, nil },
			[]string{"plain"}, 3, 2, nil},
		{"final", func(int, *packet.Sender, int, error) (int, bool, error) { return 0, false, final },
			nil, 4, 1, final},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in, out := udp(t), udp(t)
			// Without checksums, which the kernel needs to cut.
			setsockopt(t, out, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1)
			s := packet.NewSender()
			defer s.Free()
			calls := 0
			to := sockaddr(in)
			s.Add(segments, 6, &to.Raw)
			s.Add([]virtio.Segment{{Data: []byte("plain")}}, 0, &to.Raw)
			err, closed := s.SendWait(raw(t, out), decider(func(fd int, s *packet.Sender, frames int, err error) (int, bool, error) {
				if calls++; err != unix.EINVAL && err != unix.EIO {
					t.Errorf("refused for %v", err)
				}
				return tt.decide(fd, s, frames, err)
			}))
			if err != tt.err || closed != nil || calls != tt.calls || s.Lost() != tt.lost {
				t.Errorf("%v, %v, %d calls, %d lost, want %v, %d, %d", err, closed, calls, s.Lost(), tt.err, tt.calls, tt.lost)
			}
			if frames, bytes := s.Sent(); frames != 4-tt.lost || bytes != len(strings.Join(tt.received, "")) {
				t.Errorf("%d frames of %d bytes sent, want %q", frames, bytes, tt.received)
			}
			if refused := s.Refused() != nil; refused != (tt.lost > 0 && tt.err == nil) {
				t.Errorf("refused: %v", s.Refused())
			}
			buf := make([]byte, 100)
			for _, want := range tt.received {
				in.SetReadDeadline(time.Now().Add(testenv.Timeout))
				n, _, err := in.ReadFrom(buf)
				if err != nil || string(buf[:n]) != want {
					t.Errorf("received %q, %v, want %q", buf[:n], err, want)
				}
			}
		})
	}
}

// TestSendWait fills a socket: Send says so, and SendWait sends the rest when there is
// room, in order.
func TestSendWait(t *testing.T) {
	for _, brief := range []bool{false, true} {
		t.Run(fmt.Sprint("brief ", brief), func(t *testing.T) {
			testenv.NoLeaks(t)
			a, far := pair(t)
			conn := raw(t, a)
			s := packet.NewSender()
			defer s.Free()
			s.Brief = brief
			added, full := 0, false
			for !full {
				s.Reset()
				for s.AddParts([][]byte{{byte(added)}, nil, make([]byte, 1000)}, 1) {
					added++
				}
				all, err, closed := s.Send(conn, nil)
				if err != nil || closed != nil {
					t.Fatal(err, closed)
				}
				full = !all
			}
			if s.Lost() == 0 {
				t.Error("nothing is left to be sent")
			}
			sent := make(chan error)
			go func() {
				err, closed := s.SendWait(conn, nil)
				sent <- errors.Join(err, closed)
			}()
			buf := make([]byte, 2000)
			for i := range added {
				far.SetReadDeadline(time.Now().Add(testenv.Timeout))
				if n, err := far.Read(buf); err != nil || n != 1001 || buf[0] != byte(i) {
					t.Fatalf("datagram %d: %d bytes, %d, %v", i, n, buf[0], err)
				}
			}
			if err := <-sent; err != nil || s.Lost() != 0 {
				t.Errorf("%v, %d lost", err, s.Lost())
			}
		})
	}
}

// TestSenderRoom adds until there is no room.
func TestSenderRoom(t *testing.T) {
	s := packet.NewSender()
	defer s.Free()
	one := []virtio.Segment{{Data: []byte("x")}}
	n := 0
	for s.Add(one, 0, nil) {
		n++
	}
	if n != 64 {
		t.Errorf("%d datagrams, want 64", n)
	}
	s.Reset()
	if many := make([]virtio.Segment, 128); !s.Add(many, 0, nil) {
		t.Error("an empty Sender has no room for 128 segments")
	}
	s.Reset()
	if s.AddParts(make([][]byte, 257), 1) || !s.Empty() {
		t.Error("257 parts were added")
	}
	if !s.AddParts(make([][]byte, 256), 1) {
		t.Error("an empty Sender has no room for 256 parts")
	}
}
