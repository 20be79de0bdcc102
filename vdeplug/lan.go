package vdeplug

import (
	"context"
	"errors"
	"fmt"

	"github.com/vdestack/vdestack/internal/bridge"
	"github.com/vdestack/vdestack/internal/packet"
)

func init() {
	Register(Scheme{
		Name: "lan",
		Open: plugsOn(openLAN),
		Usage: Usage{
			Form:  "lan://[NAME], lan:///PATH",
			About: "a switch of the kernel for the stacks of this process; at a path, of this user",
		},
	})
}

// openLAN joins the network of a path. It rejects plugs on that of a name: package stack
// makes the interfaces itself.
func openLAN(ctx context.Context, l Locator, _ *Options) (packet.Transport, error) {
	if path := bridge.SharedPath(l.Body()); path != "" {
		return openShared(ctx, path)
	}
	return nil, fmt.Errorf("%q joins the interfaces of stacks, and has no plugs (mem:// and lan:///PATH have): %w", l, errors.ErrUnsupported)
}
