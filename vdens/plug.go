package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/sched"
	"github.com/vdestack/vdestack/internal/stream"
	"github.com/vdestack/vdestack/vdeplug"
)

// A plugCommand has the settings of a command line of "vdens plug".
type plugCommand struct {
	networks  []string // one is joined with standard input and output
	reconnect bool
	descr     string
}

// table returns the options that "vdens plug" has.
func (p *plugCommand) table() []option {
	return []option{
		{names: "-reconnect", set: flagOption(&p.reconnect),
			about: "open a network again that is gone, and do not end"},
		{names: "-D --descr", value: "text", set: textOption(&p.descr),
			about: "what switches show for the port"},
		{names: "-h --help", set: showOption(showUsage),
			about: "show this"},
	}
}

func parsePlug(args []string) (_ *plugCommand, err error) {
	p := &plugCommand{descr: "vdens plug"}
	if p.networks, err = parseOptions(p.table(), args); err != nil {
		return nil, err
	}
	if len(p.networks) == 0 {
		p.networks = []string{""} // the default network of the user
	}
	if len(p.networks) > 2 {
		return nil, fmt.Errorf("plug joins two networks, these are %d: %q (options come first)", len(p.networks), p.networks)
	}
	return p, nil
}

// plugMain is main for "vdens plug".
func plugMain(args []string) {
	p, err := parsePlug(args)
	if err != nil {
		noCommand(err)
	}
	os.Exit(p.run())
}

// run joins the networks until one ends or a signal arrives, and returns the exit status.
func (p *plugCommand) run() int {
	sched.Batch()
	// If the reader of the stream is gone, Write returns the error.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	sigs := watchSignals()
	var conns []vdeplug.Conn
	var ends []packet.Transport
	defer func() {
		for _, c := range conns {
			if err := c.Close(); err != nil {
				report(err)
			}
		}
	}()
	for _, vnl := range p.networks {
		c, err := vdeplug.OpenContext(sigs.ctx, vnl, &vdeplug.Options{
			Description: p.descr, Reconnect: p.reconnect, Notify: func(l vdeplug.Link) { logLink(vnl, l) },
		})
		if err != nil {
			return report(cmp.Or(context.Cause(sigs.ctx), err))
		}
		conns, ends = append(conns, c), append(ends, transportOf(c))
	}
	var stdio packet.Transport
	if len(conns) == 1 {
		stdio = transportOf(vdeplug.NewStream(stream.Stdio{}))
		defer stdio.Close() // frames that were not read by now are lost
		ends = append(ends, stdio)
	}
	select {
	case <-sigs.ctx.Done():
		return report(context.Cause(sigs.ctx))
	case end := <-packet.Join(ends[0], ends[1]):
		if end.Of == stdio && (errors.Is(end.Err, io.EOF) || errors.Is(end.Err, syscall.EPIPE)) {
			return 0
		}
		return report(end.Err)
	}
}

func transportOf(c vdeplug.Conn) packet.Transport {
	return packet.Of[vdeplug.Drops](c, vdeplug.MaxFrame)
}

// logLink logs that a network is gone or back.
func logLink(vnl string, l vdeplug.Link) {
	switch {
	case l.Err == nil:
		logger.Info("network is back", "network", vnl, "reconnects", l.Reconnects)
	case l.Reconnecting:
		logger.Warn("network is gone, reconnecting", "network", vnl, "error", l.Err)
	}
}
