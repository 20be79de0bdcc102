package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/vdestack/vdestack"
)

// run makes the stack, runs the command in it and returns the exit status.
func run(o *options) int {
	sigs := watchSignals()
	var stdout io.Writer = os.Stdout
	if o.capture != "" {
		w, err := openCapture(o)
		if err != nil {
			return report(err)
		}
		defer func() {
			// The log says what was not recorded; the status is the command's.
			if err := w.Close(); err != nil {
				report(err)
			}
		}()
		if w == os.Stdout {
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
	s, err := vdestack.New(sigs.ctx, vdestack.Config{
		Interfaces: o.interfaces,
		DNS:        dns,
		Logger:     logger,
	})
	if err != nil {
		return report(cmp.Or(context.Cause(sigs.ctx), err))
	}
	defer s.Close()
	quiet, err := o.configure(sigs.ctx, s)
	if err != nil {
		return report(err)
	}
	defer quiet()
	if err := o.openPorts(sigs.ctx, s); err != nil {
		return report(err)
	}

	cmd := s.Command(context.Background(), o.command[0], o.command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, stdout, os.Stderr
	cmd.KeepGroup = true // a command in the background could not read the terminal
	if errors.Is(cmd.Err, exec.ErrDot) {
		cmd.Err = nil // the user has put the working directory into PATH
	}
	if err := start(cmd, o, sigs); err != nil {
		return report(err)
	}
	cmd.Wait() // its error is in ProcessState
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case !ok:
		return report(errors.New("the end of the command is not known"))
	case status.Signaled():
		return statusSignalBase + int(status.Signal())
	}
	return status.ExitStatus()
}

// openCapture opens the file that all interfaces are recorded to.
func openCapture(o *options) (w *os.File, err error) {
	w = os.Stdout
	if o.capture == "-" {
		// The reader may end before the command does.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	} else if w, err = os.OpenFile(o.capture, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return nil, err // only the owner may read the file: it has all traffic
	}
	for i := range o.interfaces {
		o.interfaces[i].Capture = w
	}
	return w, nil
}

// start starts the command, with its own resolv.conf if there is one.
func start(cmd *vdestack.Cmd, o *options, sigs *signals) error {
	cmd.Names, cmd.SysAdmin, cmd.Hostname = o.names, o.sysAdmin, o.hostname
	if o.resolvConf != "" {
		name, err := filepath.Abs(o.resolvConf)
		if err == nil {
			_, err = os.Stat(name)
		}
		if err != nil {
			return fmt.Errorf("the file for %s: %w", resolvConf, err)
		}
		cmd.Binds = []vdestack.Bind{{From: name, To: resolvConf}}
	}
	return sigs.start(cmd)
}

var logger = newLogger(slog.LevelInfo)

// newLogger returns a logger for a person at a terminal, without the time.
func newLogger(level slog.Leveler) *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// errOutput is where report prints.
var errOutput = os.Stderr

// report prints why the command did not run, and returns the exit status.
func report(err error) int {
	var (
		interrupted interruptError
		path        *fs.PathError
		name        *exec.Error
		status      = statusFailed
	)
	switch {
	case errors.As(err, &interrupted):
		return statusSignalBase + int(interrupted.Signal)
	case errors.As(err, &name):
		err, status = fmt.Errorf("%s: command not found", name.Name), statusNotFound
	case errors.As(err, &path) && path.Op == "exec" && errors.Is(err, fs.ErrNotExist):
		err, status = fmt.Errorf("%s: %w", path.Path, path.Err), statusNotFound
	case errors.As(err, &path) && path.Op == "exec":
		err, status = fmt.Errorf("%s: %w", path.Path, path.Err), statusNoExec
	}
	fmt.Fprintln(errOutput, "vdens:", err)
	return status
}

// resolvConf is where programs look for name servers, resolv.conf(5).
const resolvConf = "/etc/resolv.conf"

// signals handles the signals that would end vdens. Until the command runs, they do.
// Then those of the terminal reach the command directly, which is in the same process
// group, and the others are passed on.
type signals struct {
	ctx    context.Context // done if a signal ends vdens before the command runs
	cancel context.CancelCauseFunc

	mu      sync.Mutex  // guards command
	command *os.Process // once it runs
}

// interruptError is a signal that ended vdens.
type interruptError struct{ syscall.Signal }

func (e interruptError) Error() string { return e.Signal.String() }

func watchSignals() *signals {
	s := &signals{}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	arrived := make(chan os.Signal, 8)
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGHUP} {
		// Ignored signals stay ignored, for the command too: nohup relies on it.
		if !signal.Ignored(sig) {
			signal.Notify(arrived, sig)
		}
	}
	go func() {
		for sig := range arrived {
			s.handle(sig.(syscall.Signal))
		}
	}()
	return s
}

func (s *signals) handle(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.command == nil:
		s.cancel(interruptError{sig})
	case sig == syscall.SIGTERM, sig == syscall.SIGHUP:
		s.command.Signal(sig) // fails only if it has ended
	}
}

// start starts the command, unless a signal came first.
func (s *signals) start(cmd *vdestack.Cmd) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := context.Cause(s.ctx); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.command = cmd.Process
	return nil
}
