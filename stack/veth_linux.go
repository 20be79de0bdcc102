//go:build amd64 || arm64

package stack

import (
	"context"
	"errors"
	"fmt"

	"github.com/vdestack/vdestack/internal/bridge"
	"github.com/vdestack/vdestack/internal/teardown"
	"github.com/vdestack/vdestack/rtnl"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

// A vethLink is a veth pair with a pump between its other end and a plug.
type vethLink struct {
	pump
	pair *bridge.Pair
}

// makeVeth makes the interface. noTAP says why it is not a TAP; nil if that was not
// tried.
func (i *iface) makeVeth(ctx context.Context, nl *rtnl.Conn, plug vdeplug.Conn, noTAP error) error {
	pair, dev, index, err := bridge.OpenPair(ctx, i.end(nl), i.cfg.offload())
	if errors.Is(err, unix.EEXIST) {
		err = explainTaken(err)
	}
	switch {
	case err != nil && noTAP != nil:
		return fmt.Errorf("%w; without it: %w", noTAP, err)
	case err != nil:
		return fmt.Errorf("making interface %s: %w", i.cfg.Name, err)
	}
	i.link, i.index = &vethLink{pump{i: i, plug: plug, dev: dev}, pair}, index
	return nil
}

// start implements [link].
func (v *vethLink) start(ctx context.Context) error {
	if !v.i.cfg.Down {
		if err := v.pair.Await(ctx); err != nil {
			return err
		}
	}
	v.run()
	return nil
}

// remove implements [link].
func (v *vethLink) remove(socket int) error {
	defer teardown.Within(v.running.Wait) // the kernel may hold one of them in its plug
	err := v.dev.Close()
	if socket < 0 {
		return errors.Join(err, v.pair.Remove())
	}
	return errors.Join(err, v.pair.Abandon())
}

// stats implements [link].
func (v *vethLink) stats(st *InterfaceStats) {
	if name, err := v.i.s.currentName(v.i.index); err == nil {
		st.Name = name
	}
	v.pump.stats(st)
}
