package vdeplug

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/fabric"
	"github.com/vdestack/vdestack/internal/p2p"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vdeproto/vdetest"
)

// eachKernel runs a test with SO_PASSRIGHTS, if the kernel has it, and without, as
// before Linux 6.16.
func eachKernel(t *testing.T, test func(t *testing.T, refuses bool)) {
	t.Run("new", func(t *testing.T) {
		pair := socketpair(t, unix.SOCK_DGRAM)
		if !sockio.RefuseRights(pair[0]) {
			t.Skip("needs SO_PASSRIGHTS (Linux 6.16)")
		}
		test(t, true)
	})
	t.Run("old", func(t *testing.T) {
		sockio.WithoutPassRights.Store(true)
		t.Cleanup(func() { sockio.WithoutPassRights.Store(false) })
		test(t, false)
	})
}

func socketpair(t testing.TB, kind int) [2]int {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Close(pair[0])
		unix.Close(pair[1])
	})
	return pair
}

// sendRights sends a message with descriptors, and closes them.
func sendRights(fd int, message []byte, rights ...int) error {
	err := unix.Sendmsg(fd, message, unix.UnixRights(rights...), nil, unix.MSG_NOSIGNAL)
	for _, r := range rights {
		unix.Close(r)
	}
	return err
}

func devNull(t *testing.T) int {
	t.Helper()
	fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// received waits until all that a socket has sent is received.
func received(t *testing.T, fd int) {
	t.Helper()
	testenv.Eventually(t, "all that was sent to be received", func() bool {
		n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		return err != nil || n == 0
	})
}

// A lingerer makes descriptors that the kernel does not destroy before its release,
// or an hour is over.
type lingerer struct {
	t        *testing.T
	l        *net.TCPListener
	accepted []net.Conn
	once     sync.Once
}

func newLingerer(t *testing.T) *lingerer {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	h := &lingerer{t: t, l: l}
	t.Cleanup(h.release)
	return h
}

// make returns a connection that has something to send to who does not read.
func (h *lingerer) make() int {
	h.t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: h.l.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}})
	}
	var c net.Conn
	if err == nil {
		c, err = h.l.Accept()
	}
	if err == nil {
		h.accepted = append(h.accepted, c)
		err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 3600})
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	for err == nil {
		_, err = unix.Write(fd, make([]byte, 64<<10))
	}
	if err != unix.EAGAIN {
		h.t.Fatal(err)
	}
	return fd
}

// release lets the kernel destroy them.
func (h *lingerer) release() {
	h.once.Do(func() {
		for _, c := range h.accepted {
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
		h.l.Close()
	})
}

// closes sees that Close returns while the kernel holds what it has received.
func closes(t *testing.T, c Conn) {
	t.Helper()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		c.Close()
	}()
	select {
	case <-closed:
	case <-time.After(testenv.Timeout):
		t.Errorf("Close does not return")
	}
}

// A foreign is another end of a network, which sends descriptors.
type foreign struct {
	name string
	// expects says that it may send some.
	expects bool
	// open opens the network, and returns a plug on it and the sockets of the other
	// end that the plug receives from.
	open func(t *testing.T) (Conn, []int)
}

var foreigners = []foreign{
	{"ptp first", true, func(t *testing.T) (Conn, []int) {
		path, vnl := ptpName(t)
		c := openPlug(t, vnl)
		return c, []int{foreignPTP(t, path+p2p.SecondSuffix, path)}
	}},
	{"ptp second", false, func(t *testing.T) (Conn, []int) {
		path, vnl := ptpName(t)
		fd := foreignPTP(t, path, "")
		c := openPlug(t, vnl)
		connectForeign(t, fd, path+p2p.SecondSuffix)
		return c, []int{fd}
	}},
	{"netemu on ptp", true, func(t *testing.T) (Conn, []int) {
		path, vnl := ptpName(t)
		c := openPlug(t, "netemu://delay=1ms/{"+vnl+"}")
		return c, []int{foreignPTP(t, path+p2p.SecondSuffix, path)}
	}},
	{"ptp seqpacket", false, func(t *testing.T) (Conn, []int) {
		path, vnl := ptpName(t)
		c := openPlug(t, vnl+"[seqpacket]")
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		connectForeign(t, fd, path)
		if _, err := vdetest.Read(fd, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		return c, []int{fd}
	}},
	{"seqpacket", false, func(t *testing.T) (Conn, []int) {
		pair := socketpair(t, unix.SOCK_SEQPACKET)
		fd, err := unix.Dup(pair[0])
		if err != nil {
			t.Fatal(err)
		}
		return openPlug(t, fmt.Sprintf("seqpacket://%d", fd)), pair[1:]
	}},
	{"vde", false, func(t *testing.T) (Conn, []int) {
		dir := vdetest.ShortDir(t)
		f := vdetest.NewFake(t, dir+"/ctl")
		data := make(chan int, 1)
		f.Serve(func(c *vdetest.FakeClient) {
			c.Accept(dir + "/data")
			data <- c.Data
		})
		return openPlug(t, dir), []int{<-data}
	}},
}

func foreignPTP(t *testing.T, own, peer string) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: own})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if peer != "" {
		connectForeign(t, fd, peer)
	}
	return fd
}

