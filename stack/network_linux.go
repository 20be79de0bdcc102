//go:build amd64 || arm64

package stack

import (
	"cmp"
	"context"
	"sync"

	"github.com/vdestack/vdestack/vdeplug"
)

// A network is to be reached by a plug.
type network struct {
	open  func() (vdeplug.Conn, error) // once; later calls return the same
	begun bool
	taken bool // the plug belongs to the caller of take
}

func (s *Stack) newNetwork(ctx context.Context, cfg Interface) *network {
	o := vdeplug.Options{
		Reconnect: !cfg.NoReconnect,
		Notify:    func(l vdeplug.Link) { s.linkChanged(cfg, l) },
		Logger:    s.log.With("interface", cfg.Name, "network", vdeplug.Redact(cfg.VNL)),
	}
	return &network{open: sync.OnceValues(func() (vdeplug.Conn, error) {
		return vdeplug.OpenContext(ctx, cmp.Or(cfg.VNL, "null://"), &o)
	})}
}

// begin opens the network in the background. n may be nil.
func (n *network) begin() {
	if n != nil {
		n.begun = true
		go n.open()
	}
}

// take returns the plug, and opens the network if begin has not.
func (n *network) take() (vdeplug.Conn, error) {
	n.taken = true
	return n.open()
}

// linkChanged logs that a network is gone or back. The pump logs one that is gone for
// good.
func (s *Stack) linkChanged(cfg Interface, l vdeplug.Link) {
	switch {
	case l.Err == nil:
		s.log.Info("network is back", "interface", cfg.Name, "network", vdeplug.Redact(cfg.VNL), "reconnects", l.Reconnects)
	case l.Reconnecting:
		s.log.Warn("network is gone, reconnecting", "interface", cfg.Name, "network", vdeplug.Redact(cfg.VNL), "error", l.Err)
	}
}

// plugNetworks returns the networks of the interfaces with plugs, nil for the others.
// discard closes plugs that were not taken.
func (s *Stack) plugNetworks(ctx context.Context, interfaces []Interface) (all []*network, discard func()) {
	ctx, cancel := context.WithCancel(ctx)
	all = make([]*network, len(interfaces))
	for j, f := range interfaces {
		if f.plugged() {
			all[j] = s.newNetwork(ctx, f)
		}
	}
	return all, func() {
		cancel()
		for _, n := range all {
			if n != nil && n.begun && !n.taken {
				if plug, err := n.open(); err == nil {
					plug.Close()
				}
			}
		}
	}
}
