package vdeplug

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// A rawClient is a client that does what the test says, with sockets that block
// as those of C clients do.
type rawClient struct {
	t         testing.TB
	ctl, data int
	path      string // of the data socket
}

// dialRaw connects to the control socket, and makes a data socket.
func dialRaw(t testing.TB, dir string) *rawClient {
	t.Helper()
	c := &rawClient{t: t, path: fmt.Sprintf("%s/.%05d-%05d", dir, os.Getpid(), clientSerial.Add(1)%100000)}
	for fd, typ := range map[*int]int{&c.ctl: unix.SOCK_STREAM, &c.data: unix.SOCK_DGRAM} {
		var err error
		if *fd, err = unix.Socket(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(*fd) })
		// A test must end.
		for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
			timeout := unix.NsecToTimeval(int64(testenv.Timeout))
			if err := unix.SetsockoptTimeval(*fd, unix.SOL_SOCKET, option, &timeout); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := unix.Connect(c.ctl, &unix.SockaddrUnix{Name: dir + "/ctl"}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(c.data, &unix.SockaddrUnix{Name: c.path}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(c.path) })
	return c
}

// writeRaw is write(2). With a time limit the kernel does not begin again after
// a signal.
func writeRaw(fd int, b []byte) error {
	for {
		if _, err := unix.Write(fd, b); err != unix.EINTR {
			return err
		}
	}
}

// readRaw is read(2), as writeRaw.
func readRaw(fd int, b []byte) (int, error) {
	for {
		if n, err := unix.Read(fd, b); err != unix.EINTR {
			return n, err
		}
	}
}

func (c *rawClient) send(b []byte) {
	c.t.Helper()
	if err := writeRaw(c.ctl, b); err != nil {
		c.t.Fatal(err)
	}
}

// join does the handshake as C clients do.
func (c *rawClient) join() *rawClient {
	c.t.Helper()
	c.send(makeVDERequest(anyPort, c.path, "raw"))
	reply := make([]byte, 200)
	n, err := readRaw(c.ctl, reply)
	if err != nil {
		c.t.Fatal(err)
	}
	peer, err := parseVDEReply(reply[:n])
	if err == nil {
		err = connectData(c.data, c.ctl, peer)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return c
}

// A sender is a rawClient as a plug.
type sender struct{ *rawClient }

func (s sender) Send(frame []byte) error {
	return writeRaw(s.data, frame)
}

// wantEnd waits for the end of the control connection.
func (c *rawClient) wantEnd() {
	c.t.Helper()
	if n, err := readRaw(c.ctl, make([]byte, 1)); n > 0 || err != nil && err != unix.ECONNRESET {
		c.t.Errorf("got %d bytes, %v, want the end of the connection", n, err)
	}
}

// hostile starts a switch in a process of its own, with two clients who want to
// work. works sees that they do.
func hostile(t *testing.T) (s *vdeSwitch, works func()) {
	t.Helper()
	testenv.NoLeaks(t)
	s = goSwitch(t)
	a, b := openInbox(t, s.dir), cPlug(t, "vde://"+s.dir)
	plugtest.Carry(t, b, a, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(2), 60))
	return s, func() {
		t.Helper()
		// Their queues may be full of what was for all.
		plugtest.Carry(t, a, b.Inbox, plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 1000))
		plugtest.Carry(t, b, a, plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 1000))
		c := openInbox(t, s.dir)
		plugtest.Carry(t, a, c, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
		c.Close()
	}
}

