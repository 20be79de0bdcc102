//go:build amd64 || arm64

package stack

import (
	"context"

	"github.com/vdestack/vdestack/vdeplug"
)

// A network is to be reached by a plug.
type network struct {
	ctx     context.Context
	vnl     string
	options vdeplug.Options
	opened  chan struct{} // closed when begin has opened it; nil before begin
	plug    vdeplug.Conn  // nil once it is taken
	err     error
}

func (s *Stack) newNetwork(ctx context.Context, cfg Interface) *network {
	vnl := cfg.VNL
	if vnl == "" {
		vnl = "null://"
	}
	o := vdeplug.Options{Reconnect: !cfg.NoReconnect, Notify: func(l vdeplug.Link) { s.linkChanged(cfg.Name, l) }}
	return &network{ctx: ctx, vnl: vnl, options: o}
}

// begin opens the network in the background. n may be nil.
func (n *network) begin() {
	if n == nil {
		return
	}
	n.opened = make(chan struct{})
	go func() {
		defer close(n.opened)
		n.open()
	}()
}

func (n *network) open() { n.plug, n.err = vdeplug.OpenContext(n.ctx, n.vnl, &n.options) }

// take returns the plug, and opens the network if begin has not.
func (n *network) take() (plug vdeplug.Conn, err error) {
	if n.opened == nil {
		n.open()
	} else {
		<-n.opened
	}
	plug, n.plug = n.plug, nil
	return plug, n.err
}

// linkChanged logs that a network is gone or back. The pump logs one that is gone for
// good.
func (s *Stack) linkChanged(name string, l vdeplug.Link) {
	switch {
	case l.Err == nil:
		s.log.Info("network is back", "interface", name, "reconnects", l.Reconnects)
	case l.Reconnecting:
		s.log.Warn("network is gone, reconnecting", "interface", name, "error", l.Err)
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
			if n != nil && n.opened != nil {
				<-n.opened
				if n.plug != nil {
					n.plug.Close()
				}
			}
		}
	}
}
