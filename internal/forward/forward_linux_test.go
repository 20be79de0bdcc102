package forward

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"github.com/pires/go-proxyproto"
	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// started carries connections from a new listener to a server.
func started(t testing.TB, server net.Addr, cfg Config) *Streams {
	t.Helper()
	l := testenv.Must(net.Listen("tcp", "127.0.0.1:0"))(t)
	return serving(t, l, server, cfg)
}

func serving(t testing.TB, l net.Listener, server net.Addr, cfg Config) *Streams {
	if cfg.Dial == nil {
		cfg.Dial = func(ctx context.Context, _ net.Addr) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, server.Network(), server.String())
		}
	}
	if cfg.Max == 0 {
		cfg.Max = 1000
	}
	cfg.Timeout = testenv.Timeout
	s := NewStreams(l, cfg)
	t.Cleanup(func() { testenv.Check(t, s.Close()) })
	return s
}

// server listens, and returns the connections that it accepts.
func server(t testing.TB) (net.Listener, func() net.Conn) {
	t.Helper()
	l := testenv.Opened(net.Listen("tcp", "127.0.0.1:0"))(t)
	return l, func() net.Conn { t.Helper(); return conn(t, l.Accept) }
}

func conn(t testing.TB, make func() (net.Conn, error)) net.Conn {
	t.Helper()
	c := testenv.Opened(make())(t)
	c.SetDeadline(time.Now().Add(testenv.Timeout))
	return c
}

func client(t testing.TB, s *Streams) net.Conn {
	t.Helper()
	return conn(t, func() (net.Conn, error) { return net.Dial(s.Addr().Network(), s.Addr().String()) })
}

// wantEnd reads to the end, or to an error that is want.
func wantEnd(t testing.TB, c net.Conn, text string, want error) {
	t.Helper()
	b, err := io.ReadAll(c)
	if string(b) != text || !errors.Is(err, want) {
		t.Errorf("%v got %q, %v, want %q, %v", c.LocalAddr(), b, err, text, want)
	}
}

// wantReset connects, and wants a reset: the call that connects may report it already.
func wantReset(t testing.TB, s *Streams) {
	t.Helper()
	c, err := net.Dial("tcp", s.Addr().String())
	if err == nil {
		c.SetDeadline(time.Now().Add(testenv.Timeout))
		_, err = io.ReadAll(c)
		c.Close()
	}
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("got %v, want ECONNRESET", err)
	}
}

func write(t testing.TB, c net.Conn, text string) {
	t.Helper()
	_, err := io.WriteString(c, text)
	testenv.Check(t, err)
}

type closeWriter interface{ CloseWrite() error }

// TestHalfClose ends one direction, uses the other, and ends that, by each side, over TCP
// and unix sockets.
func TestHalfClose(t *testing.T) {
	dir := testenv.ShortDir(t)
	for _, network := range []string{"tcp", "unix"} {
		for _, first := range []string{"client", "server"} {
			t.Run(network+", "+first, func(t *testing.T) {
				testenv.NoLeaks(t)
				addr := func(name string) string {
					if network == "unix" {
						return filepath.Join(dir, first+name)
					}
					return "127.0.0.1:0"
				}
				l := testenv.Opened(net.Listen(network, addr("s")))(t)
				s := serving(t, testenv.Must(net.Listen(network, addr("f")))(t), l.Addr(), Config{})
				a := client(t, s)
				b := conn(t, l.Accept)
				if first == "server" {
					a, b = b, a
				}
				write(t, a, "request")
				testenv.Check(t, a.(closeWriter).CloseWrite())
				wantEnd(t, b, "request", nil)
				write(t, b, "late answer")
				testenv.Check(t, b.Close())
				wantEnd(t, a, "late answer", nil)
				a.Close()
				testenv.Eventually(t, "no connection", func() bool { return s.Stats().Open == 0 })
				if st := s.Stats(); st.BytesIn+st.BytesOut != 18 || st.Accepted != 1 || st.Failed != 0 {
					t.Errorf("%+v", st)
				}
			})
		}
	}
}

