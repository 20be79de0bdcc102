package forward

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/testenv/private"
)

func udp(t testing.TB) *net.UDPConn {
	t.Helper()
	c := testenv.Opened(net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}))(t)
	c.SetDeadline(time.Now().Add(testenv.Timeout))
	return c
}

// flows carries datagrams from a new socket to the server.
func flows(t testing.TB, server net.Addr, cfg Config) *Datagrams {
	t.Helper()
	return carrying(t, testenv.Must(net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}))(t), server, cfg)
}

func carrying(t testing.TB, c *net.UDPConn, server net.Addr, cfg Config) *Datagrams {
	t.Helper()
	if cfg.Dial == nil {
		cfg.Dial = func(context.Context, net.Addr) (net.Conn, error) { return net.Dial("udp", server.String()) }
	}
	cfg.Timeout = testenv.Timeout
	if cfg.Max == 0 {
		cfg.Max = 1000
	}
	if cfg.Idle == 0 {
		cfg.Idle = testenv.Timeout
	}
	d := testenv.Must(NewDatagrams(c, cfg))(t)
	t.Cleanup(func() { testenv.Check(t, d.Close()) })
	return d
}

func asker(t testing.TB, d *Datagrams) *net.UDPConn {
	t.Helper()
	c := testenv.Opened(net.DialUDP("udp", nil, d.Addr().(*net.UDPAddr)))(t)
	c.SetDeadline(time.Now().Add(testenv.Timeout))
	return c
}

// send writes, whatever an earlier datagram met.
func send(t testing.TB, c *net.UDPConn, text string) {
	t.Helper()
	_, err := c.Write([]byte(text))
	testenv.Check(t, err)
}

func wantText(t testing.TB, c *net.UDPConn, want string) (from net.Addr) {
	t.Helper()
	b := make([]byte, 100)
	n, from, err := c.ReadFrom(b)
	if err != nil || string(b[:n]) != want {
		t.Fatalf("got %q, %v, want %q", b[:n], err, want)
	}
	return from
}

// TestFlows has a flow for each client, which ends when it was silent for the time, and
// not before.
func TestFlows(t *testing.T) {
	testenv.NoLeaks(t)
	s := udp(t)
	d := flows(t, s.LocalAddr(), Config{})
	a, b := asker(t, d), asker(t, d)
	var froms [2]net.Addr
	for i, c := range []*net.UDPConn{a, b} {
		send(t, c, "one")
		froms[i] = wantText(t, s, "one")
	}
	if froms[0].String() == froms[1].String() {
		t.Errorf("two clients are %v", froms[0])
	}
	s.WriteTo([]byte("for b"), froms[1])
	wantText(t, b, "for b")
	s.WriteTo([]byte("for a"), froms[0])
	wantText(t, a, "for a")

	silent := func(since time.Time) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if n := d.unanswered.Len(); n != 0 {
			t.Errorf("%d flows are noted as unanswered", n)
		}
		for _, f := range d.flows {
			f.active.Store(since.UnixNano())
			f.conn.SetReadDeadline(time.Unix(1, 0)) // the timer fires
		}
	}
	silent(time.Now()) // the client has just sent
	send(t, a, "same flow")
	if from := wantText(t, s, "same flow"); from.String() != froms[0].String() {
		t.Errorf("the flow was %v, and is %v", froms[0], from)
	}
	testenv.Eventually(t, "no flow", func() bool {
		silent(time.Now().Add(-testenv.Timeout)) // again, if the flow has just set its own deadline
		return d.Stats().Open == 0
	})
	send(t, a, "again")
	wantText(t, s, "again")
	if st := d.Stats(); st.Accepted != 3 {
		t.Errorf("%+v", st)
	}
}

// TestFlood has many new clients: one that was answered stays, and the others make room
// for each other after a second, no sooner.
func TestFlood(t *testing.T) {
	for _, idle := range []time.Duration{unansweredIdle / 2, 2 * unansweredIdle} {
		t.Run(idle.String(), func(t *testing.T) { flood(t, idle) })
	}
}

