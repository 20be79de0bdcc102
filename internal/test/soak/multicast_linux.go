package main

import (
	"net"
	"net/netip"
	"time"

	"github.com/vdestack/vdestack"
)

// doMulticast sends packets to a group that a stack has joined, until one arrives.
func (t *task) doMulticast(a, b *member) error {
	if a.net.loopback() {
		return errSkip
	}
	u := t.unique()
	network, i := "udp4", 0
	group := netip.AddrFrom4([4]byte{239, u[1], u[2], u[3]})
	if t.chance(2) {
		network, i = "udp6", 1
		group = netip.AddrFrom16([16]byte{0: 0xff, 1: 5, 12: u[0], 13: u[1], 14: u[2], 15: u[3]})
	}
	to := netip.AddrPortFrom(group, uint16(1024+t.rng.IntN(30000)))
	pc, err := a.st.ListenMulticastUDP(network, "vde0", to)
	if err != nil {
		return wrap("listening", err)
	}
	defer pc.Close()
	if err := a.inside(pc); err != nil {
		return err
	}
	// The source address determines the interface.
	d := vdestack.Dialer{Stack: b.st}
	d.LocalAddr = &net.UDPAddr{IP: b.addrs[i].AsSlice()}
	remote := to
	if i == 1 {
		remote = netip.AddrPortFrom(group.WithZone("vde0"), to.Port())
	}
	c, err := d.DialContext(t.ctx, network, remote.String())
	if err != nil {
		return err
	}
	defer c.Close()
	p := makePacket(t.rng, t.rng.Uint64(), randomSize(t.rng, 1400))
	buf := make([]byte, 1<<16)
	for {
		if _, err := c.Write(p); err != nil {
			return wrap("sending", err)
		}
		t.bytes.Add(uint64(len(p)))
		pc.SetReadDeadline(time.Now().Add(resend))
		n, err := pc.Read(buf)
		if err == nil {
			_, err = checkPacket(buf[:n])
			return err
		}
		if !isTimeout(err) || t.ctx.Err() != nil {
			return wrap("receiving", err)
		}
	}
}
