package soak

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/vdestack/vdestack"
)

// doRoute opens three stacks for itself and moves payloads from one to another, through
// the third, which has two interfaces and forwards.
func (t *task) doRoute() error {
	n := &network{name: fmt.Sprint("route", t.serial.Add(1))}
	var router vdestack.Config
	var configs []vdestack.Config
	for side := range 2 {
		vnl := fmt.Sprintf("%s://%s.%d", []string{"mem", "lan"}[t.rng.IntN(2)], n.name, side)
		mtu := 1280 + t.rng.IntN(9000-1280)
		station := func(nth byte) vdestack.Interface {
			return vdestack.Interface{VNL: vnl, MTU: mtu, Addrs: []netip.Prefix{
				netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 200, byte(side), nth}), 24),
				netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 4, 2: byte(side), 15: nth}), 64),
			}}
		}
		near, end := station(1), station(2)
		end.Gateways = []netip.Addr{near.Addrs[0].Addr(), near.Addrs[1].Addr()}
		configs = append(configs, vdestack.Config{Interfaces: []vdestack.Interface{end}})
		// A router needs a link-local address to find its neighbours. The kernel's own
		// cannot be used before duplicate address detection is complete.
		near.Addrs = append(near.Addrs, netip.MustParsePrefix("fe80::1/64"))
		router.Interfaces = append(router.Interfaces, near)
	}
	configs = append(configs, router)
	ms := make([]*member, len(configs))
	errs := make([]error, len(configs))
	var wg sync.WaitGroup
	for i, cfg := range configs {
		wg.Go(func() { ms[i], errs[i] = t.openAs(n, cfg) })
	}
	wg.Wait()
	defer func() {
		for _, i := range t.rng.Perm(len(ms)) {
			if errs[i] == nil {
				t.end(ms[i])
			}
		}
	}()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, name := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		if err := ms[2].st.Sysctl(name, "1"); err != nil {
			return err
		}
	}
	return t.doTCP(ms[0], ms[1])
}

// openAs opens a stack that only this task uses, so that its Close excuses nothing.
func (t *task) openAs(n *network, cfg vdestack.Config) (*member, error) {
	m := &member{net: n, serial: n.serial.Add(1)}
	cfg.Name = m.String()
	for _, i := range cfg.Interfaces {
		for _, p := range i.Addrs {
			m.addrs = append(m.addrs, p.Addr())
		}
	}
	return m, m.create(t, cfg)
}

// doJoin joins the namespace of a stack as a second one, uses both, and closes
// the second.
func (t *task) doJoin(a, b *member) error {
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
	// The second stack must not close the sockets of the first.
	ln, err := a.st.Listen("tcp", net.JoinHostPort(a.addrs[0].String(), "0"))
	if err != nil {
		joined.close()
		return err
	}
	defer ln.Close()
	if t.chance(2) {
		err = t.doTCP(joined, b)
	} else {
		err = t.doTCP(b, joined)
	}
	if err == nil {
		err = joined.st.Command(t.ctx, "true").Run()
	}
	if cerr := joined.close(); cerr != nil {
		t.Errorf("closing %v, which has joined: %v", joined, cerr)
	}
	if err != nil {
		return wrap("with the joined stack", err)
	}
	if err := t.carries(a, ln); err != nil {
		return wrap("after the joined stack was closed", err)
	}
	return nil
}

// carries returns an error if the stack does not reach a listener of its own.
func (t *task) carries(m *member, ln net.Listener) error {
	c, err := m.st.DialContext(t.ctx, "tcp", ln.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	ln.(*net.TCPListener).SetDeadline(t.deadline())
	s, err := ln.Accept()
	if err != nil {
		return err
	}
	return errors.Join(m.inside(s), s.Close())
}
