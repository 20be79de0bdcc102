package vdeplug

import (
	"context"

	"github.com/vdestack/vdestack/internal/memnet"
	"github.com/vdestack/vdestack/internal/packet"
)

func init() {
	Register(Scheme{
		Name:  "mem",
		Open:  plugsOn(openMem),
		Usage: Usage{Form: "mem://[NAME]", About: "a switch inside the process"},
	})
}

// openMem connects to a switch inside the process. The body is its name, and may be empty.
func openMem(_ context.Context, l Locator, _ *Options) (packet.Transport, error) {
	return memnet.Open(l.Body())
}
