package vdeplug

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// A netns is a network namespace that plays another host, or here.
type netns struct {
	path string // for nsenter and ip
	jobs chan func()
}

// testNetns is the namespace of the tests.
var testNetns *netns

// newNetns makes a namespace for the time of the test. It needs root.
func newNetns(t *testing.T) *netns {
	t.Helper()
	testenv.NeedRoot(t, "making a namespace for a thread")
	ns := &netns{jobs: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends
		err := unix.Unshare(unix.CLONE_NEWNET)
		ns.path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		made <- err
		for job := range ns.jobs {
			job()
		}
	}()
	err := <-made
	t.Cleanup(func() { close(ns.jobs) })
	testenv.Check(t, err)
	return ns
}

// do runs f in the namespace. f must not end the test.
func (ns *netns) do(f func()) {
	if ns == testNetns {
		f()
		return
	}
	done := make(chan struct{})
	ns.jobs <- func() {
		defer close(done)
		f()
	}
	<-done
}

// ip runs ip in the namespace.
func (ns *netns) ip(t testing.TB, args string) {
	t.Helper()
	cmd := exec.Command(testenv.Need(t, "ip", "iproute2"), strings.Fields(args)...)
	var out []byte
	var err error
	ns.do(func() { out, err = cmd.CombinedOutput() })
	if err != nil {
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

// ip runs ip in the namespace of the tests.
func ip(t testing.TB, args string) {
	t.Helper()
	testNetns.ip(t, args)
}

// wire connects the namespace with that of the tests: interface wire0 here, with 10.9.8.1/24
// and fd98::1/64, and wire1 there, with the addresses that end in 2.
func (ns *netns) wire(t *testing.T) {
	t.Helper()
	ip(t, "link add wire0 type veth peer name wire1 netns "+ns.path)
	t.Cleanup(func() { ip(t, "link del wire0") })
	for i, end := range []*netns{testNetns, ns} {
		end.ip(t, fmt.Sprintf("link set wire%d up", i))
		end.ip(t, fmt.Sprintf("addr add 10.9.8.%d/24 dev wire%d", i+1, i))
		end.ip(t, fmt.Sprintf("addr add fd98::%d/64 dev wire%d nodad", i+1, i))
	}
}

// cPlug starts vde_plug in the namespace.
func (ns *netns) cPlug(t *testing.T, vnl string) *plugtest.CConn {
	t.Helper()
	plug := testenv.Need(t, "vde_plug", "vdeplug")
	return plugtest.CCommand(t, testenv.Need(t, "nsenter", "util-linux"), "--net="+ns.path, plug, vnl)
}

// packetSocket opens a packet socket on an interface of the namespace.
func (ns *netns) packetSocket(t *testing.T, ifname string) *plugtest.Inbox {
	t.Helper()
	var s packetSocket
	var err error
	ns.do(func() { s, err = openPacket(ifname) })
	testenv.Check(t, err)
	return plugtest.NewInbox(t, s)
}