func flood(t *testing.T, idle time.Duration) {
	testenv.NoLeaks(t)
	s := udp(t)
	d := flows(t, s.LocalAddr(), Config{Max: 5, Idle: idle})
	a := asker(t, d)
	send(t, a, "hello")
	from := wantText(t, s, "hello")
	s.WriteTo([]byte("answer"), from)
	wantText(t, a, "answer")
	for range 20 {
		send(t, asker(t, d), "flood")
	}
	testenv.Eventually(t, "the flood", func() bool { st := d.Stats(); return st.Accepted+st.Refused == 21 })
	if st := d.Stats(); st.Accepted != 5 || st.Refused != 16 || st.Datagrams.Dropped != 16 || st.Open != 5 {
		t.Errorf("%+v", st)
	}
	// As if they were older.
	d.mu.Lock()
	for e := d.unanswered.Front(); e != nil; e = e.Next() {
		e.Value.(*flow).made = time.Now().Add(-time.Hour)
	}
	d.mu.Unlock()
	for range 4 {
		send(t, asker(t, d), "flood")
	}
	testenv.Eventually(t, "the flood", func() bool { return d.Stats().Accepted == 9 })
	for range 8 {
		wantText(t, s, "flood")
	}
	send(t, a, "still here")
	if got := wantText(t, s, "still here"); got.String() != from.String() {
		t.Errorf("the flow was %v, and is %v", from, got)
	}
	if st := d.Stats(); st.Open != 5 {
		t.Errorf("%+v", st)
	}
}

// TestNoServer has nobody where datagrams go; the flow works when somebody is there.
func TestNoServer(t *testing.T) {
	testenv.NoLeaks(t)
	s := udp(t)
	addr := s.LocalAddr().(*net.UDPAddr)
	s.Close()
	d := flows(t, addr, Config{})
	a := asker(t, d)
	for i := range 3 {
		send(t, a, "lost")
		testenv.Eventually(t, "a refusal", func() bool { return d.Stats().Datagrams.Dropped > uint64(i) })
	}
	s = testenv.Opened(net.ListenUDP("udp", addr))(t)
	s.SetDeadline(time.Now().Add(testenv.Timeout))
	send(t, a, "found")
	wantText(t, s, "found")
	if st := d.Stats(); st.Open != 1 || st.Err == nil {
		t.Errorf("%+v", st)
	}
}

// TestNoSocket has no socket for a flow, for a while.
func TestNoSocket(t *testing.T) {
	testenv.NoLeaks(t)
	s := udp(t)
	var have atomic.Bool
	d := flows(t, s.LocalAddr(), Config{Dial: func(context.Context, net.Addr) (net.Conn, error) {
		if !have.Load() {
			return nil, unix.EMFILE
		}
		return net.Dial("udp", s.LocalAddr().String())
	}})
	a := asker(t, d)
	send(t, a, "lost")
	testenv.Eventually(t, "a failure", func() bool { return d.Stats().Failed == 1 && d.Stats().Datagrams.Dropped == 1 })
	have.Store(true)
	send(t, a, "found")
	wantText(t, s, "found")
	testenv.Check(t, d.Close())
	testenv.Check(t, d.Close())
	if st := d.Stats(); st.Open != 0 {
		t.Errorf("%+v", st)
	}
}