// TestReset resets a connection at one side: in its data, and after the end of what that
// side sends, when nothing is read from it any more.
func TestReset(t *testing.T) {
	testenv.NoLeaks(t)
	for _, half := range []bool{false, true} {
		for _, who := range []string{"client", "server"} {
			t.Run(fmt.Sprintf("%s, half closed %v", who, half), func(t *testing.T) {
				l, accept := server(t)
				s := started(t, l.Addr(), Config{})
				a, b := client(t, s), accept()
				if who == "server" {
					a, b = b, a
				}
				if half {
					testenv.Check(t, a.(closeWriter).CloseWrite())
					wantEnd(t, b, "", nil)
				}
				a.(*net.TCPConn).SetLinger(0)
				a.Close()
				if half {
					// b has read the end already, and now learns of the reset.
					testenv.Eventually(t, "a reset", func() bool {
						_, err := b.Write([]byte("x"))
						return errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
					})
				} else {
					wantEnd(t, b, "", unix.ECONNRESET)
				}
				testenv.Eventually(t, "no connection", func() bool { return s.Stats().Open == 0 })
			})
		}
	}
}

// TestResetUnread has the reset passed on while the other side says and reads nothing.
func TestResetUnread(t *testing.T) {
	testenv.NoLeaks(t)
	l, accept := server(t)
	s := started(t, l.Addr(), Config{})
	a, b := client(t, s), accept()
	testenv.Check(t, a.(closeWriter).CloseWrite())
	wantEnd(t, b, "", nil)
	a.(*net.TCPConn).SetLinger(0)
	a.Close()
	testenv.Eventually(t, "no connection", func() bool { return s.Stats().Open == 0 })
}

// TestResetStalled has the reset passed on while the other side reads nothing of what was
// sent before.
func TestResetStalled(t *testing.T) {
	testenv.NoLeaks(t)
	l, accept := server(t)
	s := started(t, l.Addr(), Config{})
	chunk := make([]byte, 1<<20)
	for _, who := range []string{"client", "server"} {
		a, b := client(t, s), accept()
		if who == "server" {
			a, b = b, a
		}
		for carried := uint64(1); ; {
			a.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			_, err := a.Write(chunk)
			st := s.Stats()
			if now := st.BytesIn + st.BytesOut; err != nil && now == carried {
				break
			} else {
				carried = now
			}
		}
		a.(*net.TCPConn).SetLinger(0)
		a.Close()
	}
	testenv.Eventually(t, "no connection", func() bool { return s.Stats().Open == 0 })
}

// TestBackPressure has a sender wait for a receiver that reads nothing, and then all
// arrives.
func TestBackPressure(t *testing.T) {
	testenv.NoLeaks(t)
	l, accept := server(t)
	s := started(t, l.Addr(), Config{})
	a, b := client(t, s), accept()
	chunk := bytes.Repeat([]byte("0123456789abcdef"), 1<<12)
	sent := 0
	// What the sockets take is bounded; more than that would be memory of the forward.
	raw := testenv.Must(a.(*net.TCPConn).SyscallConn())(t)
	full := func() (full bool) {
		testenv.Check(t, raw.Write(func(fd uintptr) bool {
			n, err := unix.Write(int(fd), chunk[sent%16:])
			if full = err == unix.EAGAIN; !full {
				testenv.Check(t, err)
				sent += n
			}
			return true
		}))
		return full
	}
	for carried := uint64(0); ; {
		for !full() {
			if sent > 64<<20 {
				t.Fatalf("%d bytes, and still room", sent)
			}
		}
		// The forward is still moving what it took.
		if now := s.Stats().BytesIn; now == carried && full() {
			break
		} else {
			carried = now
		}
	}
	var done sync.WaitGroup
	defer done.Wait()
	done.Go(func() {
		a.Write([]byte("end"))
		a.(closeWriter).CloseWrite()
	})
	got := testenv.Must(io.ReadAll(b))(t)
	if want := sent + 3; len(got) != want || string(got[len(got)-3:]) != "end" {
		t.Errorf("got %d bytes, want %d", len(got), want)
	}
	for i, c := range got[:sent] {
		if c != chunk[i%16] {
			t.Fatalf("byte %d is %q", i, c)
		}
	}
}

// TestLimit refuses a client too many, and takes the next when there is room.
func TestLimit(t *testing.T) {
	testenv.NoLeaks(t)
	l, accept := server(t)
	s := started(t, l.Addr(), Config{Max: 2})
	a, b := client(t, s), client(t, s) // who say nothing
	accept()
	accept()
	wantReset(t, s)
	a.(*net.TCPConn).SetLinger(0)
	a.Close()
	testenv.Eventually(t, "one connection", func() bool { return s.Stats().Open == 1 })
	c := client(t, s)
	write(t, c, "x")
	accept()
	if st := s.Stats(); st.Refused != 1 || st.Open != 2 || st.Accepted != 3 {
		t.Errorf("%+v", st)
	}
	b.Close()
}

