package stack_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
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

	"github.com/mdlayher/netlink"
	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/stack"
	"golang.org/x/sys/unix"
)

// newTUN makes a stack with a TUN.
func newTUN(t testing.TB, cfg stack.TUNConfig) (*Stack, *stack.TUN) {
	t.Helper()
	s := made(t, Config{})
	return s, testenv.Must(s.TUN(cfg))(t)
}

// buffers returns n buffers of a size.
func buffers(n, size int) (bufs [][]byte) {
	for range n {
		bufs = append(bufs, make([]byte, size))
	}
	return bufs
}

// A tunWire carries what one TUN sends to another, and back, until they are closed.
type tunWire struct {
	most    atomic.Int64 // packets of one Read
	largest atomic.Int64 // packet
	running sync.WaitGroup
}

// joinTUNs carries packets with so many buffers, from an offset on, until the TUNs are
// closed.
func joinTUNs(t testing.TB, a, b *stack.TUN, n, offset int) *tunWire {
	w := new(tunWire)
	carry := func(from, to *stack.TUN) {
		bufs, sizes := buffers(n, offset+1<<16), make([]int, n)
		out := make([][]byte, n)
		for {
			got, err := from.Read(bufs, sizes, offset)
			if err != nil {
				if !errors.Is(err, os.ErrClosed) || !errors.Is(err, net.ErrClosed) || got != 0 {
					t.Errorf("read %d packets: %v", got, err)
				}
				return
			}
			w.most.Store(max(w.most.Load(), int64(got)))
			for i := range got {
				w.largest.Store(max(w.largest.Load(), int64(sizes[i])))
				out[i] = bufs[i][:offset+sizes[i]]
			}
			if put, err := to.Write(out[:got], offset); err != nil && !errors.Is(err, os.ErrClosed) {
				t.Errorf("wrote %d packets of %d: %v", put, got, err)
			}
		}
	}
	w.running.Go(func() { carry(a, b) })
	w.running.Go(func() { carry(b, a) })
	return w
}

// tunPair makes two stacks, 10.9.0.1 and 10.9.0.2, fd09::1 and fd09::2, joined by TUNs.
func tunPair(t testing.TB, mtu, bufs, offset int) (a, b *Stack, w *tunWire) {
	t.Helper()
	var stacks [2]*Stack
	var tuns [2]*stack.TUN
	for i := range stacks {
		stacks[i], tuns[i] = newTUN(t, stack.TUNConfig{MTU: mtu, Addrs: testenv.Prefixes(fmt.Sprintf("10.9.0.%d/24", i+1), fmt.Sprintf("fd09::%d/64", i+1))})
	}
	w = joinTUNs(t, tuns[0], tuns[1], bufs, offset)
	t.Cleanup(func() {
		stacks[0].Close()
		stacks[1].Close()
		w.running.Wait()
	})
	return stacks[0], stacks[1], w
}

// TestTUN joins stacks by their TUNs.
func TestTUN(t *testing.T) {
	for _, tt := range []struct{ mtu, bufs, offset int }{
		{0, 128, 16}, // as wireguard-go does it
		{1280, 1, 0},
		{9000, 7, 1},
		{65535, 128, 0},
	} {
		t.Run(fmt.Sprintf("MTU %d, %d buffers, offset %d", tt.mtu, tt.bufs, tt.offset), func(t *testing.T) {
			netnstest.NoLeaks(t)
			a, b, w := tunPair(t, tt.mtu, tt.bufs, tt.offset)
			const size = 2 << 20
			for _, addr := range []string{"10.9.0.1:0", "[fd09::1]:0"} {
				transfer(t, a, b, addr, size)
			}
			transfer(t, b, a, "[fd09::2]:0", size)
			for _, host := range []string{"10.9.0.2:0", "[fd09::2]:0"} {
				echoSizes(t, a, b, host, tt.mtu)
			}
			if got := int(w.most.Load()); got > tt.bufs || tt.bufs > 1 && got < 2 {
				t.Errorf("at most %d packets at once, there are %d buffers", got, tt.bufs)
			}
			mtu := tt.mtu
			if mtu == 0 {
				mtu = 1500
			}
			if got := int(w.largest.Load()); got > mtu || got < mtu-100 {
				t.Errorf("the largest packet has %d bytes, the MTU is %d", got, mtu)
			}
			for _, s := range []*Stack{a, b} {
				st := s.Stats().Interfaces[0]
				if st.Name != "tun0" || st.RxFrames == 0 || st.TxFrames == 0 || st.RxBytes < size || st.RxDropped+st.TxDropped+st.GRORejected > 0 || st.Err != nil {
					t.Errorf("%+v", st)
				}
			}
		})
	}
}