// TestAsked has answers leave from the address that was asked, or from one of the
// interface if that was a broadcast or multicast address.
func TestAsked(t *testing.T) {
	testenv.NoLeaks(t)
	dev := testenv.Must(net.InterfaceByName("test0"))(t)
	var linkLocal string
	for _, a := range testenv.Must(dev.Addrs())(t) {
		if ip := a.(*net.IPNet).IP; ip.IsLinkLocalUnicast() {
			linkLocal = ip.String()
		}
	}
	testenv.Check(t, private.AwaitIPv6(testenv.Timeout, linkLocal))
	for _, tt := range []struct{ network, from, ask, want string }{
		{"udp", "127.0.0.1", "127.0.0.9", "127.0.0.9"},
		{"udp", "127.0.0.1", "127.255.255.255", "127.0.0.1"},
		{"udp4", "127.0.0.1", "127.255.255.255", "127.0.0.1"},
		{"udp", "fd09::1", "ff02::1", "fd09::1"},
		{"udp6", "fd09::1", "ff02::1", "fd09::1"},
		{"udp", "fd09::1", linkLocal, linkLocal},
	} {
		s := udp(t)
		l := testenv.Must(net.ListenPacket(tt.network, ":0"))(t).(*net.UDPConn)
		d := carrying(t, l, s.LocalAddr(), Config{})
		c := testenv.Opened(net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(tt.from)}))(t)
		c.SetDeadline(time.Now().Add(testenv.Timeout))
		to := &net.UDPAddr{IP: net.ParseIP(tt.ask), Port: d.Addr().(*net.UDPAddr).Port}
		if to.IP.IsLinkLocalUnicast() || to.IP.IsLinkLocalMulticast() && to.IP.To4() == nil {
			to.Zone = dev.Name
		}
		_, err := c.WriteTo([]byte("hello"), to)
		testenv.Check(t, err)
		s.WriteTo([]byte("answer"), wantText(t, s, "hello"))
		if from := wantText(t, c, "answer").(*net.UDPAddr).IP.String(); from != tt.want {
			t.Errorf("%s of %s to %s: the answer is from %s, want %s", tt.network, tt.from, tt.ask, from, tt.want)
		}
	}
}

// setsockopt sets an option of a connection to a value.
func setsockopt(t testing.TB, c syscall.Conn, level, option, value int) {
	t.Helper()
	raw := testenv.Must(c.SyscallConn())(t)
	var err error
	testenv.Check(t, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, value) }))
	testenv.Check(t, err)
}

// segmented is the control message with which the kernel cuts a datagram.
func segmented(size uint16) []byte {
	b := make([]byte, unix.CmsgSpace(2))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(b[unix.CmsgLen(0):], size)
	return b
}

// TestBoundaries carries datagrams that arrive together, of all sizes, some of them joined by
// the sender's kernel: they stay apart, whole and in order, and answers come from the
// address that was asked. The kernel cuts what the forward sends, or refuses to.
func TestBoundaries(t *testing.T) {
	const joined, joinedSize = 11, 700 // the last one is shorter
	sizes := slices.Concat(slices.Repeat([]int{100}, 40), []int{60, 100, 0, 0, 100, 101, 100}, slices.Repeat([]int{1200}, 20),
		[]int{30000, 20000, 20000, 1}, slices.Repeat([]int{joinedSize}, joined-1), []int{300}, []int{65507})
	total, all := 0, uint64(len(sizes))
	var content [][]byte
	for i, n := range sizes {
		content = append(content, bytes.Repeat([]byte{byte(i)}, n))
		total += n
	}
	for _, tt := range []struct {
		name, listen, ask string
		refuse            bool
	}{
		{name: "one address", listen: "127.0.0.1:0", ask: "127.0.0.1"},
		{name: "IPv4", listen: "0.0.0.0:0", ask: "127.0.0.9"},
		{name: "IPv6", listen: "[::]:0", ask: "::1"},
		{name: "both", listen: "[::]:0", ask: "127.0.0.9"},
		{name: "refused", listen: "127.0.0.1:0", ask: "127.0.0.1", refuse: true},
		{name: "refused, any address", listen: "0.0.0.0:0", ask: "127.0.0.9", refuse: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			s := udp(t)
			sent := make(chan struct{})
			c := testenv.Must(net.ListenPacket("udp", tt.listen))(t).(*net.UDPConn)
			d := carrying(t, c, s.LocalAddr(), Config{Dial: func(context.Context, net.Addr) (net.Conn, error) {
				<-sent
				c, err := net.Dial("udp", s.LocalAddr().String())
				if tt.refuse {
					noCuts(t, c.(*net.UDPConn))
				}
				return c, err
			}})
			if tt.refuse {
				noCuts(t, c)
			}
			a := testenv.Opened(net.DialUDP("udp", nil, &net.UDPAddr{IP: net.ParseIP(tt.ask), Port: d.Addr().(*net.UDPAddr).Port}))(t)
			a.SetDeadline(time.Now().Add(testenv.Timeout))
			// What its buffer has room for is there before the flow is.
			first, last := content[:len(sizes)-joined-1], content[len(sizes)-1]
			for _, b := range first {
				testenv.Must(a.Write(b))(t)
			}
			_, _, err := a.WriteMsgUDP(bytes.Join(content[len(first):len(sizes)-1], nil), segmented(joinedSize), nil)
			testenv.Check(t, err)
			close(sent)
			var server net.Addr
			buf := make([]byte, 1<<16)
			want := func(c *net.UDPConn, i int, b []byte) (from net.Addr) {
				t.Helper()
				n, from, err := c.ReadFrom(buf)
				if err != nil || !bytes.Equal(buf[:n], b) {
					t.Fatalf("datagram %d: %d bytes, %v, want %d", i, n, err, len(b))
				}
				return from
			}
			for i, b := range content {
				if i == len(sizes)-1 {
					testenv.Must(a.Write(last))(t)
				}
				server = want(s, i, b)
			}
			for _, b := range first {
				testenv.Must(s.WriteTo(b, server))(t)
			}
			_, _, err = s.WriteMsgUDP(bytes.Join(content[len(first):len(sizes)-1], nil), segmented(joinedSize), server.(*net.UDPAddr))
			testenv.Check(t, err)
			for i, b := range content {
				if i == len(sizes)-1 {
					testenv.Must(s.WriteTo(last, server))(t)
				}
				want(a, i, b)
			}
			testenv.Eventually(t, "all counted", func() bool {
				st := d.Stats()
				return st.BytesIn == uint64(total) && st.BytesOut == uint64(total) && st.Datagrams == DatagramStats{In: all, Out: all}
			}, func() string { return fmt.Sprintf("%+v", d.Stats()) })
		})
	}
}

