package vdeplug

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/p2p"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vdeproto/vdetest"
	"golang.org/x/sys/unix"
)

// sendRights sends a message with descriptors, and closes them.
func sendRights(fd int, message []byte, rights ...int) error {
	err := unix.Sendmsg(fd, message, unix.UnixRights(rights...), nil, unix.MSG_NOSIGNAL)
	for _, r := range rights {
		unix.Close(r)
	}
	return err
}

// A lingerer makes descriptors that the kernel destroys only after release, or after an hour.
type lingerer struct {
	t        *testing.T
	l        *net.TCPListener
	accepted []net.Conn
	once     sync.Once
}

func newLingerer(t *testing.T) *lingerer {
	t.Helper()
	l := testenv.Must(net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}))(t)
	h := &lingerer{t: t, l: l}
	t.Cleanup(h.release)
	return h
}

// make returns a connection whose peer does not read what was sent.
func (h *lingerer) make() int {
	h.t.Helper()
	fd := testenv.Must(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))(h.t)
	testenv.Check(h.t, unix.Connect(fd, &unix.SockaddrInet4{Port: h.l.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}}))
	h.accepted = append(h.accepted, testenv.Must(h.l.Accept())(h.t))
	testenv.Check(h.t, unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 3600}))
	testenv.Check(h.t, unix.SetNonblock(fd, true))
	var err error
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

// A foreign is the other end of a network, which sends descriptors.
type foreign struct {
	name string
	// expects says that the plug lets it send some.
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
		fd := testenv.Must(unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0))(t)
		t.Cleanup(func() { unix.Close(fd) })
		connectForeign(t, fd, path)
		testenv.Must(vdetest.Read(fd, make([]byte, 1)))(t)
		return c, []int{fd}
	}},
	{"seqpacket", false, func(t *testing.T) (Conn, []int) {
		pair := plugtest.SocketPair(t, unix.SOCK_SEQPACKET)
		fd := testenv.Must(unix.Dup(pair[0]))(t)
		return openPlug(t, seqpacketVNL(fd)), pair[1:]
	}},
	{"vde", false, func(t *testing.T) (Conn, []int) {
		dir := testenv.ShortDir(t)
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
	fd := testenv.Must(unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0))(t)
	t.Cleanup(func() { unix.Close(fd) })
	testenv.Check(t, unix.Bind(fd, &unix.SockaddrUnix{Name: own}))
	if peer != "" {
		connectForeign(t, fd, peer)
	}
	return fd
}

func connectForeign(t *testing.T, fd int, peer string) {
	t.Helper()
	testenv.Eventually(t, "a connection to "+peer, func() bool { return unix.Connect(fd, &unix.SockaddrUnix{Name: peer}) == nil })
}

// eachForeign runs a test for each network. refuses says that the kernel rejects descriptors
// for the plug.
func eachForeign(t *testing.T, test func(t *testing.T, c Conn, sockets []int, refuses bool)) {
	for _, f := range foreigners {
		t.Run(f.name, func(t *testing.T) {
			plugtest.EachKernel(t, func(t *testing.T, refuses bool) {
				testenv.NoLeaks(t)
				c, sockets := f.open(t)
				test(t, c, sockets, refuses && !f.expects)
			})
		})
	}
}

// TestRightsClose sends descriptors that the kernel cannot destroy to each plug on local
// sockets. A plug that expects none rejects them, if the kernel can do that; otherwise Close
// returns, and leaves the goroutine that receives to the kernel.
func TestRightsClose(t *testing.T) {
	testenv.Long(t)
	eachForeign(t, func(t *testing.T, c Conn, sockets []int, refuses bool) {
		h := newLingerer(t)
		frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(7), 60)
		right := h.make
		if refuses {
			right = func() int { return plugtest.DevNull(t) } // they stay this test's
		}
		for _, fd := range sockets {
			// The plug takes one, and the kernel destroys the others.
			err := sendRights(fd, frame, right(), right(), right())
			if refuses && err != unix.EPERM || !refuses && err != nil {
				t.Fatalf("sending descriptors: %v, refused: %v", err, refuses)
			}
		}
		// The plug receives them when no other process has them, or the last one to close
		// them would have to wait.
		in := plugtest.NewInbox(t, c)
		for _, fd := range sockets {
			if refuses {
				continue
			}
			plugtest.Received(t, fd)
			// And one that is still unread when the socket is closed.
			testenv.Check(t, sendRights(fd, frame, h.make()))
		}
		plugtest.Closes(t, in.Conn)
		h.release()
	})
}

// TestRightsAreClosed sends several descriptors with each of many messages.
func TestRightsAreClosed(t *testing.T) {
	eachForeign(t, func(t *testing.T, c Conn, sockets []int, refuses bool) {
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
				if refuses {
					if err != unix.EPERM {
						t.Fatalf("sending descriptors: %v, want %v", err, unix.EPERM)
					}
					err = vdetest.Write(fd, frame)
				}
				testenv.Check(t, err)
				in.Want(t, frame)
			}
		}
		testenv.Eventually(t, "no descriptor more", func() bool { return len(testenv.Descriptors(t)) <= before }, func() string { return fmt.Sprint(len(testenv.Descriptors(t)), before) })
	})
}

// TestRightsInReply answers the request of a client with two descriptors that the kernel
// cannot destroy. Open returns all the same.
func TestRightsInReply(t *testing.T) {
	testenv.Long(t)
	plugtest.EachKernel(t, func(t *testing.T, _ bool) {
		testenv.NoLeaks(t)
		dir := testenv.ShortDir(t)
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
