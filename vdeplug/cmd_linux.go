package vdeplug

import (
	"context"
	"errors"
	"fmt"

	"github.com/vdestack/vdestack/internal/argv"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/stream"
)

func init() {
	Register(Scheme{
		Name: "cmd",
		Open: plugsOn(openCmd),
		Usage: Usage{
			Form:  "cmd://COMMAND [ARGUMENT...]",
			About: "a program that speaks the VDE stream format; =COMMAND means the same",
		},
	})
}

// openCmd runs a command with a stream on its standard input and output.
func openCmd(_ context.Context, l Locator, _ *Options) (packet.Transport, error) {
	commands, err := argv.Split(l.Body(), nil)
	switch {
	case err != nil:
		return nil, err
	case len(commands) == 0:
		return nil, errors.New("no command given")
	case len(commands) > 1:
		return nil, fmt.Errorf("%d commands given, want one (with quotes: sh -c '…; …')", len(commands))
	}
	return stream.NewCommand(commands[0])
}