// noCuts has the kernel refuse to cut what a socket sends: without checksums it cannot.
func noCuts(t testing.TB, c *net.UDPConn) {
	t.Helper()
	setsockopt(t, c, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1)
}

// TestCut has datagrams of one size that arrive together leave as one.
func TestCut(t *testing.T) {
	testenv.NoLeaks(t)
	s := udp(t)
	setsockopt(t, s, unix.SOL_UDP, unix.UDP_GRO, 1)
	sent := make(chan struct{})
	d := flows(t, s.LocalAddr(), Config{Dial: func(context.Context, net.Addr) (net.Conn, error) {
		<-sent
		return net.Dial("udp", s.LocalAddr().String())
	}})
	a := asker(t, d)
	const size, all = 100, 1 + packet.ManySlots
	for range all {
		testenv.Must(a.Write(make([]byte, size)))(t)
	}
	close(sent)
	// Those that the forward has received before it made the flow, and the others.
	buf, got := make([]byte, 1<<16), 0
	for range 2 {
		got += testenv.Must(s.Read(buf))(t)
	}
	if got != all*size {
		t.Errorf("received %d bytes at twice, want %d", got, all*size)
	}
}

// TestNoGarbage has datagrams take no memory.
func TestNoGarbage(t *testing.T) {
	s := udp(t)
	c := testenv.Must(net.ListenPacket("udp", ":0"))(t).(*net.UDPConn)
	d := carrying(t, c, s.LocalAddr(), Config{})
	a := testenv.Opened(net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: d.Addr().(*net.UDPAddr).Port}))(t)
	a.SetDeadline(time.Now().Add(testenv.Timeout))
	b := make([]byte, 100)
	allocs := testing.AllocsPerRun(1000, func() {
		testenv.Must(a.Write(b))(t)
		n, from, err := s.ReadFromUDPAddrPort(b)
		testenv.Check(t, err)
		testenv.Must(s.WriteToUDPAddrPort(b[:n], from))(t)
		testenv.Must(a.Read(b))(t)
	})
	if !testenv.Race && allocs > 0 {
		t.Errorf("%v allocations for each datagram and its answer", allocs)
	}
}
