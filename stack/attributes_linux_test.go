//go:build amd64 || arm64

package stack

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/bridge"
	"github.com/vdestack/vdestack/internal/linktest"
	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/nic"
	"github.com/vdestack/vdestack/rtnl"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/testenv"
)

// A space is where links are made.
type space struct {
	open func(path string, flags int) (fd int, err error)
	nl   *rtnl.Conn
}

// TestAttributes compares the links of each way in which one is made with what the
// kernel gives "ip tuntap add" and "ip link add", set up.
func TestAttributes(t *testing.T) {
	testenv.Long(t)
	tap := func(flags uint16) func(t *testing.T, in space) int {
		return func(t *testing.T, in space) int {
			fd := testenv.Must(in.open(tunDevice, unix.O_RDWR))(t)
			t.Cleanup(func() { unix.Close(fd) })
			ifr, _ := unix.NewIfreq("ref")
			ifr.SetUint16(flags)
			testenv.Check(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr))
			return testenv.Must(in.nl.IfNameToIndex("ref"))(t)
		}
	}
	link := func(t *testing.T, in space) int { return linktest.Add(t, in.nl, "veth") }
	plainTAP := tap(nic.Flags(nic.All))
	stackOf := func(cfg ...Interface) func(t *testing.T) (space, int) {
		return func(t *testing.T) (space, int) {
			s := made(t, Config{Interfaces: cfg})
			nl := testenv.Opened(s.RTNL())(t)
			return space{s.ns.Open, nl}, s.interfaces()[len(cfg)-1].index
		}
	}
	for _, tt := range []struct {
		name    string
		make    func(t *testing.T) (space, int)
		ref     func(t *testing.T, in space) int
		differs linktest.Diff
		down    bool
	}{
		{name: "first TAP", make: stackOf(Interface{VNL: "null://"}), ref: plainTAP},
		{name: "second TAP", make: stackOf(Interface{}, Interface{}), ref: plainTAP},
		{name: "TAP with MAC", make: stackOf(Interface{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}), ref: plainTAP},
		{name: "TAP with MTU", make: stackOf(Interface{MTU: 1400}), ref: plainTAP, differs: linktest.Because("it is given", "MTU", "AF_SPEC/INET6/CONF")},
		{name: "TAP that is down", make: stackOf(Interface{Down: true}), ref: plainTAP, down: true},
		{name: "TAP without offloads", make: stackOf(Interface{NoOffload: 0xff}), ref: tap(unix.IFF_TAP | unix.IFF_NO_PI)},
		{name: "TAP in user space", make: func(t *testing.T) (space, int) {
			netnstest.InUserSpace(t)
			return stackOf(Interface{VNL: "mem://" + t.Name()})(t)
		}, ref: plainTAP},
		{name: "joined", make: func(t *testing.T) (space, int) {
			s := made(t, Config{Interfaces: []Interface{{}}})
			f := testenv.Opened(s.NetNS())(t)
			in := made(t, Config{NetNS: fmt.Sprintf("/proc/self/fd/%d", f.Fd()), Interfaces: []Interface{{Name: "in"}}})
			nl := testenv.Opened(in.RTNL())(t)
			return space{in.ns.Open, nl}, in.interfaces()[0].index
		}, ref: plainTAP},
		{name: "plug", down: true, make: func(t *testing.T) (space, int) {
			if os.Geteuid() != 0 {
				t.Skip("making an interface needs root")
			}
			nl := testenv.Opened(rtnl.Dial(nil))(t)
			testenv.Opened(vdeplug.Open("tap://attributes", nil))(t)
			index := testenv.Must(nl.IfNameToIndex("attributes"))(t)
			return space{func(path string, flags int) (int, error) { return unix.Open(path, flags|unix.O_CLOEXEC, 0) }, nl}, index
		}, ref: plainTAP},
		{name: "veth", make: stackOf(Interface{Kind: KindVeth}), ref: link, differs: linktest.VethEnd},
		{name: "lan", make: stackOf(Interface{VNL: "lan://attributes"}), ref: link, differs: linktest.VethEnd},
		{name: "mem", make: stackOf(Interface{VNL: "mem://attributes"}), ref: link, differs: linktest.VethEnd},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			in, index := tt.make(t)
			ref := tt.ref(t, in)
			linktest.Compare(t, in.nl, index, ref, tt.differs, tt.down, func(i int) { bridge.AwaitCarrier(t.Context(), in.nl, i) })
		})
	}
}