// echoSizes sends datagrams of many sizes from a to b and back, also several with one call.
func echoSizes(t *testing.T, a, b *Stack, host string, mtu int) {
	t.Helper()
	server := testenv.ListenPacket(t, b, "udp", host).(*net.UDPConn)
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := server.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			server.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	c := testenv.Dial(t, a, "udp", server.LocalAddr().String())
	c.SetDeadline(time.Now().Add(testenv.Timeout))
	data, buf := make([]byte, 65507), make([]byte, 1<<16)
	new(pattern).Read(data)
	check := func(want []byte) {
		t.Helper()
		if n, err := c.Read(buf); err != nil || !bytes.Equal(buf[:n], want) {
			t.Fatalf("got %d bytes of %d: %v", n, len(want), err)
		}
	}
	for _, size := range []int{0, 1, 512, mtu - 48, mtu - 28, mtu - 27, mtu, 8999, 65000} {
		if size < 0 || size > len(data) {
			continue
		}
		testenv.Must(c.Write(data[:size]))(t)
		check(data[:size])
	}
	rc := testenv.Must(c.(*net.UDPConn).SyscallConn())(t)
	rc.Control(func(fd uintptr) {
		testenv.Check(t, unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1000))
	})
	testenv.Must(c.Write(data[:7500]))(t)
	for off := 0; off < 7500; off += 1000 {
		check(data[off:min(off+1000, 7500)])
	}
}

// echoRequest returns a packet of ICMP or ICMPv6 that asks for an answer.
func echoRequest(from, to string, n int) []byte {
	src, dst := netip.MustParseAddr(from), netip.MustParseAddr(to)
	body := append([]byte{8, 0, 0, 0, 1, 2, 3, 4}, make([]byte, n)...)
	for i := range n {
		body[8+i] = byte(i)
	}
	sum := func(b []byte) uint16 {
		var s uint32
		for i, v := range b {
			s += uint32(v) << (8 * (1 - i&1))
		}
		for s>>16 > 0 {
			s = s>>16 + s&0xffff
		}
		return ^uint16(s)
	}
	if src.Is4() {
		binary.BigEndian.PutUint16(body[2:], sum(body))
		h := append([]byte{0x45, 0, 0, 0, 0, 1, 0, 0, 64, 1, 0, 0}, append(src.AsSlice(), dst.AsSlice()...)...)
		binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(body)))
		binary.BigEndian.PutUint16(h[10:], sum(h))
		return append(h, body...)
	}
	body[0] = 128
	addrs := append(src.AsSlice(), dst.AsSlice()...)
	pseudo := binary.BigEndian.AppendUint32(slices.Clone(addrs), uint32(len(body)))
	binary.BigEndian.PutUint16(body[2:], sum(append(append(pseudo, 0, 0, 0, 58), body...)))
	h := append(binary.BigEndian.AppendUint16([]byte{0x60, 0, 0, 0}, uint16(len(body))), 58, 64)
	return append(append(h, addrs...), body...)
}

