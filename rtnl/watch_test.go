package rtnl

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/mdlayher/netlink"

	"github.com/vdestack/vdestack/internal/testenv"
)

// TestWatchDecode goes on after messages of other kinds, malformed ones and an overrun.
func TestWatchDecode(t *testing.T) {
	c, _ := dialFake(t, nil)
	f := newFake(nil)
	w, err := c.startWatch(t.Context(), f)
	testenv.Check(t, err)
	note := func(typ netlink.HeaderType, data []byte) netlink.Message {
		return reply(netlink.Message{}, typ, 0, data)
	}
	bridge := linkMessage(2, "port")
	bridge[0] = 7 // AF_BRIDGE
	addr, err := (&Addr{IfIndex: 1, Prefix: mustPrefix("10.0.0.1/8")}).encode()
	testenv.Check(t, err)
	cached := make([]byte, sizeofRtMsg)
	cached[0], cached[9] = afInet, rtmFCloned>>8
	for _, d := range []any{
		[]netlink.Message{note(rtmNewLink, linkMessage(1, "a")), note(rtmDelLink, bridge), note(99, nil)},
		note(rtmNewAddr, addr),
		note(rtmNewRoute, cached),
		note(rtmDelAddr, []byte{afInet}),
		syscall.ENOBUFS,
		[]byte{1, 2, 3},
		note(rtmDelLink, linkMessage(1, "a")),
		errors.New("broken"),
	} {
		f.queue <- d
	}
	var got []string
	for e, err := range w.run {
		switch {
		case err != nil:
			got = append(got, err.Error())
		case e.Link != nil:
			got = append(got, fmt.Sprint(e.Link.Name, " ", e.Deleted))
		case e.Addr != nil:
			got = append(got, fmt.Sprint(e.Addr.Prefix, " ", e.Deleted))
		}
	}
	want := []string{
		"a false",
		"10.0.0.1/8 false",
		"rtnl: watch: malformed netlink message (address message: 4 bytes are too short)",
		"rtnl: watch: " + syscall.ENOBUFS.Error() + " (changes were lost: list again)",
		"rtnl: watch: malformed netlink message",
		"a true",
		"rtnl: watch: broken",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !f.isClosed() || len(c.watches) != 0 {
		t.Error("the watch is not gone after its last error")
	}
}
