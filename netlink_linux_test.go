package vdestack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// netlinkOf opens a connection for the length of the test.
func netlinkOf(t *testing.T, s *Stack, family int) *netlink.Conn {
	t.Helper()
	c := testenv.Opened(s.Netlink(family))(t)
	testenv.Check(t, c.SetDeadline(time.Now().Add(testenv.Timeout)))
	return c
}

// getLinks is a request to list the interfaces.
func getLinks() netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request | netlink.Dump},
		Data:   make([]byte, unix.SizeofIfInfomsg),
	}
}

// TestNetlink sends requests to several families.
func TestNetlink(t *testing.T) {
	netnstest.NoLeaks(t)
	s := open(t, "mem://"+t.Name(), "10.0.0.1/24")
	ln := testenv.Listen(t, s, "tcp", "10.0.0.1:0")

	route := netlinkOf(t, s, unix.NETLINK_ROUTE)
	links := testenv.Must(route.Execute(getLinks()))(t)
	if !slices.ContainsFunc(links, func(m netlink.Message) bool { return bytes.Contains(m.Data, []byte("vde0\x00")) }) {
		t.Errorf("none of %d links is vde0", len(links))
	}

	// "nlctrl" is the family 16 of NETLINK_GENERIC; CTRL_CMD_GETFAMILY is 3.
	attrs := netlink.NewAttributeEncoder()
	attrs.String(unix.CTRL_ATTR_FAMILY_NAME, "nlctrl")
	data := append([]byte{unix.CTRL_CMD_GETFAMILY, 1, 0, 0}, testenv.Must(attrs.Encode())(t)...)
	generic := netlinkOf(t, s, unix.NETLINK_GENERIC)
	answer := testenv.Must(generic.Execute(netlink.Message{Header: netlink.Header{Type: unix.GENL_ID_CTRL, Flags: netlink.Request}, Data: data}))(t)
	if len(answer) != 1 || !bytes.Contains(answer[0].Data, []byte("nlctrl\x00")) {
		t.Errorf("got %v", answer)
	}

	// SOCK_DIAG_BY_FAMILY with a struct inet_diag_req_v2, of sockets of TCP in all states.
	data = make([]byte, 56)
	data[0], data[1] = unix.AF_INET, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(data[4:], 0xffffffff)
	diag := netlinkOf(t, s, unix.NETLINK_SOCK_DIAG)
	answer = testenv.Must(diag.Execute(netlink.Message{Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request | netlink.Dump}, Data: data}))(t)
	port := binary.BigEndian.AppendUint16(nil, uint16(ln.Addr().(*net.TCPAddr).Port))
	if len(answer) != 1 || !bytes.Equal(answer[0].Data[4:6], port) {
		t.Errorf("got %v, want the one listener on port %x", answer, port)
	}

	// An error of the kernel, with its number.
	_, err := generic.Execute(netlink.Message{Header: netlink.Header{Type: 0xfff0, Flags: netlink.Request | netlink.Acknowledge}, Data: make([]byte, 4)})
	if !errors.Is(err, unix.ENOENT) {
		t.Errorf("got %v", err)
	}
	for _, family := range []int{-1, 32} {
		if _, err := s.Netlink(family); !errors.Is(err, os.ErrInvalid) || !strings.HasPrefix(err.Error(), "stack: netlink family ") {
			t.Errorf("family %d: %v", family, err)
		}
	}
	if _, err := s.Netlink(31); !errors.Is(err, unix.EPROTONOSUPPORT) || !strings.Contains(err.Error(), "netlink family 31: ") {
		t.Errorf("got %v", err)
	}
	if route.PID() == 0 || route.PID() == netlinkOf(t, s, unix.NETLINK_ROUTE).PID() {
		t.Errorf("port %d", route.PID())
	}
	route.Close()
	if _, err := route.Execute(getLinks()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v after Close", err)
	}
}