// ask writes echo requests, and returns how many answers have come, in order. What the
// stack sends by itself is skipped.
func ask(t testing.TB, tun *stack.TUN, requests [][]byte, bufs int, offset int) {
	t.Helper()
	var out [][]byte
	for _, r := range requests {
		out = append(out, append(make([]byte, offset), r...))
	}
	if n, err := tun.Write(out, offset); n != len(out) || err != nil {
		t.Fatalf("%d of %d packets were written: %v", n, len(out), err)
	}
	defer time.AfterFunc(testenv.Timeout, func() { tun.Close() }).Stop()
	in, sizes := buffers(bufs, offset+2000), make([]int, bufs)
	for len(requests) > 0 {
		n, err := tun.Read(in, sizes, offset)
		testenv.Check(t, err)
		for i := range n {
			p := in[i][offset : offset+sizes[i]]
			head, kind := 20, byte(0)
			if p[0]>>4 == 6 {
				head, kind = 40, 129
			}
			if len(p) <= head || p[head] != kind {
				continue
			}
			want := requests[0]
			if len(p) != len(want) || !bytes.Equal(p[head+4:], want[head+4:]) {
				t.Fatalf("got %x, want the answer to %x", p, want)
			}
			requests = requests[1:]
		}
	}
}

// TestTUNEcho is the network behind a TUN.
func TestTUNEcho(t *testing.T) {
	netnstest.NoLeaks(t)
	_, tun := newTUN(t, stack.TUNConfig{Addrs: testenv.Prefixes("10.9.0.1/24", "fd09::1/64")})
	var requests [][]byte
	for n := range 300 {
		requests = append(requests, echoRequest("10.9.0.2", "10.9.0.1", n), echoRequest("fd09::2", "fd09::1", n))
	}
	for _, bufs := range []int{1, 3, 128} {
		for batch := range slices.Chunk(requests, 200) { // the interface has a queue of 500
			ask(t, tun, batch, bufs, bufs%5)
		}
	}
	if n := tun.BatchSize(); n != 128 {
		t.Errorf("batches of %d packets", n)
	}
}

// TestTUNConfig has names, sizes and addresses, and what is refused.
func TestTUNConfig(t *testing.T) {
	netnstest.NoLeaks(t)
	s := made(t, Config{Interfaces: []Interface{{Name: "tun1"}}})
	for _, want := range []string{"tun0", "tun2"} {
		tun := testenv.Must(s.TUN(stack.TUNConfig{}))(t)
		if name, err := tun.Name(); name != want || err != nil {
			t.Errorf("the name is %q, %v, want %q", name, err, want)
		}
		if mtu, err := tun.MTU(); mtu != 1500 || err != nil {
			t.Errorf("the MTU is %d, %v", mtu, err)
		}
	}
	down := testenv.Must(s.TUN(stack.TUNConfig{Name: "other", MTU: 65535, Addrs: testenv.Prefixes("10.9.0.1/32", "fd09::1/128"), Down: true}))(t)
	if mtu, err := down.MTU(); mtu != 65535 || err != nil {
		t.Errorf("the MTU is %d, %v", mtu, err)
	}
	nl := testenv.Opened(s.RTNL())(t)
	l := testenv.Must(nl.Link(testenv.Must(nl.IfNameToIndex("other"))(t)))(t)
	if l.Flags&net.FlagUp != 0 || l.MTU != 65535 {
		t.Errorf("%+v", l)
	}
	if n, err := down.Write([][]byte{echoRequest("10.9.0.2", "10.9.0.1", 1)}, 0); n != 0 || err != nil {
		t.Errorf("wrote %d packets to an interface that is down: %v", n, err)
	}
	testenv.Check(t, nl.LinkSetUp(l.Index))
	testenv.Check(t, nl.RouteAdd(netip.MustParsePrefix("0.0.0.0/0"), netip.Addr{}, l.Index))
	ask(t, down, [][]byte{echoRequest("192.0.2.1", "10.9.0.1", 1)}, 1, 0)
	for _, tt := range []struct {
		cfg  stack.TUNConfig
		want string
		is   error
	}{
		{stack.TUNConfig{Name: "other"}, `interface other: name "other" is that of another interface too`, fs.ErrExist},
		{stack.TUNConfig{Name: "lo"}, `interface lo: name "lo" belongs to loopback`, nil},
		{stack.TUNConfig{Name: "a/b"}, `interface "a/b": name`, nil},
		{stack.TUNConfig{MTU: 65536}, `interface tun3: MTU 65536 is not within 68 and 65535`, nil},
		{stack.TUNConfig{MTU: 67}, `MTU 67 is not within 68`, nil},
		{stack.TUNConfig{MTU: 1279, Addrs: testenv.Prefixes("fd09::1/64")}, `IPv6 needs an MTU of 1280`, nil},
		{stack.TUNConfig{Addrs: testenv.Prefixes("10.9.0.0/24")}, `that of the network`, nil},
	} {
		tun, err := s.TUN(tt.cfg)
		if err == nil || tun != nil || !strings.Contains(err.Error(), tt.want) || tt.is != nil && !errors.Is(err, tt.is) {
			t.Errorf("%+v: got %v, want %s", tt.cfg, err, tt.want)
		}
		if _, ok := errors.AsType[*stack.InterfaceError](err); !ok {
			t.Errorf("%+v: got %T", tt.cfg, err)
		}
	}
	if got := len(s.Stats().Interfaces); got != 4 {
		t.Errorf("%d interfaces", got)
	}
}

