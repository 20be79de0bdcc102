package rtnl_test

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/rtnl"
)

// Messages of C nlinline: 10.1.2.3/24 and fc00::1/64 on interface 2, and the
// default route through 10.1.2.254.
const (
	cAddAddr  = "28000000 1400 0506 01000000 00000000 02 18 00 00 02000000 0800 0200 0a010203 0800 0100 0a010203"
	cDelAddr  = "28000000 1500 0500 01000000 00000000 02 18 00 00 02000000 0800 0200 0a010203 0800 0100 0a010203"
	cAddAddr6 = "40000000 1400 0506 01000000 00000000 0a 40 02 00 02000000 1400 0200 fc000000000000000000000000000001 1400 0100 fc000000000000000000000000000001"
	cAddRoute = "2c000000 1800 0506 01000000 00000000 02 00 00 00 fe 03 00 01 00000000 0800 0000 00000000 0800 0500 0a0102fe"
	cDelRoute = "2c000000 1900 0500 01000000 00000000 02 00 00 00 fe 03 00 01 00000000 0800 0000 00000000 0800 0500 0a0102fe"
)

// cCall does what a call of C nlinline does: one socket, one message, one answer.
func cCall(t *testing.T, ns namespace, message string) error {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(message, " ", ""))
	check(t, err)
	f, err := ns.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	check(t, err)
	defer f.Close()
	fd := int(f.Fd())
	check(t, unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
	_, err = unix.Write(fd, b)
	check(t, err)
	answer := make([]byte, 36)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	check(t, err)
	if n < 20 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		t.Fatalf("answer %x", answer[:n])
	}
	if code := int32(binary.NativeEndian.Uint32(answer[16:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

// TestNlinline has C and Go undo what the other did.
func TestNlinline(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		t.Skip("the bytes are little-endian")
	}
	c, ns := dial(t)
	if i := addLink(t, c, rtnl.LinkSpec{Name: "br", Kind: "bridge"}); i != 2 {
		t.Fatalf("bridge has index %d, the messages say 2", i)
	}
	check(t, c.LinkSetUp(2))
	p, gw := prefix("10.1.2.3/24"), addr("10.1.2.254")
	steps := []struct {
		name string
		err  func() error
		want error
	}{
		{"C adds the address", func() error { return cCall(t, ns, cAddAddr) }, nil},
		{"Go adds it again", func() error { return c.AddrAdd(2, p) }, unix.EEXIST},
		{"C adds the route", func() error { return cCall(t, ns, cAddRoute) }, nil},
		{"Go adds it again", func() error { return c.RouteAdd(netip.Prefix{}, gw, 0) }, unix.EEXIST},
		{"Go deletes the route", func() error { return c.RouteDel(netip.Prefix{}, gw, 0) }, nil},
		{"Go deletes the address", func() error { return c.AddrDel(2, p) }, nil},
		{"C misses the address", func() error { return cCall(t, ns, cDelAddr) }, unix.EADDRNOTAVAIL},
		{"Go adds the address", func() error { return c.AddrAdd(2, p) }, nil},
		{"Go adds the route", func() error { return c.RouteAdd(netip.Prefix{}, gw, 0) }, nil},
		{"C adds it again", func() error { return cCall(t, ns, cAddRoute) }, unix.EEXIST},
		{"C deletes the route", func() error { return cCall(t, ns, cDelRoute) }, nil},
		{"C deletes the address", func() error { return cCall(t, ns, cDelAddr) }, nil},
		{"Go misses the address", func() error { return c.AddrDel(2, p) }, unix.EADDRNOTAVAIL},
		{"C adds the IPv6 address", func() error { return cCall(t, ns, cAddAddr6) }, nil},
		{"Go deletes the IPv6 address", func() error { return c.AddrDel(2, prefix("fc00::1/64")) }, nil},
	}
	for _, s := range steps {
		if err := s.err(); !errors.Is(err, s.want) || s.want == nil && err != nil {
			t.Errorf("%s: got %v, want %v", s.name, err, s.want)
		}
	}
}