// TestServerGone resets clients whose server cannot be reached.
func TestServerGone(t *testing.T) {
	testenv.NoLeaks(t)
	l, _ := server(t)
	l.Close()
	s := started(t, l.Addr(), Config{})
	wantReset(t, s)
	testenv.Eventually(t, "no connection", func() bool { return s.Stats().Open == 0 })
	if st := s.Stats(); st.Failed != 1 || !errors.Is(st.Err, unix.ECONNREFUSED) {
		t.Errorf("%+v", st)
	}
}

// A badListener returns errors before it accepts.
type badListener struct {
	net.Listener
	errors atomic.Int32
}

func (l *badListener) Accept() (net.Conn, error) {
	if l.errors.Add(-1) >= 0 {
		return nil, os.NewSyscallError("accept4", unix.EMFILE)
	}
	return l.Listener.Accept()
}

// TestAcceptErrors goes on after errors of the listener, and pauses between them.
func TestAcceptErrors(t *testing.T) {
	testenv.NoLeaks(t)
	l, accept := server(t)
	bad := &badListener{Listener: testenv.Must(net.Listen("tcp", "127.0.0.1:0"))(t)}
	bad.errors.Store(3)
	begin := time.Now()
	s := serving(t, bad, l.Addr(), Config{})
	write(t, client(t, s), "hello")
	accept()
	if took := time.Since(begin); took < 5*time.Millisecond {
		t.Errorf("three errors took %v: it spins", took)
	}
	if err := s.Stats().Err; !errors.Is(err, unix.EMFILE) {
		t.Errorf("got %v, want EMFILE", err)
	}
	// Close does not wait for a pause.
	bad = &badListener{Listener: testenv.Must(net.Listen("tcp", "127.0.0.1:0"))(t)}
	bad.errors.Store(1 << 30)
	s = serving(t, bad, l.Addr(), Config{})
	testenv.Eventually(t, "an error", func() bool { return s.Stats().Err != nil })
	testenv.Check(t, s.Close())
	testenv.Check(t, s.Close())
}

// TestClose ends connections in each state, and calls that are connecting.
func TestClose(t *testing.T) {
	testenv.NoLeaks(t)
	l, accept := server(t)
	dialing := make(chan struct{}, 1)
	var silent atomic.Bool
	s := started(t, l.Addr(), Config{Dial: func(ctx context.Context, _ net.Addr) (net.Conn, error) {
		if silent.Load() {
			dialing <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	}})
	a, b := client(t, s), accept()
	write(t, a, "unread")
	// Before that the server may be connected without anybody here having noticed: nothing
	// was sent to it, and the end of its connection is as that of any other.
	testenv.Eventually(t, "the bytes are on their way", func() bool { return s.Stats().BytesIn == 6 })
	silent.Store(true)
	c := client(t, s)
	<-dialing
	testenv.Check(t, s.Close())
	wantEnd(t, c, "", unix.ECONNRESET)
	wantEnd(t, a, "", unix.ECONNRESET)
	if _, err := io.Copy(io.Discard, b); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("server: %v, want ECONNRESET", err)
	}
	if st := s.Stats(); st.Open != 0 || st.Failed != 0 {
		t.Errorf("%+v", st)
	}
	if _, err := net.Dial("tcp", s.Addr().String()); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("after Close: %v, want ECONNREFUSED", err)
	}
}

// TestProxy reads the header of each version, of TCP and of a client without an address.
func TestProxy(t *testing.T) {
	testenv.NoLeaks(t)
	unixPath := filepath.Join(testenv.ShortDir(t), "s")
	for _, listen := range [][2]string{{"tcp", "127.0.0.1:0"}, {"tcp", "[::1]:0"}, {"tcp", "[::]:0"}, {"unix", unixPath}} {
		for version := 1; version <= 2; version++ {
			t.Run(fmt.Sprint(listen, version), func(t *testing.T) {
				l, accept := server(t)
				f, err := net.Listen(listen[0], listen[1])
				testenv.Check(t, err)
				s := serving(t, f, l.Addr(), Config{Proxy: version})
				c := client(t, s)
				write(t, c, "hello")
				testenv.Check(t, c.(closeWriter).CloseWrite())
				r := bufio.NewReader(accept())
				h, err := proxyproto.Read(r)
				testenv.Check(t, err)
				rest := testenv.Must(io.ReadAll(r))(t)
				if string(rest) != "hello" || int(h.Version) != version {
					t.Errorf("version %d, then %q", h.Version, rest)
				}
				if listen[0] == "unix" {
					if h.TransportProtocol.IsStream() || h.Command.IsProxy() && version == 2 {
						t.Errorf("%+v", h)
					}
					return
				}
				if h.SourceAddr.String() != c.LocalAddr().String() || h.DestinationAddr.String() != c.RemoteAddr().String() {
					t.Errorf("%v to %v, want %v to %v", h.SourceAddr, h.DestinationAddr, c.LocalAddr(), c.RemoteAddr())
				}
			})
		}
	}
}