// TestTUNEnds closes TUNs while they are used.
func TestTUNEnds(t *testing.T) {
	frame := echoRequest("10.9.0.2", "10.9.0.1", 100)
	type use struct {
		s   *Stack
		tun *stack.TUN
	}
	for _, tt := range []struct {
		name   string
		end    func(u use) error
		closed bool // else it was removed by others
	}{
		{"Close", func(u use) error { return u.tun.Close() }, true},
		{"Close twice", func(u use) error { go u.tun.Close(); return u.tun.Close() }, true},
		{"Close of the stack", func(u use) error { return u.s.Close() }, true},
		{"both", func(u use) error { go u.s.Close(); return u.tun.Close() }, true},
		{"Close while it is removed", func(u use) error {
			removed := make(chan error)
			go func() { removed <- u.s.RemoveInterface("tun0") }()
			nl, err := u.s.RTNL()
			if err != nil {
				return err
			}
			defer nl.Close()
			err = u.tun.Close()
			if _, there := nl.IfNameToIndex("tun0"); !errors.Is(there, unix.ENODEV) {
				err = errors.Join(err, fmt.Errorf("the interface after Close: %w", there))
			}
			if removed := <-removed; removed != nil && !errors.Is(removed, fs.ErrNotExist) {
				err = removed
			}
			return err
		}, true},
		{"RemoveInterface", func(u use) error { return u.s.RemoveInterface("tun0") }, true},
		{"RTNL", func(u use) error {
			nl, err := u.s.RTNL()
			if err != nil {
				return err
			}
			defer nl.Close()
			return nl.LinkDel(u.s.Stats().Interfaces[0].Index)
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			netnstest.NoLeaks(t)
			s, tun := newTUN(t, stack.TUNConfig{Addrs: testenv.Prefixes("10.9.0.1/24")})
			errs := make(chan error, 4)
			waiting := make(chan bool, 4)
			for range 2 {
				go func() {
					bufs, sizes := buffers(2, 2000), make([]int, 2)
					for {
						if _, err := tun.Read(bufs, sizes, 0); err != nil {
							errs <- err
							return
						}
					}
				}()
				go func() {
					for n := 0; ; n++ {
						if _, err := tun.Write([][]byte{bytes.Clone(frame)}, 0); err != nil {
							errs <- err
							return
						}
						if n == 10 {
							waiting <- true
						}
					}
				}()
			}
			<-waiting
			<-waiting
			testenv.Check(t, tt.end(use{s, tun}))
			check := func(err error) {
				t.Helper()
				if errors.Is(err, os.ErrClosed) != tt.closed || errors.Is(err, net.ErrClosed) != tt.closed || errors.Is(err, unix.EBADFD) == tt.closed || !strings.HasPrefix(err.Error(), "stack: interface tun0: ") {
					t.Errorf("got %v", err)
				}
			}
			for range 4 {
				check(<-errs)
			}
			_, err := tun.Read(buffers(1, 2000), make([]int, 1), 0)
			check(err)
			_, err = tun.Write([][]byte{frame}, 0)
			check(err)
			if st := s.Stats().Interfaces; !tt.closed && (len(st) != 1 || !errors.Is(st[0].Err, unix.EBADFD)) {
				t.Errorf("%+v", st)
			}
			testenv.Check(t, tun.Close())
			if _, err := tun.Read(buffers(1, 2000), make([]int, 1), 0); !errors.Is(err, os.ErrClosed) {
				t.Errorf("got %v after Close", err)
			}
		})
	}
	var none *stack.TUN
	if err := none.Close(); !errors.Is(err, os.ErrInvalid) {
		t.Errorf("a nil TUN: %v", err)
	}
	if tun, err := (*stack.Stack)(nil).TUN(stack.TUNConfig{}); tun != nil || !errors.Is(err, stack.ErrNoStack) {
		t.Errorf("of a nil Stack: %v", err)
	}
}

