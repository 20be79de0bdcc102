package soak

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
)

// unique returns four bytes that no other task of the run has.
func (s *soak) unique() [4]byte {
	n := s.serial.Add(1)
	return [4]byte{172, 16 | byte(n>>16)&15, byte(n >> 8), byte(n)}
}

// doList lists the configuration of a stack.
func (t *task) doList(m *member) error {
	nl, err := m.st.RTNL()
	if err != nil {
		return err
	}
	defer nl.Close()
	links, err := nl.Links()
	if err != nil {
		return err
	}
	for _, name := range []string{"lo", m.ifName()} {
		if !slices.ContainsFunc(links, func(l rtnl.Link) bool { return l.Name == name }) {
			return fmt.Errorf("links are %v, want %s among them", links, name)
		}
	}
	addrs, err := nl.Addrs()
	if err != nil {
		return err
	}
	for _, want := range m.addrs {
		if !hasAddr(addrs, want) {
			return fmt.Errorf("addresses are %v, want %v among them", addrs, want)
		}
	}
	if _, err := nl.Routes(); err != nil {
		return err
	}
	_, err = nl.Neighbors()
	return err
}

func hasAddr(addrs []rtnl.Addr, want netip.Addr) bool {
	return slices.ContainsFunc(addrs, func(a rtnl.Addr) bool { return a.Prefix.Addr() == want })
}

// doChange adds an address and a route, checks them, and deletes them.
func (t *task) doChange(m *member) error {
	nl, err := m.st.RTNL()
	if err != nil {
		return err
	}
	defer nl.Close()
	index, err := nl.IfNameToIndex(m.ifName())
	if err != nil {
		return err
	}
	u := t.unique()
	addr := netip.AddrFrom4(u)
	dst := netip.AddrFrom4([4]byte{198, 16 | u[1]&15, u[2], u[3]})
	if t.chance(2) {
		addr = netip.AddrFrom16([16]byte{0: 0xfd, 1: 1, 12: u[0], 13: u[1], 14: u[2], 15: u[3]})
		dst = netip.AddrFrom16([16]byte{0: 0xfd, 1: 2, 12: u[0], 13: u[1], 14: u[2], 15: u[3]})
	}
	host, route := netip.PrefixFrom(addr, addr.BitLen()), netip.PrefixFrom(dst, dst.BitLen())

	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	seen := make(chan error, 1)
	watch := nl.Watch(ctx)
	go func() {
		for e, err := range watch {
			if err != nil {
				seen <- err
				return
			}
			if e.Deleted && e.Addr != nil && e.Addr.Prefix.Addr() == addr {
				break
			}
		}
		seen <- ctx.Err()
	}()

	if err := nl.AddrAdd(index, host, rtnl.NoDAD); err != nil {
		return err
	}
	if err := nl.RouteAdd(route, netip.Addr{}, index); err != nil {
		return err
	}
	addrs, err := nl.Addrs()
	if err != nil {
		return err
	}
	if !hasAddr(addrs, addr) {
		return fmt.Errorf("%v was added and is not there: %v", addr, addrs)
	}
	routes, err := nl.Routes()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(routes, func(r rtnl.Route) bool { return r.Dst == route }) {
		return fmt.Errorf("route %v was added and is not there: %v", route, routes)
	}
	if err := nl.RouteDel(route, netip.Addr{}, index); err != nil {
		return err
	}
	if err := nl.AddrDel(index, host); err != nil {
		return err
	}
	return wrap("watching", <-seen)
}

// doSysctl sets a setting.
func (t *task) doSysctl(m *member) error {
	return m.st.Sysctl("net.ipv4.ip_default_ttl", fmt.Sprint(64+t.rng.IntN(100)))
}

// doGiveUp opens a stack without enough time, or on a network that does not exist.
func (t *task) doGiveUp() error {
	cfg := vdestack.Config{Name: "given-up", Interfaces: []vdestack.Interface{{VNL: "lan://given-up"}, {VNL: "mem://given-up"}}}
	if t.chance(2) {
		wrong := []string{"vde:///no/such/directory", "nosuch://", "ptp://" + t.dir + "/no/such", "cmd:///no/such/command", "vxvde://10.0.0.1"}
		cfg.Interfaces[1].VNL = wrong[t.rng.IntN(len(wrong))]
		if err := testenv.Closing(vdestack.New(t.ctx, cfg)); err == nil {
			return fmt.Errorf("the network %s opens", cfg.Interfaces[1].VNL)
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(t.ctx, time.Duration(t.rng.IntN(2000))*time.Microsecond)
	defer cancel()
	err := testenv.Closing(vdestack.New(ctx, cfg))
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}
