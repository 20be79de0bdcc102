package vdeplug

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/p2p"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vdeproto/vdetest"
)

// sendRights sends a message with descriptors, and closes them.
func sendRights(fd int, message []byte, rights ...int) error {
	err := unix.Sendmsg(fd, message, unix.UnixRights(rights...), nil, unix.MSG_NOSIGNAL)
	for _, r := range rights {
		unix.Close(r)
	}
	return err
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
		pair := plugtest.SocketPair(t, unix.SOCK_SEQPACKET)
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
			plugtest.EachKernel(t, func(t *testing.T, refuses bool) {
				testenv.NoLeaks(t)
				c, sockets := f.open(t)
				h := newLingerer(t)
				frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(7), 60)
				for _, fd := range sockets {
					right := h.make
					if refuses && !f.expects {
						right = func() int { return plugtest.DevNull(t) } // they stay this test's
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
					plugtest.Received(t, fd)
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
			plugtest.EachKernel(t, func(t *testing.T, refuses bool) {
				testenv.NoLeaks(t)
				c, sockets := f.open(t)
				in := plugtest.NewInbox(t, c)
				before := len(testenv.Descriptors(t))
				frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(7), 60)
				for i := range 50 {
					for _, fd := range sockets {
						rights := make([]int, 1+i%3)
						for j := range rights {
							rights[j] = plugtest.DevNull(t)
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

// TestRightsInReply answers the request of a client with more descriptors than one,
// which the kernel cannot destroy. Open ends all the same.
func TestRightsInReply(t *testing.T) {
	plugtest.EachKernel(t, func(t *testing.T, _ bool) {
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