// TestMany has 10,000 connections, all open at once if the process may have the 40,000
// descriptors that both ends and the forward need, and leaves nothing: half of them end,
// half of them are reset.
func TestMany(t *testing.T) {
	testenv.Long(t)
	const each, spare = 4, 500
	total, atOnce := 10000, 10000
	if testenv.Race {
		total, atOnce = 5000, 2500 // the race detector has room for 8,128 goroutines
	}
	atOnce = min(atOnce, (descriptors(t, total*each+spare)-spare)/each)
	if atOnce < 500 {
		testenv.NeedDescriptors(t, 500*each+spare)
	}
	testenv.NoLeaks(t)
	l, _ := server(t)
	s := started(t, l.Addr(), Config{Max: total})
	sockets := tcpSockets(t)
	for left := total; left > 0; left -= atOnce {
		many(t, s, l, min(left, atOnce))
	}
	testenv.Eventually(t, "no sockets", func() bool { return tcpSockets(t) <= sockets })
	if st := s.Stats(); st.Accepted != uint64(total) || st.Failed+st.Refused != 0 || st.BytesIn != 5*uint64(total) || st.BytesOut != 6*uint64(total) {
		t.Errorf("%+v", st)
	}
	t.Logf("%d connections at once", atOnce)
}

// many has n connections at once.
func many(t *testing.T, s *Streams, l net.Listener, n int) {
	var conns, served []net.Conn
	defer func() {
		for _, c := range slices.Concat(conns, served) {
			c.Close()
		}
	}()
	open := func() int { return len(testenv.Must(os.ReadDir("/proc/self/fd"))(t)) }
	before := open()
	for range n {
		c, err := net.Dial("tcp", s.Addr().String())
		testenv.Check(t, err)
		conns = append(conns, c)
		write(t, c, "hello")
		in, err := l.Accept()
		testenv.Check(t, err)
		served = append(served, in)
		write(t, in, "answer")
	}
	b := make([]byte, 10)
	read := func(c net.Conn, want string) {
		t.Helper()
		c.SetReadDeadline(time.Now().Add(testenv.Timeout))
		if _, err := io.ReadFull(c, b[:len(want)]); err != nil || string(b[:len(want)]) != want {
			t.Fatalf("got %q, %v, want %q", b[:len(want)], err, want)
		}
	}
	for i := range n {
		read(served[i], "hello")
		read(conns[i], "answer")
	}
	if st := s.Stats(); st.Open != uint64(n) {
		t.Errorf("%d connections are open, want %d", st.Open, n)
	}
	if now, most := open(), before+4*n+2*maxPipes; now > most {
		t.Errorf("%d descriptors, want at most %d", now, most)
	}
	for i, c := range slices.Concat(conns, served) {
		if i%2 == 0 {
			c.(*net.TCPConn).SetLinger(0)
		}
		c.Close()
	}
	testenv.Eventually(t, "no connection", func() bool { return s.Stats().Open == 0 })
}

// descriptors raises the limit of descriptors until the end of the test if the process may,
// and returns it.
func descriptors(t *testing.T, n int) int {
	t.Helper()
	var limit unix.Rlimit
	testenv.Check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	if limit.Cur >= uint64(n) {
		return n
	}
	more := unix.Rlimit{Cur: uint64(n), Max: max(limit.Max, uint64(n))}
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &more) == nil {
		t.Cleanup(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) })
		return n
	}
	return int(limit.Cur)
}

// tcpSockets returns how many TCP sockets the network namespace has, without those in
// TIME_WAIT.
func tcpSockets(t *testing.T) (n int) {
	t.Helper()
	text := string(testenv.Must(os.ReadFile("/proc/net/sockstat"))(t))
	_, tcp, _ := strings.Cut(text, "TCP: inuse ")
	_, err := fmt.Sscan(tcp, &n)
	testenv.Check(t, err)
	return n
}