func connectForeign(t *testing.T, fd int, peer string) {
	t.Helper()
	testenv.Eventually(t, "a connection to "+peer, func() bool { return unix.Connect(fd, &unix.SockaddrUnix{Name: peer}) == nil })
}

// TestRightsClose sends a descriptor that the kernel cannot destroy to each plug
// that talks through local sockets: who does not expect it refuses it, if the kernel
// can do that, and else Close leaves the goroutine that receives to the kernel.
func TestRightsClose(t *testing.T) {
	for _, f := range foreigners {
		t.Run(f.name, func(t *testing.T) {
			eachKernel(t, func(t *testing.T, refuses bool) {
				testenv.NoLeaks(t)
				c, sockets := f.open(t)
				h := newLingerer(t)
				frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(7), 60)
				for _, fd := range sockets {
					right := h.make
					if refuses && !f.expects {
						right = func() int { return devNull(t) } // they stay this test's
					}
					// One is taken, and others are for the kernel to destroy.
					err := sendRights(fd, frame, right(), right(), right())
					switch want := refuses && !f.expects; {
					case want && err != unix.EPERM:
						t.Errorf("sending descriptors: %v, want %v", err, unix.EPERM)
					case !want && err != nil:
						t.Fatal(err)
					}
				}
				// They are received when nobody else has them, or who closes them last
				// would be held.
				in := plugtest.NewInbox(t, c)
				for _, fd := range sockets {
					if refuses && !f.expects {
						continue
					}
					received(t, fd)
					// And some that nobody has received when the socket is closed.
					if err := sendRights(fd, frame, h.make()); err != nil {
						t.Fatal(err)
					}
				}
				closes(t, in.Conn)
				h.release()
			})
		})
	}
}

// TestRightsAreClosed sends several descriptors with each of many messages.
func TestRightsAreClosed(t *testing.T) {
	for _, f := range foreigners {
		t.Run(f.name, func(t *testing.T) {
			eachKernel(t, func(t *testing.T, refuses bool) {
				testenv.NoLeaks(t)
				c, sockets := f.open(t)
				in := plugtest.NewInbox(t, c)
				before := len(testenv.Descriptors(t))
				frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(7), 60)
				for i := range 50 {
					for _, fd := range sockets {
						rights := make([]int, 1+i%3)
						for j := range rights {
							rights[j] = devNull(t)
						}
						err := sendRights(fd, frame, rights...)
						if refuses && !f.expects {
							if err != unix.EPERM {
								t.Fatalf("sending descriptors: %v, want %v", err, unix.EPERM)
							}
							err = vdetest.Write(fd, frame)
						}
						if err != nil {
							t.Fatal(err)
						}
						in.Want(t, frame)
					}
				}
				testenv.Eventually(t, "no descriptor more", func() bool { return len(testenv.Descriptors(t)) <= before }, func() string { return fmt.Sprint(len(testenv.Descriptors(t)), before) })
			})
		})
	}
}

// taps makes TAP devices, which the kernel takes some 20 ms each to destroy, and
// cannot be kept from.
func taps(t *testing.T, n int) (fds []int) {
	t.Helper()
	for range n {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Skipf("needs /dev/net/tun: %v", err)
		}
		ifr, err := unix.NewIfreq("foreign%d")
		if err == nil {
			ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
		}
		if err != nil {
			unix.Close(fd)
		}
		if err == unix.EPERM {
			t.Skip("this user cannot make interfaces in the namespace of the test")
		}
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
	}
	return fds
}

// foreignInterfaces counts the interfaces of taps.
func foreignInterfaces(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/thread-self/net/dev")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), "foreign")
}

