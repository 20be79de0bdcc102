package vdeproto

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vdeproto/vdetest"
	"golang.org/x/sys/unix"
)

// hostile starts a switch in a process of its own, with two good clients. works checks that
// the switch serves them.
func hostile(t *testing.T) (s *vdetest.Switch, works func()) {
	t.Helper()
	testenv.NoLeaks(t)
	s = startSwitch(t, "ours")
	a, b := openInbox(t, s.Dir), plugtest.CPlug(t, "vde://"+s.Dir)
	plugtest.Carry(t, b, a, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(2), 60))
	return s, func() {
		t.Helper()
		// Their queues may be full of broadcasts.
		plugtest.Carry(t, a, b.Inbox, plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 1000))
		plugtest.Carry(t, b, a, plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 1000))
		c := openInbox(t, s.Dir)
		plugtest.Carry(t, a, c, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
		c.Close()
	}
}

// memoryBound is the memory that hostile clients may cost a switch, mostly for the goroutines
// of maxClients, and garbage.
func memoryBound() int {
	if testenv.Race {
		return 256 << 20 // the race detector needs more for each
	}
	return 64 << 20
}

// TestSwitchRequests sends invalid requests.
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
		"too short":   func(b []byte) []byte { return b[:requestLen-1] },
		"junk":        func(b []byte) []byte { return bytes.Repeat([]byte("junk"), 4096) },
		"zeros":       func(b []byte) []byte { return make([]byte, 256) },
		"no path":     func(b []byte) []byte { return vdetest.Request("", "") },
		"no socket":   func(b []byte) []byte { return vdetest.Request("/dev/null", "") },
		"nothing":     func(b []byte) []byte { return vdetest.Request("/nosuch", "") },
		"not bound":   func(b []byte) []byte { return makeRequest(AnyPort, "\x00"+strings.Repeat("x", 107), "") },
		"the own ctl": func(b []byte) []byte { return vdetest.Request(s.Dir+"/ctl", "") },
		"relative":    func(b []byte) []byte { return vdetest.Request("x", "") },
	} {
		t.Run(name, func(t *testing.T) {
			c := vdetest.DialRaw(t, s.Dir)
			c.Request(f(vdetest.Request(c.Path, "hostile")))
			c.WantEnd()
		})
	}
	works()
	// Requests that are good.
	vdetest.DialRaw(t, s.Dir).Join()
	c := vdetest.DialRaw(t, s.Dir)
	c.Request(makeRequest(0, c.Path, strings.Repeat("x", 134)))
	if n, err := vdetest.Read(c.Ctl, make([]byte, 200)); n != unixAddrLen || err != nil {
		t.Errorf("got %d bytes, %v, want a reply", n, err)
	}
	// Talking afterwards is the end.
	c.Request([]byte("hello"))
	c.WantEnd()
	works()
}

// TestSwitchSilent has clients that connect and send nothing, or leave.
func TestSwitchSilent(t *testing.T) {
	testenv.Long(t)
	s, works := hostile(t)
	before := s.Files(t)
	silent := vdetest.DialRaw(t, s.Dir)
	for range 200 {
		c := vdetest.DialRaw(t, s.Dir)
		unix.Shutdown(c.Ctl, unix.SHUT_RDWR)
	}
	works()
	silent.WantEnd() // after requestWait
	testenv.Eventually(t, "no descriptor more than before", func() bool { return s.Files(t) <= before })
}

// TestSwitchTenThousand has 10,000 connections, with a request and without.
func TestSwitchTenThousand(t *testing.T) {
	testenv.Long(t)
	const connections = 10000
	for _, name := range []string{"silent", "joined"} {
		t.Run(name, func(t *testing.T) {
			s, works := hostile(t)
			before, memory := s.Files(t), s.Memory(t)
			var limit unix.Rlimit
			testenv.Check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
			keep := min(connections, int(limit.Max)/2) // the others replace the first ones
			fds := make([]int, 0, keep)
			t.Cleanup(func() {
				for _, fd := range fds {
					unix.Close(fd)
				}
			})
			request := vdetest.Request("/nosuch", gsoMark)
			for i := range connections {
				fd := testenv.Must(unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))(t)
				if len(fds) < keep {
					fds = append(fds, fd)
				} else {
					unix.Close(fds[i%keep])
					fds[i%keep] = fd
				}
				testenv.Check(t, unix.Connect(fd, &unix.SockaddrUnix{Name: s.Dir + "/ctl"}))
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
			if got := s.Files(t); got > most+10 {
				t.Errorf("the switch has %d descriptors, had %d before, want at most %d", got, before, most)
			}
			if got := s.Memory(t); got > memory+memoryBound() {
				t.Errorf("the switch has %d bytes of memory, %d before", got, memory)
			}
			for _, fd := range fds {
				unix.Shutdown(fd, unix.SHUT_RDWR)
			}
			testenv.Eventually(t, "no descriptor more than before", func() bool { return s.Files(t) <= before })
			works()
		})
	}
}

// TestSwitchNeverReads has clients that read nothing, and one that has closed its data socket
// only.
func TestSwitchNeverReads(t *testing.T) {
	testenv.Long(t)
	s, works := hostile(t)
	var never []*vdetest.Raw
	for range 8 {
		never = append(never, vdetest.DialRaw(t, s.Dir).Join())
	}
	unix.Close(never[0].Data)
	unread := openPlug(t, s.Dir) // Recv is never called
	from := openPlug(t, s.Dir).on
	memory := s.Memory(t)
	for range 500 {
		batch := make([]packet.Packet, 40)
		for i := range batch {
			batch[i].Data = plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(7), 1514)
		}
		testenv.Check(t, from.SendPackets(batch, true))
	}
	works()
	if got := s.Memory(t); got > memory+memoryBound() {
		t.Errorf("the switch has %d bytes of memory, %d before", got, memory)
	}
	// They may begin to read.
	buf := make([]byte, 64<<10)
	if n, err := vdetest.Read(never[1].Data, buf); err != nil || n == 0 {
		t.Errorf("got %d bytes, %v", n, err)
	}
	if n, err := unread.Recv(buf); err != nil || n == 0 {
		t.Errorf("got %d bytes, %v", n, err)
	}
}