// TestTUNChanged changes an interface by netlink while it is used.
func TestTUNChanged(t *testing.T) {
	netnstest.NoLeaks(t)
	s, tun := newTUN(t, stack.TUNConfig{Addrs: testenv.Prefixes("10.9.0.1/24")})
	request := [][]byte{echoRequest("10.9.0.2", "10.9.0.1", 1)}
	ask(t, tun, request, 1, 0)
	index := s.Stats().Interfaces[0].Index
	nl := testenv.Opened(s.RTNL())(t)
	for range 2 {
		waits := make(chan error)
		go func() {
			_, err := tun.Read(buffers(1, 2000), make([]int, 1), 0)
			waits <- err
		}()
		testenv.Check(t, nl.LinkSetDown(index))
		if n, err := tun.Write([][]byte{bytes.Clone(request[0])}, 0); n != 0 || err != nil {
			t.Errorf("wrote %d packets while the interface is down: %v", n, err)
		}
		testenv.Check(t, nl.LinkSetUp(index))
		testenv.Check(t, errors.Join(errorOf(tun.Write([][]byte{bytes.Clone(request[0])}, 0)), <-waits))
		ask(t, tun, request, 1, 0)
	}
	testenv.Check(t, nl.LinkSetMTU(index, 1300))
	testenv.Check(t, s.Run(t.Context(), "ip link set tun0 down; ip link set tun0 name other up"))
	if name, err := tun.Name(); name != "other" || s.Stats().Interfaces[0].Name != "other" || err != nil {
		t.Errorf("the name is %q, %v", name, err)
	}
	if mtu, err := tun.MTU(); mtu != 1300 || err != nil {
		t.Errorf("the MTU is %d, %v", mtu, err)
	}
	ask(t, tun, request, 1, 0)
	if st := s.Stats().Interfaces[0]; st.RxDropped != 2 || st.Err != nil {
		t.Errorf("%+v", st)
	}
}