// A holder is a port that keeps its fabric from doing anything: a fabric that counts
// the copies of a flood holds its lock.
type holder struct {
	once          sync.Once
	held, release chan struct{}
}

func (h *holder) Deliver([]packet.Packet) {}

func (h *holder) TakesGSO() bool {
	h.once.Do(func() { close(h.held) })
	<-h.release
	return true
}

// hold keeps a fabric that has ports from forwarding packets, and from letting ports
// join and leave, until release is called.
func hold(f *fabric.Fabric) (release func()) {
	h := &holder{held: make(chan struct{}), release: make(chan struct{})}
	ports := [2]fabric.Port{{Receiver: h}, {Receiver: h}}
	for i := range ports {
		f.Join(&ports[i])
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		flood := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(9), 60)
		f.Forward(fabric.NewRoutes(), &ports[0], []packet.Packet{{Data: flood}}, false)
	}()
	<-h.held
	return func() {
		close(h.release)
		<-done
		for i := range ports {
			f.Leave(&ports[i])
		}
	}
}

// TestRightsAtSwitch sends descriptors as a client of a switch, to all of its
// sockets. The process that has the switch goes on while the kernel destroys them:
// a call that the runtime does not know of would stop it at the next collection of
// garbage.
func TestRightsAtSwitch(t *testing.T) {
	for _, socket := range []string{"frames", "packets", "control", "waiting"} {
		t.Run(socket, func(t *testing.T) {
			eachKernel(t, func(t *testing.T, refuses bool) {
				testenv.NoLeaks(t)
				fds := []int{devNull(t)} // it stays this test's
				if !refuses {
					unix.Close(fds[0])
					fds = taps(t, 40)
				}
				dir := filepath.Join(vdetest.ShortDir(t), "sw")
				c := openPlug(t, "switch://"+dir)
				var fd int
				busy := func() { vdetest.Write(fd, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(3), 60)) }
				admits := func() {
					other := vdetest.DialRaw(t, dir)
					other.Request(vdetest.Request(other.Path, ""))
					received(t, other.Ctl)
				}
				switch socket {
				case "frames":
					fd = vdetest.DialRaw(t, dir).Join().Data
				case "control":
					fd, busy = vdetest.DialRaw(t, dir).Join().Ctl, admits
				case "waiting":
					fd, busy = vdetest.DialRaw(t, dir).Ctl, admits
				case "packets":
					client := on[*vdeConn](openPlug(t, dir))
					if !client.on.whole {
						t.Fatal("no pair")
					}
					client.on.data.Raw.Control(func(p uintptr) { fd = int(p) })
					busy = func() {
						if err := client.Send(plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(3), 60)); err != nil {
							t.Fatal(err)
						}
					}
				}
				// Who receives them has to wait until nobody else has them.
				release := hold(servers.byDir[dir].fabric)
				busy()
				received(t, fd)
				// With a packet that is none.
				err := unix.Sendmsg(fd, []byte{1}, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
				for _, fd := range fds {
					unix.Close(fd)
				}
				release()
				if refuses {
					if err != unix.EPERM {
						t.Errorf("sending descriptors: %v, want %v", err, unix.EPERM)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				received(t, fd)
				for range 3 {
					runtime.GC()
				}
				if foreignInterfaces(t) == 0 {
					t.Error("the process stood still until the kernel had destroyed all descriptors")
				}
				closes(t, c)
				testenv.Eventually(t, "the devices to be gone", func() bool { return foreignInterfaces(t) == 0 })
			})
		})
	}
}

// TestRightsInReply answers the request of a client with more descriptors than one,
// which the kernel cannot destroy. Open ends all the same.
func TestRightsInReply(t *testing.T) {
	eachKernel(t, func(t *testing.T, _ bool) {
		testenv.NoLeaks(t)
		dir := vdetest.ShortDir(t)
		h := newLingerer(t)
		a, b := h.make(), h.make()
		f := vdetest.NewFake(t, dir+"/ctl")
		f.Serve(func(c *vdetest.FakeClient) {
			c.Ctl.(*net.UnixConn).WriteMsgUnix(vdetest.Reply(unix.AF_UNIX, dir+"/data")[:10], unix.UnixRights(a, b), nil)
			unix.Close(a)
			unix.Close(b)
		})
		start := time.Now()
		_, err := Open(dir, nil)
		if took := time.Since(start); took > testenv.Timeout {
			t.Errorf("Open took %v", took)
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v, want %v", err, os.ErrDeadlineExceeded)
		}
		h.release()
	})
}