// files returns how many descriptors the process of a switch has.
func (s *vdeSwitch) files(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// memory returns how many bytes of memory the process of a switch has.
func (s *vdeSwitch) memory(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}

// memoryBound is how much memory more a switch may have because of hostile
// clients. Most of it is that of the goroutines of maxClients, and of garbage.
func memoryBound() int {
	if raceEnabled {
		return 256 << 20 // the race detector has its own for each
	}
	return 64 << 20
}

// TestSwitchRequests sends requests that are none.
func TestSwitchRequests(t *testing.T) {
	s, works := hostile(t)
	change := func(at int, value uint32) func([]byte) []byte {
		return func(b []byte) []byte {
			binary.NativeEndian.PutUint32(b[at:], value)
			return b
		}
	}
	for name, f := range map[string]func([]byte) []byte{
		"magic":       change(0, 0xfeedfacf),
		"version 2":   change(4, 2),
		"version 1":   change(4, 1),
		"type":        change(8, 2),
		"family":      change(12, 2),
		"half":        func(b []byte) []byte { return b[:61] },
		"one byte":    func(b []byte) []byte { return b[:1] },
		"too short":   func(b []byte) []byte { return b[:vdeRequestLen-1] },
		"junk":        func(b []byte) []byte { return bytes.Repeat([]byte("junk"), 4096) },
		"zeros":       func(b []byte) []byte { return make([]byte, 256) },
		"no path":     func(b []byte) []byte { return makeVDERequest(anyPort, "", "") },
		"no socket":   func(b []byte) []byte { return makeVDERequest(anyPort, "/dev/null", "") },
		"nothing":     func(b []byte) []byte { return makeVDERequest(anyPort, "/nosuch", "") },
		"not bound":   func(b []byte) []byte { return makeVDERequest(anyPort, "\x00"+strings.Repeat("x", 107), "") },
		"the own ctl": func(b []byte) []byte { return makeVDERequest(anyPort, s.dir+"/ctl", "") },
		"relative":    func(b []byte) []byte { return makeVDERequest(anyPort, "x", "") },
	} {
		t.Run(name, func(t *testing.T) {
			c := dialRaw(t, s.dir)
			c.send(f(makeVDERequest(anyPort, c.path, "hostile")))
			c.wantEnd()
		})
	}
	works()
	// Requests that are good.
	dialRaw(t, s.dir).join()
	c := dialRaw(t, s.dir)
	c.send(makeVDERequest(0, c.path, strings.Repeat("x", 134)))
	if n, err := readRaw(c.ctl, make([]byte, 200)); n != unixAddrLen || err != nil {
		t.Errorf("got %d bytes, %v, want a reply", n, err)
	}
	// Talking afterwards is the end.
	c.send([]byte("hello"))
	c.wantEnd()
	works()
}

// TestSwitchSilent has clients that connect and say nothing, or leave.
func TestSwitchSilent(t *testing.T) {
	s, works := hostile(t)
	before := s.files(t)
	silent := dialRaw(t, s.dir)
	for range 200 {
		c := dialRaw(t, s.dir)
		unix.Shutdown(c.ctl, unix.SHUT_RDWR)
	}
	works()
	silent.wantEnd() // after requestWait
	testenv.Eventually(t, "no descriptor more than before", func() bool { return s.files(t) <= before })
}

// TestSwitchTenThousand has 10,000 connections, with a request and without.
func TestSwitchTenThousand(t *testing.T) {
	const connections = 10000
	for _, name := range []string{"silent", "joined"} {
		t.Run(name, func(t *testing.T) {
			s, works := hostile(t)
			before, memory := s.files(t), s.memory(t)
			var limit unix.Rlimit
			if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
				t.Fatal(err)
			}
			keep := min(connections, int(limit.Max)/2) // the rest takes the place of the first
			fds := make([]int, 0, keep)
			t.Cleanup(func() {
				for _, fd := range fds {
					unix.Close(fd)
				}
			})
			request := makeVDERequest(anyPort, "/nosuch", wholeMark)
			for i := range connections {
				fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				if len(fds) < keep {
					fds = append(fds, fd)
				} else {
					unix.Close(fds[i%keep])
					fds[i%keep] = fd
				}
				if err := unix.Connect(fd, &unix.SockaddrUnix{Name: s.dir + "/ctl"}); err != nil {
					t.Fatal(err)
				}
				if name == "joined" {
					unix.Write(fd, request) // it may be refused already
				}
			}
			if name == "silent" {
				works()
			}
			most := before + maxWaiting
			if name == "joined" {
				most += 3 * maxClients
			}
			if got := s.files(t); got > most+10 {
				t.Errorf("the switch has %d descriptors, had %d before, want at most %d", got, before, most)
			}
			if got := s.memory(t); got > memory+memoryBound() {
				t.Errorf("the switch has %d bytes of memory, %d before", got, memory)
			}
			for _, fd := range fds {
				unix.Shutdown(fd, unix.SHUT_RDWR)
			}
			testenv.Eventually(t, "no descriptor more than before", func() bool { return s.files(t) <= before })
			works()
		})
	}
}