// TestTUNElsewhere makes TUNs in a namespace that was joined, and in one with a user
// namespace of its own.
func TestTUNElsewhere(t *testing.T) {
	netnstest.NoLeaks(t)
	s := made(t, Config{})
	ns := testenv.Must(s.NetNS())(t)
	defer ns.Close()
	for _, cfg := range []Config{{NetNS: fmt.Sprintf("/proc/self/fd/%d", ns.Fd())}, {Isolated: true}} {
		other := made(t, cfg)
		tun := testenv.Must(other.TUN(stack.TUNConfig{Addrs: testenv.Prefixes("10.9.0.1/24")}))(t)
		ask(t, tun, [][]byte{echoRequest("10.9.0.2", "10.9.0.1", 1)}, 1, 0)
		testenv.Check(t, other.Close())
		if _, err := tun.Read(buffers(1, 2000), make([]int, 1), 0); !errors.Is(err, os.ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
	nl := testenv.Opened(s.RTNL())(t)
	if l := testenv.Must(nl.Links())(t); len(l) != 1 {
		t.Errorf("interfaces are left: %v", l)
	}
}

// TestRemovedBeside removes interfaces while their descriptors have copies, as in each child
// of the process until it executes its program.
func TestRemovedBeside(t *testing.T) {
	s := made(t, Config{})
	ns := testenv.Opened(s.NetNS())(t)
	nl := testenv.Opened(s.RTNL())(t)
	joined := made(t, Config{NetNS: fmt.Sprintf("/proc/self/fd/%d", ns.Fd())})
	tap := Interface{VNL: "null://", Kind: stack.KindTAP, Name: "t"}
	tun := stack.TUNConfig{Name: "t"}
	for name, remove := range map[string]func(copied func()) error{
		"TAP": func(copied func()) error {
			testenv.Check(t, s.AddInterface(t.Context(), tap))
			copied()
			return s.RemoveInterface("t")
		},
		"TUN": func(copied func()) error {
			tun := testenv.Must(s.TUN(tun))(t)
			copied()
			return tun.Close()
		},
		"Close": func(copied func()) error {
			testenv.Check(t, joined.AddInterface(t.Context(), tap))
			tun := tun
			tun.Name = "u"
			testenv.Must(joined.TUN(tun))(t)
			copied()
			return joined.Close()
		},
	} {
		testenv.Check(t, remove(func() { copyTUNs(t) }))
		for _, l := range testenv.Must(nl.Links())(t) {
			if l.Index != 1 {
				t.Errorf("%s: %v is left", name, l)
			}
		}
	}
}

// TestMovedOut closes a stack after its interfaces were moved to another one: they end all
// the same.
func TestMovedOut(t *testing.T) {
	netnstest.NoLeaks(t)
	to := made(t, Config{})
	ns := testenv.Must(to.NetNS())(t)
	defer ns.Close()
	s := made(t, Config{Interfaces: []Interface{{VNL: "null://", Kind: stack.KindTAP}}})
	testenv.Must(s.TUN(stack.TUNConfig{}))(t)
	nl := testenv.Must(s.RTNL())(t)
	for _, i := range s.Stats().Interfaces {
		info := binary.NativeEndian.AppendUint32(make([]byte, 4, unix.SizeofIfInfomsg), uint32(i.Index))
		ae := netlink.NewAttributeEncoder()
		ae.Uint32(unix.IFLA_NET_NS_FD, uint32(ns.Fd()))
		body := append(info[:unix.SizeofIfInfomsg], testenv.Must(ae.Encode())(t)...)
		testenv.Must(nl.Execute(netlink.Message{Header: netlink.Header{Type: unix.RTM_NEWLINK}, Data: body}))(t)
	}
	nl.Close()
	testenv.Check(t, s.Close())
	netnstest.Settle()
	there := testenv.Opened(to.RTNL())(t)
	if l := testenv.Must(there.Links())(t); len(l) != 1 {
		t.Errorf("interfaces are left: %v", l)
	}
}

// copyTUNs makes a copy of each descriptor of a TAP or TUN, for the time of the test.
func copyTUNs(t *testing.T) {
	t.Helper()
	n := 0
	for _, e := range testenv.Must(os.ReadDir("/proc/self/fd"))(t) {
		fd, _ := strconv.Atoi(e.Name())
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && to == "/dev/net/tun" {
			c := testenv.Must(unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0))(t)
			t.Cleanup(func() { unix.Close(c) })
			n++
		}
	}
	if n == 0 {
		t.Error("there is no descriptor of a TAP")
	}
}

// TestTUNAgain takes the name of a TUN that was closed.
func TestTUNAgain(t *testing.T) {
	s := made(t, Config{})
	for range 2 {
		tun := testenv.Must(s.TUN(stack.TUNConfig{Name: "t", Addrs: testenv.Prefixes("10.9.0.1/24")}))(t)
		ask(t, tun, [][]byte{echoRequest("10.9.0.2", "10.9.0.1", 1)}, 1, 0)
		testenv.Check(t, tun.Close())
	}
	if got := len(s.Stats().Interfaces); got != 0 {
		t.Errorf("%d interfaces", got)
	}
	testenv.Check(t, s.Close())
	if _, err := s.TUN(stack.TUNConfig{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// TestTUNMisuse has arguments that make no sense, and packets that are none.
func TestTUNMisuse(t *testing.T) {
	s, tun := newTUN(t, stack.TUNConfig{Addrs: testenv.Prefixes("10.9.0.1/24")})
	for _, err := range []error{
		errorOf(tun.Read(nil, nil, 0)),
		errorOf(tun.Read(buffers(2, 2000), make([]int, 1), 0)),
		errorOf(tun.Read(buffers(1, 2000), make([]int, 1), -1)),
		errorOf(tun.Write(buffers(1, 2000), -1)),
	} {
		if !errors.Is(err, os.ErrInvalid) {
			t.Errorf("got %v", err)
		}
	}
	request := echoRequest("10.9.0.2", "10.9.0.1", 100)
	truncated := bytes.Clone(request[:50])
	none := [][]byte{nil, {}, {0x45}, request[:19], append([]byte{0x60}, make([]byte, 38)...), make([]byte, 100), append([]byte{0x45}, make([]byte, 65535)...)}
	if n, err := tun.Write(append(none, truncated, bytes.Clone(request)), 0); n != 2 || err != nil {
		t.Errorf("wrote %d packets, %v", n, err)
	}
	if n, err := tun.Write([][]byte{request}, len(request)+1); n != 0 || err != nil {
		t.Errorf("wrote %d packets, %v", n, err)
	}
	if st := s.Stats().Interfaces[0]; st.RxDropped != uint64(len(none)+1) || st.RxFrames != 2 {
		t.Errorf("%+v", st)
	}
	// The answer does not fit, the next one does.
	small, sizes := buffers(1, 127), make([]int, 1)
	for {
		n, err := tun.Read(small, sizes, 0)
		if errors.Is(err, io.ErrShortBuffer) && n == 0 && strings.Contains(err.Error(), "a packet of 128 bytes is too large for a buffer of 127 bytes") {
			break
		}
		testenv.Check(t, err)
	}
	ask(t, tun, [][]byte{echoRequest("10.9.0.2", "10.9.0.1", 99)}, 1, 0)
	if st := s.Stats().Interfaces[0]; st.TxDropped != 1 {
		t.Errorf("%+v", st)
	}
}

// errorOf returns the error of Read or Write.
func errorOf(_ int, err error) error { return err }

// TestTUNFile hands the descriptor over.
func TestTUNFile(t *testing.T) {
	netnstest.NoLeaks(t)
	s, tun := newTUN(t, stack.TUNConfig{Addrs: testenv.Prefixes("10.9.0.1/24")})
	ask(t, tun, [][]byte{echoRequest("10.9.0.2", "10.9.0.1", 1)}, 1, 0)
	ended := make(chan error)
	go func() {
		for {
			if _, err := tun.Read(buffers(1, 2000), make([]int, 1), 0); err != nil {
				ended <- err
				return
			}
		}
	}()
	f := testenv.Must(tun.File())(t)
	defer f.Close()
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if _, err := tun.File(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("handed over twice: %v", err)
	}
	request := echoRequest("10.9.0.2", "10.9.0.1", 50)
	testenv.Must(f.Write(append(make([]byte, 10), request...)))(t)
	buf := make([]byte, 1<<16)
	f.SetReadDeadline(time.Now().Add(testenv.Timeout))
	for {
		n := testenv.Must(f.Read(buf))(t)
		if n == 10+len(request) && bytes.Equal(buf[10+24:n], request[24:]) {
			break
		}
	}
	if name, err := tun.Name(); name != "tun0" || err != nil {
		t.Errorf("the name is %q, %v", name, err)
	}
	if st := s.Stats().Interfaces[0]; st.RxFrames != 2 || st.TxFrames < 2 {
		t.Errorf("%+v", st)
	}
	go func() {
		for {
			if _, err := f.Read(buf); err != nil {
				ended <- err
				return
			}
		}
	}()
	testenv.Check(t, s.Close())
	if err := <-ended; err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if st := s.Stats().Interfaces[0]; st.RxFrames != 2 {
		t.Errorf("%+v", st)
	}
}

// FuzzTUN writes anything: nothing may panic or end the interface, nor be counted wrong.
func FuzzTUN(f *testing.F) {
	s, err := New(context.Background(), Config{})
	testenv.Check(f, err)
	f.Cleanup(func() { s.Close() })
	tun := testenv.Must(s.TUN(stack.TUNConfig{Addrs: testenv.Prefixes("10.9.0.1/24", "fd09::1/64")}))(f)
	go func() {
		bufs, sizes := buffers(128, 1<<16), make([]int, 128)
		for {
			if _, err := tun.Read(bufs, sizes, 0); err != nil {
				return
			}
		}
	}()
	a, b := echoRequest("10.9.0.2", "10.9.0.1", 10), echoRequest("fd09::2", "fd09::1", 10)
	f.Add(a, b, 0)
	f.Add(a[:20], b[:40], 1)
	f.Add([]byte{}, []byte{0x45}, 3)
	f.Fuzz(func(t *testing.T, a, b []byte, offset int) {
		before := s.Stats().Interfaces[0]
		n, err := tun.Write([][]byte{a, b, bytes.Clone(b)}, offset)
		after := s.Stats().Interfaces[0]
		if offset < 0 {
			if n != 0 || !errors.Is(err, os.ErrInvalid) {
				t.Errorf("wrote %d packets, %v", n, err)
			}
			return
		}
		taken, dropped := after.RxFrames-before.RxFrames, after.RxDropped-before.RxDropped
		if err != nil || uint64(n) != taken || taken+dropped != 3 {
			t.Errorf("wrote %d packets, %v; counted %d, and %d dropped", n, err, taken, dropped)
		}
	})
}

// TestTUNAllocs moves packets without allocating.
func TestTUNAllocs(t *testing.T) {
	_, tun := newTUN(t, stack.TUNConfig{Addrs: testenv.Prefixes("10.9.0.1/24")})
	request := echoRequest("10.9.0.2", "10.9.0.1", 1000)
	out, in, sizes := buffers(16, len(request)), buffers(128, 2000), make([]int, 128)
	if got := testing.AllocsPerRun(100, func() {
		for _, b := range out {
			copy(b, request)
		}
		if n, err := tun.Write(out, 0); n != len(out) || err != nil {
			t.Fatal(n, err)
		}
		for n := 0; n < len(out); {
			m, err := tun.Read(in, sizes, 0)
			testenv.Check(t, err)
			n += m
		}
	}); got > 0 && !testenv.Race { // which empties pools
		t.Errorf("%v allocations for %d packets", got, len(out))
	}
}

// BenchmarkTUN is a stream of TCP over two TUNs and a loop that carries the packets.
func BenchmarkTUN(b *testing.B) {
	x, y, _ := tunPair(b, 0, 128, 16)
	ln := testenv.Listen(b, x, "tcp", "10.9.0.1:0")
	from := testenv.Dial(b, y, "tcp", ln.Addr().String())
	to := testenv.Must(ln.Accept())(b)
	defer to.Close()
	b.ReportAllocs()
	testenv.Stream(b, from, to)
	from.Close()
}
