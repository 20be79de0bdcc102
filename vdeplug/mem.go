package vdeplug

import (
	"context"

	"github.com/vdestack/vdestack/internal/memnet"
)

func init() {
	Register(Scheme{
		Name:  "mem",
		Open:  openMem,
		Usage: Usage{Form: "mem://[NAME]", About: "a switch inside the process"},
	})
}

// openMem connects to a switch inside the process. The body is its name, and may be empty.
func openMem(_ context.Context, l Locator, _ *Options) (Conn, error) {
	p, err := memnet.Open(l.Body())
	if err != nil {
		return nil, err
	}
	return newPlug(l.String(), p), nil
}
