//go:build amd64 || arm64

package stack

import (
	"context"

	"github.com/vdestack/vdestack/vdeplug"
)

// A network is one that is reached by a plug.
type network struct {
	ctx     context.Context
	vnl     string
	options vdeplug.Options
	opened  chan struct{} // closed when it is open; nil: nobody opens it yet
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

// begin begins to open the network beside what the caller does.
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

// linkChanged logs what has become of a network that is opened again.
func (s *Stack) linkChanged(name string, l vdeplug.Link) {
	switch {
	case l.Err == nil:
		s.log.Info("network is back", "interface", name, "reconnects", l.Reconnects)
	case l.Reconnecting:
		s.log.Warn("network is gone, reconnecting", "interface", name, "error", l.Err)
	}
	// The pump meets the end.
}

// plugNetworks returns the networks of those interfaces that reach theirs by plugs,
// nil for the others. discard gives up what nobody has taken.
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
