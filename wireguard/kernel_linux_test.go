package wireguard

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/mdlayher/netlink"
	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

// TestKernelLink has the kernel's own WireGuard in a stack as peer. Where the kernel does not
// have it, the error says so.
func TestKernelLink(t *testing.T) {
	t.Parallel()
	vnl := "mem://" + t.Name()
	far := newStack(t, vdestack.Interface{VNL: vnl, Addrs: testenv.Prefixes("192.0.2.1/24")})
	nl := testenv.Opened(far.RTNL())(t)
	index, err := nl.LinkAdd(rtnl.LinkSpec{Kind: "wireguard", Name: "wg0"})
	if err != nil {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Error(err)
		}
		t.Logf("this kernel has no WireGuard: %v", err)
		return
	}
	near := newStack(t, vdestack.Interface{VNL: vnl, Addrs: testenv.Prefixes("192.0.2.2/24")})
	key, psk, ours := NewKey(), NewKey(), NewKey()
	setKernelLink(t, far, key, Peer{PublicKey: ours.Public(), PresharedKey: psk, AllowedIPs: testenv.Prefixes("10.0.0.2/32", "fd00::2/128")})
	for _, a := range testenv.Prefixes("10.0.0.1/24", "fd00::1/64") {
		testenv.Check(t, nl.AddrAdd(index, a))
	}
	testenv.Check(t, nl.LinkSetUp(index))
	e := &end{under: near, c: Config{
		PrivateKey: ours, Addrs: testenv.Prefixes("10.0.0.2/24", "fd00::2/64"), Underlay: near, Logger: testLogger(t),
		Peers: []Peer{{PublicKey: key.Public(), PresharedKey: psk, AllowedIPs: testenv.Prefixes("0.0.0.0/0", "::/0"), Endpoint: "192.0.2.1:51820"}},
	}}
	echo(t, far)
	open := func() {
		t.Helper()
		e.Tunnel = testenv.Opened(Open(t.Context(), e.c))(t)
		echo(t, e.Stack())
	}
	works := func(what string) {
		t.Helper()
		t.Log(what)
		for _, addr := range []string{"10.0.0.1", "fd00::1"} {
			transfer(t, e.Stack(), addr, 1<<17)
		}
		for _, addr := range []string{"10.0.0.2", "fd00::2"} {
			transfer(t, far, addr, 1<<17)
		}
	}
	open()
	works("at first")
	testenv.Check(t, e.dev.IpcSet("listen_port=0\n"))
	works("another port")
	e.move(t, "192.0.2.2/24", "192.0.2.12/24")
	works("another address")
	(&end{under: far}).move(t, "192.0.2.1/24", "192.0.2.11/24")
	transfer(t, far, "10.0.0.2", 1<<10) // which says where the kernel is now
	works("another address of the kernel")
	e.expire(t)
	works("new keys")
	testenv.Check(t, e.Close())
	e.c.Peers[0].Endpoint = "192.0.2.11:51820"
	open()
	works("after a restart")
	for st, a := range map[*vdestack.Stack]string{far: "fd09::1/64", near: "fd09::2/64"} {
		c := testenv.Opened(st.RTNL())(t)
		testenv.Check(t, c.AddrAdd(st.Stats().Interfaces[0].Index, netip.MustParsePrefix(a), rtnl.NoDAD))
	}
	p := e.c.Peers[0]
	p.Endpoint = "[fd09::1]:51820"
	testenv.Check(t, e.SetPeer(t.Context(), p))
	works("by IPv6")
	for _, st := range []*vdestack.Stack{far, near} {
		c := testenv.Opened(st.RTNL())(t)
		testenv.Check(t, c.LinkSetMTU(st.Stats().Interfaces[0].Index, 1300))
	}
	works("on a narrow way")
}

// Numbers of linux/wireguard.h.
const (
	wgSetDevice = 1 // command

	wgDeviceName       = 2
	wgDevicePrivateKey = 3
	wgDeviceListenPort = 6
	wgDevicePeers      = 8

	wgPeerPublicKey    = 1
	wgPeerPresharedKey = 2
	wgPeerAllowedIPs   = 9

	wgAllowedFamily = 1
	wgAllowedAddr   = 2
	wgAllowedBits   = 3
)

// setKernelLink configures wg0 of a stack by generic netlink.
func setKernelLink(t *testing.T, st *vdestack.Stack, key Key, p Peer) {
	t.Helper()
	c := testenv.Opened(st.Netlink(unix.NETLINK_GENERIC))(t)
	execute := func(family uint16, command byte, flags netlink.HeaderFlags, fill func(*netlink.AttributeEncoder)) []netlink.Message {
		t.Helper()
		e := netlink.NewAttributeEncoder()
		fill(e)
		data := append([]byte{command, 1, 0, 0}, testenv.Must(e.Encode())(t)...)
		return testenv.Must(c.Execute(netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(family), Flags: netlink.Request | flags}, Data: data}))(t)
	}
	answer := execute(unix.GENL_ID_CTRL, unix.CTRL_CMD_GETFAMILY, 0, func(e *netlink.AttributeEncoder) {
		e.String(unix.CTRL_ATTR_FAMILY_NAME, "wireguard")
	})
	var family uint16
	d := testenv.Must(netlink.NewAttributeDecoder(answer[0].Data[4:]))(t)
	for d.Next() {
		if d.Type() == unix.CTRL_ATTR_FAMILY_ID {
			family = d.Uint16()
		}
	}
	testenv.Check(t, d.Err())
	execute(family, wgSetDevice, netlink.Acknowledge, func(e *netlink.AttributeEncoder) {
		e.String(wgDeviceName, "wg0")
		e.Bytes(wgDevicePrivateKey, key.bytes())
		e.Uint16(wgDeviceListenPort, peerPort)
		e.Nested(wgDevicePeers, func(e *netlink.AttributeEncoder) error {
			e.Nested(0, func(e *netlink.AttributeEncoder) error {
				e.Bytes(wgPeerPublicKey, p.PublicKey[:])
				e.Bytes(wgPeerPresharedKey, p.PresharedKey.bytes())
				e.Nested(wgPeerAllowedIPs, func(e *netlink.AttributeEncoder) error {
					for i, a := range p.AllowedIPs {
						e.Nested(uint16(i), func(e *netlink.AttributeEncoder) error {
							family := uint16(unix.AF_INET)
							if a.Addr().Is6() {
								family = unix.AF_INET6
							}
							e.Uint16(wgAllowedFamily, family)
							e.Bytes(wgAllowedAddr, a.Addr().AsSlice())
							e.Uint8(wgAllowedBits, uint8(a.Bits()))
							return nil
						})
					}
					return nil
				})
				return nil
			})
			return nil
		})
	})
}