// TestSilent has connections that say nothing hold their two sockets and no more.
func TestSilent(t *testing.T) {
	testenv.NoLeaks(t)
	l, accept := server(t)
	s := started(t, l.Addr(), Config{})
	before := len(testenv.Descriptors(t))
	const n = 50
	for range n {
		a, b := client(t, s), accept()
		write(t, a, "x")
		io.ReadFull(b, make([]byte, 1))
	}
	// Two for each test's ends, two for the forward's.
	most := before + 4*n + 2*maxPipes
	testenv.Eventually(t, "no pipes for silent connections", func() bool { return len(testenv.Descriptors(t)) <= most })
}

// TestListenUnix has Close remove its own file, whatever the directory is by then, and
// none that has taken the name. A dead socket gives way, but not one that is alive nor
// another file.
func TestListenUnix(t *testing.T) {
	testenv.NoLeaks(t)
	dir := testenv.ShortDir(t)
	t.Chdir(dir)
	exists := func(name string) bool {
		_, err := os.Lstat(filepath.Join(dir, name))
		return err == nil
	}
	listen := func(name string) net.Listener {
		t.Helper()
		return testenv.Must(ListenUnix(t.Context(), name))(t)
	}
	dead := testenv.Must(net.Listen("unix", "s"))(t)
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	dead.Close()
	l := listen("s")
	if _, err := ListenUnix(t.Context(), "s"); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a socket in use: %v", err)
	}
	testenv.Check(t, os.Chdir("/"))
	testenv.Check(t, l.Close())
	if exists("s") {
		t.Error("the file is still there")
	}
	testenv.Check(t, os.Chdir(dir))
	for _, replace := range []func(){
		func() { testenv.Check(t, os.WriteFile("s", nil, 0o600)) },
		func() { t.Cleanup(func() { l.Close() }); l = listen("s") },
	} {
		old := listen("s")
		testenv.Check(t, os.Remove("s"))
		replace()
		testenv.Check(t, old.Close())
		if !exists("s") {
			t.Error("Close has removed the file of another")
		}
		if info := testenv.Must(os.Lstat("s"))(t); info.Mode().IsRegular() {
			if _, err := ListenUnix(t.Context(), "s"); !errors.Is(err, unix.EADDRINUSE) || !exists("s") {
				t.Errorf("a regular file: %v", err)
			}
			testenv.Check(t, os.Remove("s"))
		}
	}
	abstract := listen("@" + dir)
	testenv.Check(t, abstract.Close())
}

// TestListenUnixAtOnce has several listen in the place of a dead socket: one of them does.
func TestListenUnixAtOnce(t *testing.T) {
	testenv.NoLeaks(t)
	path := filepath.Join(testenv.ShortDir(t), "s")
	for range 50 {
		dead := testenv.Must(net.Listen("unix", path))(t)
		dead.(*net.UnixListener).SetUnlinkOnClose(false)
		dead.Close()
		all := make(chan net.Listener, 4)
		for range cap(all) {
			go func() {
				l, err := ListenUnix(t.Context(), path)
				if err != nil && !errors.Is(err, unix.EADDRINUSE) {
					t.Error(err)
				}
				all <- l
			}()
		}
		listening := 0
		for range cap(all) {
			if l := <-all; l != nil {
				listening++
				defer l.Close()
			}
		}
		if listening != 1 {
			t.Fatalf("%d listen", listening)
		}
		testenv.Check(t, os.Remove(path))
	}
}

// TestKept has the garbage collector keep what a stack closes after its sockets.
func TestKept(t *testing.T) {
	testenv.NoLeaks(t)
	l := testenv.Must(net.Listen("tcp", "127.0.0.1:0"))(t)
	streams := weak.Make(NewStreams(l, Config{}))
	c := testenv.Must(net.ListenUDP("udp", nil))(t)
	datagrams := weak.Make(testenv.Must(NewDatagrams(c, Config{}))(t))
	testenv.Check(t, l.Close())
	testenv.Check(t, c.Close())
	for range 3 {
		runtime.Gosched() // their goroutines see it
		runtime.GC()
	}
	s, d := streams.Value(), datagrams.Value()
	if s == nil || d == nil {
		t.Fatalf("streams %v, datagrams %v", s, d)
	}
	testenv.Check(t, s.Close())
	testenv.Check(t, d.Close())
}