// TestSwitchNeverReads has clients that read nothing, and one that has only
// closed its data socket.
func TestSwitchNeverReads(t *testing.T) {
	s, works := hostile(t)
	var never []*rawClient
	for range 8 {
		never = append(never, dialRaw(t, s.dir).join())
	}
	unix.Close(never[0].data)
	whole := openPlug(t, s.dir) // Recv is never called
	from := openPlug(t, s.dir).(packet.Transport)
	memory := s.memory(t)
	for range 500 {
		batch := make([]packet.Packet, 40)
		for i := range batch {
			batch[i].Data = plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(7), 1514)
		}
		if err := from.SendPackets(batch, true); err != nil {
			t.Fatal(err)
		}
	}
	works()
	if got := s.memory(t); got > memory+memoryBound() {
		t.Errorf("the switch has %d bytes of memory, %d before", got, memory)
	}
	// They may begin to read.
	buf := make([]byte, 64<<10)
	if n, err := readRaw(never[1].data, buf); err != nil || n == 0 {
		t.Errorf("got %d bytes, %v", n, err)
	}
	if n, err := whole.Recv(buf); err != nil || n == 0 {
		t.Errorf("got %d bytes, %v", n, err)
	}
}

// TestSwitchLengths sends frames of every length, as datagrams and as messages
// of a pair.
func TestSwitchLengths(t *testing.T) {
	s, works := hostile(t)
	const longest = 65535
	frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(9), longest)
	junk := bytes.Clone(frame)
	for i := range junk {
		junk[i] = byte(i * i >> 3)
	}
	t.Run("datagrams", func(t *testing.T) {
		c, all := dialRaw(t, s.dir).join(), openInbox(t, s.dir)
		for n := range longest + 1 {
			if err := writeRaw(c.data, frame[:n]); err != nil {
				t.Fatalf("%d bytes: %v", n, err)
			}
			if n == ether.MaxFrame { // the longest
				plugtest.Carry(t, sender{c}, all, frame[:n])
			}
		}
		c.send([]byte{0}) // and an end in the middle of it
	})
	works()
	t.Run("pair", func(t *testing.T) {
		c := on[*vdeConn](openPlug(t, s.dir)).on
		for n := longest; n >= 0; n-- {
			var err error
			c.data.Raw.Write(func(fd uintptr) bool {
				err = writeRaw(int(fd), junk[longest-n:])
				return err != unix.EAGAIN
			})
			if err == unix.EPIPE && n == 0 {
				break
			}
			if err != nil {
				t.Fatalf("%d bytes: %v", n, err)
			}
			if n%1024 == 0 {
				// A length that is right, and a header that may be anything.
				junk[0], junk[1] = byte(n>>10), byte(n>>12)
			}
		}
	})
	works()
}

// TestSwitchDeputy wants the switch of root to write to a socket of root.
func TestSwitchDeputy(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, and another user")
	}
	testenv.NoLeaks(t)
	base := shortDir(t)
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenPacket("unixgram", filepath.Join(base, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := filepath.Join(base, "sw")
	c := openPlug(t, "switch://"+dir+"[mode=0666]")
	asNobody(t, "TestSwitchDeputyUser", dir)
	plugtest.Send(t, c, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
	l.SetReadDeadline(time.Now().Add(time.Millisecond))
	if n, _, err := l.ReadFrom(make([]byte, 2000)); err == nil {
		t.Errorf("got %d bytes", n)
	}
}

// TestSwitchDeputyUser is the part of TestSwitchDeputy of the ordinary user.
func TestSwitchDeputyUser(t *testing.T) {
	dir := childArg(t)
	for _, path := range []string{filepath.Join(filepath.Dir(dir), "log"), "\x00" + strings.Repeat("x", 107)} {
		c := dialRaw(t, dir)
		if path[0] == 0 {
			unix.Close(c.data)
			var err error
			if c.data, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Bind(c.data, &syscall.SockaddrUnix{Name: "@" + path[1:]}); err != nil {
				t.Fatal(err)
			}
		}
		c.send(makeVDERequest(anyPort, path, ""))
		c.wantEnd()
	}
	dialRaw(t, dir).join()
}

// TestSwitchForeignSocket has a socket of another user in the place of that of a
// client who is root, and the switch's own user.
func TestSwitchForeignSocket(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, and another user")
	}
	testenv.NoLeaks(t)
	dir := filepath.Join(shortDir(t), "sw")
	openPlug(t, "switch://"+dir+"[dirmode=0777]")
	c := dialRaw(t, dir)
	if err := os.Lchown(c.path, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	c.send(makeVDERequest(anyPort, c.path, ""))
	c.wantEnd()
	dialRaw(t, dir).join()
}