// TestSwitchLengths sends frames of every length, as datagrams and as messages of a pair.
func TestSwitchLengths(t *testing.T) {
	testenv.Long(t)
	s, works := hostile(t)
	const longest = 65535
	frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(9), longest)
	junk := bytes.Clone(frame)
	for i := range junk {
		junk[i] = byte(i * i >> 3)
	}
	t.Run("datagrams", func(t *testing.T) {
		c, all := vdetest.DialRaw(t, s.Dir).Join(), openInbox(t, s.Dir)
		for n := range longest + 1 {
			if err := vdetest.Write(c.Data, frame[:n]); err != nil {
				t.Fatalf("%d bytes: %v", n, err)
			}
			if n == ether.MaxFrame { // the longest
				plugtest.Carry(t, c, all, frame[:n])
			}
		}
		c.Request([]byte{0}) // and an end in the middle of it
	})
	works()
	t.Run("pair", func(t *testing.T) {
		c := openPlug(t, s.Dir).on
		for n := longest; n >= 0; n-- {
			var err error
			c.data.Raw.Write(func(fd uintptr) bool {
				err = vdetest.Write(int(fd), junk[longest-n:])
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

// TestSwitchDeputy tries to make the switch of root write to a socket of root.
func TestSwitchDeputy(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, and another user")
	}
	testenv.NoLeaks(t)
	base := testenv.ShortDir(t)
	testenv.Check(t, os.Chmod(base, 0o755))
	l := testenv.Must(net.ListenPacket("unixgram", filepath.Join(base, "log")))(t)
	defer l.Close()
	dir := filepath.Join(base, "sw")
	c := openSwitch(t, dir, 0o666, 0o777)
	plugtest.AsNobody(t, "TestSwitchDeputyUser", dir)
	plugtest.Send(t, c, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
	l.SetReadDeadline(time.Now().Add(time.Millisecond))
	if n, _, err := l.ReadFrom(make([]byte, 2000)); err == nil {
		t.Errorf("got %d bytes", n)
	}
}

// TestSwitchDeputyUser is the ordinary user's part of TestSwitchDeputy.
func TestSwitchDeputyUser(t *testing.T) {
	dir := plugtest.ChildArg(t)
	for _, path := range []string{filepath.Join(filepath.Dir(dir), "log"), "\x00" + strings.Repeat("x", 107)} {
		c := vdetest.DialRaw(t, dir)
		if path[0] == 0 {
			unix.Close(c.Data)
			c.Data = testenv.Must(unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0))(t)
			testenv.Check(t, syscall.Bind(c.Data, &syscall.SockaddrUnix{Name: "@" + path[1:]}))
		}
		c.Request(vdetest.Request(path, ""))
		c.WantEnd()
	}
	vdetest.DialRaw(t, dir).Join()
}

// TestSwitchForeignSocket has a socket of another user in place of that of a client of root,
// which is the switch's user.
func TestSwitchForeignSocket(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, and another user")
	}
	testenv.NoLeaks(t)
	dir := filepath.Join(testenv.ShortDir(t), "sw")
	openSwitch(t, dir, 0o600, 0o777)
	c := vdetest.DialRaw(t, dir)
	testenv.Check(t, os.Lchown(c.Path, 65534, 65534))
	c.Request(vdetest.Request(c.Path, ""))
	c.WantEnd()
	vdetest.DialRaw(t, dir).Join()
}

// TestSwitchShare has more clients than a switch has descriptors for. They get a quarter of
// the limit of the process.
func TestSwitchShare(t *testing.T) {
	testenv.Long(t)
	const limit, clients = 360, 400
	s, works := hostile(t)
	testenv.Check(t, unix.Prlimit(s.Cmd.Process.Pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: limit}, nil))
	before := s.Files(t)
	in := 2 // the clients of hostile
	var last *vdetest.Raw
	for range clients {
		c := vdetest.DialRaw(t, s.Dir)
		c.Request(vdetest.Request(c.Path, "crowd"))
		if n, err := vdetest.Read(c.Ctl, make([]byte, 200)); err == nil && n == unixAddrLen {
			in, last = in+1, c
		} else {
			// A refused client closes the connection.
			unix.Shutdown(c.Ctl, unix.SHUT_RDWR)
		}
	}
	if want := limit / 4 / clientFiles; in != want {
		t.Errorf("%d clients are in, want %d", in, want)
	}
	if got := s.Files(t); got > before+limit/4 {
		t.Errorf("the switch has %d descriptors, had %d before, and may have %d", got, before, limit)
	}
	_, err := Dial(t.Context(), config(s.Dir), nil)
	plugtest.WantError(t, err, "the switch refused the connection")
	plugtest.WantError(t, err, "it is full")
	// Silent clients take their share only.
	for range clients {
		vdetest.DialRaw(t, s.Dir)
	}
	if got := s.Files(t); got > before+limit/4+limit/8 {
		t.Errorf("the switch has %d descriptors, had %d before, and may have %d", got, before, limit)
	}
	unix.Shutdown(last.Ctl, unix.SHUT_RDWR)
	last.WantEnd()
	works()
}
