package vdeplug

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

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
	if path := sharedPath(l); path != "" {
		return openShared(ctx, path)
	}
	return nil, fmt.Errorf("%q joins the interfaces of stacks, and has no plugs (mem:// and lan:///PATH have): %w", l, errors.ErrUnsupported)
}

// sharedPath returns the path of a network of lan:// that processes share; "" if it is
// not one.
func sharedPath(l Locator) string {
	if l.Scheme() != "lan" || !filepath.IsAbs(l.Body()) {
		return ""
	}
	return filepath.Clean(l.Body())
}
