//go:build amd64 || arm64

package stack

import (
	"context"
	"errors"

	"github.com/vdestack/vdestack/internal/bridge"
	"github.com/vdestack/vdestack/internal/memnet"
	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/nic"
	"github.com/vdestack/vdestack/rtnl"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

// A link is what an interface is made of, and its way to its network:
//
//   - a [tapLink] is a TAP, whose packets a pump carries to a plug;
//   - a [vethLink] is a veth pair with a pump at its other end, where there is no TAP;
//   - a [portLink] is a veth pair that ends in a bridge of the kernel;
//   - a [TUN] has its owner for a network.
type link interface {
	// start begins to carry packets of the configured interface. When it returns, the
	// network gets what the interface sends.
	start(ctx context.Context) error
	// monitor opens a socket that sees all packets of the interface, to record them; nil
	// if the pump records.
	monitor() (*nic.Monitor, error)
	// leave leaves the network, and ends the recording. It is called once. stays says
	// that the namespace stays in use, so that the interface does not end with it.
	leave(stays bool) error
	// remove removes the interface, and waits for the pump. socket is in a namespace that
	// ends soon, to which the interface may be left; -1 for a namespace that stays.
	remove(socket int) error
	// stats adds the current name of the interface and the counters. It can be called
	// after remove too.
	stats(st *InterfaceStats)
}

var (
	_ link = (*tapLink)(nil)
	_ link = (*vethLink)(nil)
	_ link = (*portLink)(nil)
	_ link = (*TUN)(nil)
)

// make makes the link of an interface, down, and finds the index of the interface. n is
// the network that it is plugged into, nil if the kernel switches that, and for a TUN. If an error
// leaves something to be removed, i.link is set.
func (i *iface) make(ctx context.Context, nl *rtnl.Conn, n *network) error {
	var err error
	if i.tun != nil {
		err = i.makeTUN(nl)
	} else {
		err = i.makeLink(ctx, nl, n)
	}
	if err == nil && i.index == 0 { // the kernel has chosen it
		i.index, err = nl.IfNameToIndex(i.cfg.Name)
	}
	return err
}

func (i *iface) makeLink(ctx context.Context, nl *rtnl.Conn, n *network) error {
	if n == nil {
		err := i.makePort(ctx, nl)
		if !errors.Is(err, bridge.ErrMissing) || i.cfg.scheme() != memScheme {
			return err
		}
		memnet.UserSpace.Store(true) // for all later ones
		i.s.log.Debug("the network is switched in user space", "interface", i.cfg.Name, "error", err)
		n = i.s.newNetwork(ctx, i.cfg)
	}
	plug, err := n.take()
	if err == nil {
		if err = i.makePlugged(ctx, nl, plug); err != nil && i.link == nil {
			plug.Close()
		}
	}
	return err
}

// makePlugged makes an interface with a pump: a TAP or, where there is none, a veth pair.
func (i *iface) makePlugged(ctx context.Context, nl *rtnl.Conn, plug vdeplug.Conn) error {
	var noTAP error
	if i.cfg.Kind != KindVeth {
		if noTAP = i.makeTAP(nl, plug); noTAP == nil || i.cfg.Kind == KindTAP || i.link != nil || !noDevice(noTAP) {
			return noTAP
		}
		i.s.log.Debug("the interface is a veth pair", "interface", i.cfg.Name, "error", noTAP)
	}
	return i.makeVeth(ctx, nl, plug, noTAP)
}

// end describes the interface as an end of a veth pair.
func (i *iface) end(nl *rtnl.Conn) bridge.End {
	return bridge.End{
		NS: i.s.ns, Netlink: nl, Shared: i.s.joined,
		Name: i.cfg.Name, Index: i.wanted, MTU: i.cfg.MTU, MAC: i.cfg.MAC,
	}
}

// currentName returns the current name of an interface, which a command or netlink can
// change.
func (s *Stack) currentName(index int) (string, error) {
	fd, err := s.ns.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	return netns.IfName(fd, index)
}
