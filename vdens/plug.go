package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vdestack/vdestack/internal/argv"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/program"
	"github.com/vdestack/vdestack/internal/sched"
	"github.com/vdestack/vdestack/internal/stream"
	"github.com/vdestack/vdestack/vdeplug"
)

// A plugCommand has the settings of a command line of "vdens plug".
type plugCommand struct {
	networks   []string // one is joined with standard input and output
	command    []string // what follows "=" is the second network; nil if there is none
	sockets    [2]socketOptions
	reconnect  bool
	descr      string
	daemon     bool
	pidfile    string
	log, iplog bool
}

// socketOptions are options of vde:// that its locator has too.
type socketOptions struct{ port, group, mode string }

// table returns the options that "vdens plug" has.
func (p *plugCommand) table() []option {
	first, second := &p.sockets[0], &p.sockets[1]
	return []option{
		{names: "-d --daemon", set: flagOption(&p.daemon),
			about: "go to the background once the networks are there"},
		{names: "-p --pidfile", value: "file", file: true, set: textOption(&p.pidfile),
			about: "write the number of the process there, until its end"},
		{names: "-l --log", set: flagOption(&p.log),
			about: "log the begin and the end to syslog"},
		{names: "-L --iplog", set: flagOption(&p.iplog),
			about: "also each IP address that comes from the second network or the\nstream"},
		{names: "-D --descr", value: "text", set: textOption(&p.descr),
			about: "what switches show for the port"},
		{names: "-m --mod", value: "mode", set: textOption(&first.mode),
			about: "permissions of the sockets of vde://, as [mode=...] there"},
		{names: "-g --group", value: "group", set: textOption(&first.group),
			about: "group of the sockets of vde://, as [group=...] there"},
		{names: "--port", value: "n", set: textOption(&first.port),
			about: "port of vde://, unless it has one, as [n] there"},
		{names: "-M --mod2", value: "mode", set: textOption(&second.mode),
			about: "permissions for the second network"},
		{names: "-G --group2", value: "group", set: textOption(&second.group),
			about: "group for the second network"},
		{names: "--port2", value: "n", set: textOption(&second.port),
			about: "port of the second network"},
		{names: "-reconnect", set: flagOption(&p.reconnect),
			about: "open a network again that is gone, and do not end"},
		{names: "-h --help", set: showOption(showUsage),
			about: "show this"},
	}
}

