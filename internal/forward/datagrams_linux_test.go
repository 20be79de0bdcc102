package forward

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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
	silent(time.Now().Add(-testenv.Timeout))
	testenv.Eventually(t, "no flow", func() bool { return d.Stats().Open == 0 })
	send(t, a, "again")
	wantText(t, s, "again")
	if st := d.Stats(); st.Accepted != 3 {
		t.Errorf("%+v", st)
	}
}

// TestFlood has many new clients: one that was answered stays, and the others make room
// for each other after a second, no sooner.
func TestFlood(t *testing.T) {
	testenv.NoLeaks(t)
	s := udp(t)
	d := flows(t, s.LocalAddr(), Config{Max: 5})
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
