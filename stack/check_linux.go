//go:build amd64 || arm64

package stack

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"

	"github.com/mdlayher/netlink"
	"github.com/vdestack/vdestack/internal/bridge"
	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

// Check finds out what works on this machine by trying it in a stack of its own, which it
// closes: it takes some milliseconds, sends nothing, and leaves other stacks alone. The
// kernel may load modules, as it does when what they have is used. The error is that of the
// look itself, as when ctx has ended; what the machine refuses is in the Report.
func Check(ctx context.Context) (*Report, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	r, reached := &Report{}, error(nil)
	add := func(name string, err error) {
		if e, ok := errors.AsType[*netns.Explained](err); ok && e.Reached() && reached == nil {
			reached = err
		}
		r.add(name, err)
	}
	s, err := New(ctx, Config{Name: "check"})
	if err == nil {
		defer s.Close()
	}
	t := trial{ctx, s}
	tap, veth := err, err
	if err == nil {
		tap, veth = t.add("null://", KindTAP), t.add("null://", KindVeth)
		if tap != nil && veth != nil {
			err = t.add("null://", "")
		}
	}
	user, mounts, hostname := netns.Try()
	add(featureStack, err)
	add("user namespaces", user)
	if s == nil {
		add("TUN", tryTUN())
	} else {
		add("TUN", tap)
	}
	for _, f := range []struct {
		name string
		try  func() error
	}{
		{"veth", func() error { return veth }},
		{"bridge", func() error { return t.add(fmt.Sprintf("lan://check-%x", rand.Uint64()), "") }},
		{"settings", func() error { return s.Sysctl("net.ipv4.ip_forward", "1") }},
		{"mounts", func() error { return mounts }},
		{"host names", func() error { return hostname }},
		{"nftables", t.nftables},
		{"vxlan", func() error { return t.link(rtnl.LinkSpec{Kind: "vxlan", VXLAN: &rtnl.VXLAN{ID: 1}}) }},
		{"WireGuard", func() error { return t.link(rtnl.LinkSpec{Kind: "wireguard"}) }},
		{"MPTCP", t.mptcp},
	} {
		if err := ended(ctx); err != nil {
			return nil, err
		}
		if s == nil {
			r.Features = append(r.Features, Feature{Name: f.name, Reason: "there is no stack"})
		} else {
			add(f.name, f.try())
		}
	}
	add("limits", reached)
	if last := &r.Features[len(r.Features)-1]; last.Works {
		last.Reason = netns.Limits()
	}
	if err := ended(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// ended returns an error if ctx has ended: what was refused then may have been refused by it.
func ended(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	return nil
}

// reasonOf returns why something was refused, and the remedy if that is known.
func reasonOf(err error) (why, remedy string) {
	if e, ok := errors.AsType[*RefusedError](err); ok {
		return netns.Cut(e.Reason)
	}
	if e, ok := errors.AsType[*netns.Explained](err); ok {
		return netns.Cut(e.Reason)
	}
	return err.Error(), ""
}

// A trial tries things in a stack.
type trial struct {
	ctx context.Context
	s   *Stack
}

func (t trial) add(vnl string, kind Kind) error {
	return t.s.AddInterface(t.ctx, Interface{VNL: vnl, Kind: kind, Name: fmt.Sprintf("check%d", len(t.s.interfaces()))})
}

// tryTUN opens the device without making an interface.
func tryTUN() error {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return explainTUN(&os.PathError{Op: "open", Path: tunDevice, Err: err})
	}
	unix.Close(fd)
	return errors.New("there is no stack")
}

// link makes a link without a network.
func (t trial) link(l rtnl.LinkSpec) error {
	nl, err := t.s.RTNL()
	if err != nil {
		return err
	}
	defer nl.Close()
	_, err = nl.LinkAdd(l)
	return netns.Refused(bridge.Explain(err, l.Kind))
}

// nftables asks for the generation of the rules, which exists if the kernel has nf_tables.
func (t trial) nftables() error {
	c, err := t.s.Netlink(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   make([]byte, 4), // struct nfgenmsg
	})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return refused(err, "the kernel has no nftables: modprobe nf_tables")
	}
	return netns.Refused(err)
}

// mptcp makes a socket of multipath TCP.
func (t trial) mptcp() error {
	f, err := t.s.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
	if err == nil {
		f.Close()
	}
	return err
}