// TestNetlinkOptions calls everything that needs more than Send and Receive.
func TestNetlinkOptions(t *testing.T) {
	s := open(t, "")
	c := netlinkOf(t, s, unix.NETLINK_ROUTE)
	for _, o := range []netlink.ConnOption{netlink.PacketInfo, netlink.BroadcastError, netlink.NoENOBUFS, netlink.CapAcknowledge, netlink.ExtendedAcknowledge, netlink.GetStrictCheck} {
		for _, on := range []bool{true, false} {
			if err := c.SetOption(o, on); err != nil {
				t.Errorf("option %d: %v", o, err)
			}
		}
	}
	if err := c.SetOption(99, true); !errors.Is(err, unix.ENOPROTOOPT) {
		t.Errorf("got %v", err)
	}
	testenv.Check(t, c.SetReadBuffer(8192))
	testenv.Check(t, c.SetWriteBuffer(8192))
	if n, err := c.ReadBuffer(); n != 2*8192 || err != nil { // with the kernel's own
		t.Errorf("%d bytes, %v", n, err)
	}
	if n, err := c.WriteBuffer(); n != 2*8192 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	raw := testenv.Must(c.SyscallConn())(t)
	testenv.Check(t, raw.Control(func(fd uintptr) {
		if v, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PROTOCOL); v != unix.NETLINK_ROUTE || err != nil {
			t.Errorf("protocol %d, %v", v, err)
		}
	}))

	// Events: of a filter that takes nothing, then of none.
	nl := testenv.Opened(s.RTNL())(t)
	testenv.Check(t, c.JoinGroup(unix.RTNLGRP_LINK))
	testenv.Check(t, c.SetBPF(testenv.Must(bpf.Assemble([]bpf.Instruction{bpf.RetConstant{Val: 0}}))(t)))
	testenv.Must(nl.LinkAdd(rtnl.LinkSpec{Name: "unseen", Kind: "bridge"}))(t)
	testenv.Check(t, c.RemoveBPF())
	testenv.Must(nl.LinkAdd(rtnl.LinkSpec{Name: "seen", Kind: "bridge"}))(t)
	events := testenv.Must(c.Receive())(t)
	if len(events) != 1 || events[0].Header.Type != unix.RTM_NEWLINK || !bytes.Contains(events[0].Data, []byte("seen\x00")) || bytes.Contains(events[0].Data, []byte("unseen")) {
		t.Errorf("got %v", events)
	}
	testenv.Check(t, c.LeaveGroup(unix.RTNLGRP_LINK))
	testenv.Check(t, c.SetReadDeadline(time.Unix(1, 0)))
	var err error
	for err == nil { // events that came before LeaveGroup
		_, err = c.Receive()
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	testenv.Check(t, c.SetDeadline(time.Time{}))
	two := []netlink.Message{getLinks(), getLinks()}
	two[1].Header.Flags = netlink.Request
	binary.NativeEndian.PutUint32(two[1].Data[4:], 1) // loopback
	sent := testenv.Must(c.SendMessages(two[1:]))(t)
	answer := testenv.Must(c.Receive())(t)
	testenv.Check(t, netlink.Validate(sent[0], answer))
}

// TestNetlinkClose closes the stack, which ends calls that wait.
func TestNetlinkClose(t *testing.T) {
	netnstest.NoLeaks(t)
	s := open(t, "")
	c := testenv.Must(s.Netlink(unix.NETLINK_ROUTE))(t)
	testenv.Check(t, c.JoinGroup(unix.RTNLGRP_LINK))
	testenv.Must(c.Execute(getLinks()))(t)
	ended := make(chan error)
	go func() {
		_, err := c.Receive()
		ended <- err
	}()
	testenv.Check(t, s.Close())
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if _, err := c.Send(getLinks()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if _, err := s.Netlink(0); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if _, err := new(Stack).Netlink(0); !errors.Is(err, ErrNoStack) {
		t.Errorf("got %v", err)
	}
}
