package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/program"
)

// run makes the stack, runs the command in it and returns the exit status.
func run(o *options) int {
	sigs := program.WatchSignals()
	var stdout io.Writer = os.Stdout
	if o.capture != "" {
		w, err := o.openCapture()
		if err != nil {
			return report(err)
		}
		defer func() {
			// The log says what was not recorded; the status is the command's.
			if err := w.Close(); err != nil {
				report(err)
			}
		}()
		if o.capture == "-" {
			stdout = os.Stderr
		}
	}
	if err := o.configureSlirp(); err != nil {
		return report(err)
	}
	var dns vdestack.DNS
	for _, a := range o.dns {
		dns.Servers = append(dns.Servers, netip.AddrPortFrom(a, 0))
	}
	s, err := vdestack.New(sigs.Context, vdestack.Config{
		Interfaces: o.interfaces,
		DNS:        dns,
		Logger:     logger,
	})
	if err != nil {
		return report(cmp.Or(context.Cause(sigs.Context), err))
	}
	defer s.Close()
	quiet, err := o.configure(sigs.Context, s)
	if err != nil {
		return report(err)
	}
	defer quiet()
	if err := program.OpenPorts(sigs.Context, s, logger, o.ports); err != nil {
		return report(err)
	}

	cmd := s.Command(context.Background(), o.command[0], o.command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, stdout, os.Stderr
	if err := o.prepare(cmd); err != nil {
		return report(err)
	}
	status, err := sigs.Run(cmd)
	if err != nil {
		return report(err)
	}
	return status
}

// prepare gives the command what the options say, and its own resolv.conf if there is one.
func (o *options) prepare(cmd *vdestack.Cmd) error {
	cmd.Names, cmd.SysAdmin, cmd.Hostname = o.names, o.sysAdmin, o.hostname
	if o.resolvConf == "" {
		return nil
	}
	name, err := filepath.Abs(o.resolvConf)
	if err == nil {
		_, err = os.Stat(name)
	}
	if err != nil {
		return fmt.Errorf("the file for %s: %w", resolvConf, err)
	}
	cmd.Binds = []vdestack.Bind{{From: name, To: resolvConf}}
	return nil
}

var logger = program.NewLogger(slog.LevelInfo)

// errOutput is where report prints.
var errOutput = os.Stderr

// report prints why the command did not run, and returns the exit status.
func report(err error) int { return program.Report(errOutput, "vdens", err) }

// resolvConf is where programs look for name servers, resolv.conf(5).
const resolvConf = "/etc/resolv.conf"
