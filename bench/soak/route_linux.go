package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/rtnl"
)

// doRoute opens three stacks for itself, of which the middle one has two
// interfaces and routes, and moves payloads from one end to the other.
func (t *task) doRoute() error {
	if len(t.nets) == 1 {
		return errSkip // there are no interfaces here
	}
	n := &network{name: fmt.Sprint("route", t.serial.Add(1))}
	var middle []vdestack.Interface
	var ms []*member
	defer func() {
		for _, i := range t.rng.Perm(len(ms)) {
			t.end(ms[i])
		}
	}()
	for side := range 2 {
		vnl := fmt.Sprintf("%s://%s.%d", []string{"mem", "lan"}[t.rng.IntN(2)], n.name, side)
		mtu := 1280 + t.rng.IntN(9000-1280)
		i := func(nth byte) vdestack.Interface {
			return vdestack.Interface{VNL: vnl, MTU: mtu, Addrs: []netip.Prefix{
				netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 200, byte(side), nth}), 24),
				netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 4, 2: byte(side), 15: nth}), 64),
			}}
		}
		router := i(1)
		middle = append(middle, router)
		end := i(2)
		end.Gateways = []netip.Addr{router.Addrs[0].Addr(), router.Addrs[1].Addr()}
		m, err := t.openAs(n, vdestack.Config{Interfaces: []vdestack.Interface{end}})
		if err != nil {
			return err
		}
		ms = append(ms, m)
	}
	router, err := t.openAs(n, vdestack.Config{Interfaces: middle})
	if err != nil {
		return err
	}
	ms = append(ms, router)
	for _, name := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		if err := router.st.Sysctl(name, "1"); err != nil {
			return err
		}
	}
	if err := router.awaitLinkLocal(2); err != nil {
		return err
	}
	return t.stream(ms[0], ms[1])
}

// awaitLinkLocal waits until n interfaces have a link-local address that no
// other station has. A router asks for its neighbours from there: before, it
// cannot forward. That takes a second or two, and longer where the kernel is
// busy with the namespaces of other programs.
func (m *member) awaitLinkLocal(n int) error {
	nl, err := m.st.RTNL()
	if err != nil {
		return err
	}
	defer nl.Close()
	var addrs []rtnl.Addr
	ready := within(opTime/2, func() bool {
		if addrs, err = nl.Addrs(); err != nil {
			return true
		}
		count := 0
		for _, a := range addrs {
			if a.Prefix.Addr().IsLinkLocalUnicast() && a.Flags&rtnl.Tentative == 0 {
				count++
			}
		}
		return count == n
	})
	if err == nil && !ready {
		err = fmt.Errorf("the link-local addresses are not usable: %v", addrs)
	}
	return err
}

// openAs opens a stack that only this task uses: that it is closed in the end
// excuses nothing.
func (t *task) openAs(n *network, cfg vdestack.Config) (*member, error) {
	m := &member{net: n, serial: n.serial.Add(1)}
	cfg.Name = m.String()
	for _, i := range cfg.Interfaces {
		for _, p := range i.Addrs {
			m.addrs = append(m.addrs, p.Addr())
		}
	}
	var err error
	if m.st, err = vdestack.New(t.ctx, cfg); err != nil {
		return nil, err
	}
	if err := m.identify(); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

// doJoin joins the namespace of a stack as a second one, uses both, and closes
// the second.
func (t *task) doJoin() error {
	ms := t.members(2)
	if ms == nil {
		return errSkip
	}
	a, b := ms[0], ms[1]
	f, err := a.st.NetNS()
	if err != nil {
		return err
	}
	defer f.Close()
	cfg := vdestack.Config{
		NetNS: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()),
		DNS:   vdestack.DNS{Hosts: make(map[string][]netip.Addr)},
	}
	for _, other := range a.known {
		cfg.DNS.Hosts[other.name()] = other.addrs
	}
	u := t.unique()
	extra := netip.AddrFrom4(u)
	if !a.net.loopback() && t.chance(2) {
		cfg.Interfaces = []vdestack.Interface{{
			VNL:   []string{"mem", "lan"}[t.rng.IntN(2)] + "://join",
			Name:  fmt.Sprintf("j%x", u),
			Addrs: []netip.Prefix{netip.PrefixFrom(extra, 32)},
		}}
	}
	joined, err := t.openAs(a.net, cfg)
	if err != nil {
		return wrap("joining", err)
	}
	if joined.space != a.space || joined.cookie != a.cookie {
		joined.close()
		return fmt.Errorf("joined %s, want %s", joined.space, a.space)
	}
	joined.addrs, joined.known = a.addrs, a.known
	// What the first stack has is not the second's to close.
	ln, err := a.st.Listen("tcp", net.JoinHostPort(a.addrs[0].String(), "0"))
	if err != nil {
		joined.close()
		return err
	}
	defer ln.Close()
	if t.chance(2) {
		err = t.stream(joined, b)
	} else {
		err = t.stream(b, joined)
	}
	if err == nil {
		err = joined.st.Command(t.ctx, "true").Run()
	}
	if cerr := joined.close(); cerr != nil {
		t.fail("closing %v, which has joined: %v", joined, cerr)
	}
	if err != nil {
		return wrap("with the joined stack", err)
	}
	if err := a.carries(t.ctx, ln); err != nil {
		return wrap("after the joined stack was closed", err)
	}
	return nil
}

// carries reports whether a listener of the stack is reached from the stack.
func (m *member) carries(ctx context.Context, ln net.Listener) error {
	c, err := m.st.DialContext(ctx, "tcp", ln.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(opTime))
	s, err := ln.Accept()
	if err != nil {
		return err
	}
	return errors.Join(m.inside(s), s.Close())
}