// parsePlug reads the command line.
func parsePlug(args []string) (*plugCommand, error) {
	p := &plugCommand{descr: "vdens plug"}
	err := p.split(p.table(), args)
	if err != nil {
		return nil, err
	}
	if p.command != nil && len(p.command) == 0 {
		return nil, errors.New(`there is no command after "="`)
	}
	if len(p.networks) == 0 {
		p.networks = []string{""} // the default network of the user
	}
	if p.command != nil {
		p.networks = append(p.networks, "cmd://"+argv.Join(p.command))
	}
	switch {
	case len(p.networks) > 2:
		return nil, fmt.Errorf("plug joins two networks, these are %d: %q", len(p.networks), p.networks)
	case p.daemon && len(p.networks) == 1:
		return nil, errors.New("-d needs a second network or a command: in the background there is no standard input")
	}
	for i, o := range p.sockets {
		if i >= len(p.networks) {
			break
		}
		if p.networks[i], err = o.add(p.networks[i]); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// split sets the options, networks and command of a command line. Options and networks may
// come in any order. The command follows "="; nil means that there is none.
func (p *plugCommand) split(table []option, args []string) (err error) {
	for {
		if args, err = parseOptions(table, args); err != nil || len(args) == 0 {
			return err
		}
		word := args[0]
		args = args[1:]
		switch word {
		case "--":
		case "=":
			p.command = args
			return nil
		default:
			p.networks = append(p.networks, word)
		}
	}
}

// add adds the options to a locator. As in C they count for vde:// only, and what the locator
// says has precedence.
func (o socketOptions) add(vnl string) (string, error) {
	if o == (socketOptions{}) {
		return vnl, nil
	}
	if n, err := strconv.Atoi(o.port); o.port != "" && (err != nil || n <= 0) {
		return "", fmt.Errorf("port %q is not a number from 1", o.port)
	}
	if vnl == "" {
		return "", errors.New("-m, -g and --port need the name of the network, the default one may be any")
	}
	l, err := vdeplug.Parse(vnl)
	if err != nil || l.Scheme() != "vde" {
		return vnl, nil // Open returns the error
	}
	t, err := l.ParseBracketed()
	if err != nil {
		return vnl, nil
	}
	has := func(names ...string) bool {
		return slices.ContainsFunc(t.Options, func(o vdeplug.Option) bool {
			return slices.Contains(names, o.Name) || !o.HasValue && slices.Contains(names, "")
		})
	}
	var more []string
	if o.port != "" && !has("port", "portgroup", "") {
		more = append(more, "port="+o.port)
	}
	if o.group != "" && !has("group") {
		more = append(more, "group="+o.group)
	}
	if o.mode != "" && !has("mode") {
		more = append(more, "mode="+o.mode)
	}
	options := strings.Join(more, "/")
	switch {
	case len(more) == 0:
		return vnl, nil
	case strings.HasSuffix(vnl, "]") && len(t.Options) > 0:
		return strings.TrimSuffix(vnl, "]") + "/" + options + "]", nil
	}
	return strings.TrimSuffix(vnl, "[]") + "[" + options + "]", nil
}

// plugMain is main for "vdens plug".
func plugMain(args []string) {
	p, err := parsePlug(args)
	if err != nil {
		noCommand(err)
	}
	background := false
	if p.daemon {
		if background = inBackground(); !background {
			os.Exit(startBackground())
		}
	}
	os.Exit(p.run(background))
}

// run joins the networks until one ends or a signal arrives, and returns the exit status.
// background says that another process waits until the networks are there.
func (p *plugCommand) run(background bool) int {
	sched.Batch()
	// If the reader of the stream is gone, Write returns the error.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	sigs := program.WatchSignals()
	var conns []vdeplug.Conn
	var ends []packet.Transport
	defer func() {
		for _, c := range conns {
			if err := c.Close(); err != nil {
				report(err)
			}
		}
	}()
	log, stop := p.startLog()
	defer stop()
	fail := func(err error) int {
		log("ERROR " + err.Error())
		return report(err)
	}
	for _, vnl := range p.networks {
		c, err := vdeplug.OpenContext(sigs.Context, vnl, &vdeplug.Options{
			Description: p.descr, Reconnect: p.reconnect, Notify: func(l vdeplug.Link) { logLink(vnl, l) },
			Logger: logger.With("network", vdeplug.Redact(vnl)),
		})
		if err != nil {
			return fail(cmp.Or(context.Cause(sigs.Context), err))
		}
		conns, ends = append(conns, c), append(ends, transportOf(c))
	}
	var stdio packet.Transport
	if len(conns) == 1 {
		stdio = transportOf(vdeplug.NewStream(stream.Stdio{}))
		defer stdio.Close() // frames that were not read by now are lost
		ends = append(ends, stdio)
	}
	second := ends[1]
	if p.iplog {
		ends[1] = &addressLog{Layer: packet.Layer{Inner: second}, log: log}
	}
	if p.pidfile != "" {
		remove, err := createPIDFile(p.pidfile)
		if err != nil {
			return fail(fmt.Errorf("-p: %w", err))
		}
		defer remove()
	}
	if background {
		if err := leave(); err != nil {
			return fail(err)
		}
	}
	joined := packet.Join(ends[0], ends[1])
	select {
	case <-sigs.Context.Done():
		return report(context.Cause(sigs.Context))
	case end := <-joined:
		ofSecond := end.Of == ends[1]
		switch {
		case ofSecond && stdio != nil && (errors.Is(end.Err, io.EOF) || errors.Is(end.Err, syscall.EPIPE)):
			return 0
		case ofSecond && p.command != nil:
			return commandEnd(end, joined)
		}
		return fail(end.Err)
	}
}

// commandEnd returns the exit status of the command after "=", which has ended or reads no
// more.
func commandEnd(end packet.Failure, joined <-chan packet.Failure) int {
	exit, ok := errors.AsType[*exec.ExitError](end.Err)
	if !ok {
		// Its end was noticed by writing to it; reading from it tells how it ended.
		select {
		case other := <-joined:
			exit, ok = errors.AsType[*exec.ExitError](other.Err)
		case <-time.After(time.Second):
		}
	}
	if !ok {
		return report(end.Err)
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return program.StatusSignalBase + int(status.Signal())
	}
	return exit.ExitCode()
}

func transportOf(c vdeplug.Conn) packet.Transport {
	return packet.Of[vdeplug.Drops](c, vdeplug.MaxFrame)
}

// logLink logs that a network is gone or back.
func logLink(vnl string, l vdeplug.Link) {
	switch {
	case l.Err == nil:
		logger.Info("network is back", "network", vdeplug.Redact(vnl), "reconnects", l.Reconnects)
	case l.Reconnecting:
		logger.Warn("network is gone, reconnecting", "network", vdeplug.Redact(vnl), "error", l.Err)
	}
}
