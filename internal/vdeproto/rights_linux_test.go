package vdeproto

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/vdestack/vdestack/internal/fabric"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vdeproto/vdetest"
	"golang.org/x/sys/unix"
)

// A holder is a port that stops its fabric, which holds its lock while it counts the copies
// of a flood.
type holder struct {
	once          sync.Once
	held, release chan struct{}
}

func (h *holder) Deliver([]packet.Packet) {}

func (h *holder) Dropped() (recv, send uint64) { return 0, 0 }

func (h *holder) TakesGSO() bool {
	h.once.Do(func() { close(h.held) })
	<-h.release
	return true
}

// hold stops a fabric with ports until release is called: no packets are forwarded, and no
// ports join or leave.
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

// taps makes TAP devices. The kernel needs some 20 ms to destroy each.
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
		testenv.Check(t, err)
		fds = append(fds, fd)
	}
	return fds
}

// foreignInterfaces counts the interfaces of taps.
func foreignInterfaces(t *testing.T) int {
	t.Helper()
	b := testenv.Must(os.ReadFile("/proc/thread-self/net/dev"))(t)
	return strings.Count(string(b), "foreign")
}

// TestRightsAtSwitch sends descriptors to all sockets of a switch, as a client. The process
// of the switch goes on while the kernel destroys them: a call that the runtime does not
// know of would stop it at the next garbage collection.
func TestRightsAtSwitch(t *testing.T) {
	testenv.Long(t)
	for _, socket := range []string{"frames", "packets", "control", "waiting"} {
		t.Run(socket, func(t *testing.T) {
			plugtest.EachKernel(t, func(t *testing.T, refuses bool) {
				testenv.NoLeaks(t)
				fds := []int{plugtest.DevNull(t)} // the test keeps it
				if !refuses {
					unix.Close(fds[0])
					fds = taps(t, 40)
				}
				dir := filepath.Join(testenv.ShortDir(t), "sw")
				c := openSwitch(t, dir, 0o600, 0o700)
				var fd int
				busy := func() { vdetest.Write(fd, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(3), 60)) }
				admits := func() {
					other := vdetest.DialRaw(t, dir)
					other.Request(vdetest.Request(other.Path, ""))
					plugtest.Received(t, other.Ctl)
				}
				switch socket {
				case "frames":
					fd = vdetest.DialRaw(t, dir).Join().Data
				case "control":
					fd, busy = vdetest.DialRaw(t, dir).Join().Ctl, admits
				case "waiting":
					fd, busy = vdetest.DialRaw(t, dir).Ctl, admits
				case "packets":
					client := openPlug(t, dir)
					if !client.on.gso {
						t.Fatal("no pair")
					}
					client.on.data.Raw.Control(func(p uintptr) { fd = int(p) })
					busy = func() {
						testenv.Check(t, client.Send(plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(3), 60)))
					}
				}
				// The receiver has to wait until nobody else has them.
				s, _ := servers.byDir.Load(dir)
				release := hold(s.(*server).fabric)
				busy()
				plugtest.Received(t, fd)
				// Send them with an invalid packet.
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
				testenv.Check(t, err)
				plugtest.Received(t, fd)
				for range 3 {
					runtime.GC()
				}
				if foreignInterfaces(t) == 0 {
					t.Error("the process stood still until the kernel had destroyed all descriptors")
				}
				plugtest.Closes(t, c)
				testenv.Eventually(t, "the devices to be gone", func() bool { return foreignInterfaces(t) == 0 })
			})
		})
	}
}
