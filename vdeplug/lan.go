package vdeplug

import (
	"context"
	"errors"
	"fmt"
)

func init() {
	Register(Scheme{
		Name: "lan",
		Open: openLAN,
		Usage: Usage{
			Form:  "lan://[NAME]",
			About: "a switch of the kernel for the stacks of this process, and no other plugs",
		},
	})
}

// openLAN rejects plugs: package stack makes the interfaces of lan:// itself.
func openLAN(_ context.Context, l Locator, _ *Options) (Conn, error) {
	return nil, fmt.Errorf("%q joins the interfaces of stacks, and has no plugs (mem:// has): %w", l, errors.ErrUnsupported)
}
