// Package program is what programs share that run a command in a stack, as vdens does: exit
// statuses, signals, errors and ports.
package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unicode/utf8"

	"github.com/vdestack/vdestack"
)

// Exit statuses of the programs themselves, the same as those of env.
const (
	StatusUsage      = 2
	StatusFailed     = 125
	StatusNoExec     = 126
	StatusNotFound   = 127
	StatusSignalBase = 128
)

// NewLogger returns a logger for a person at a terminal, without the time.
func NewLogger(level slog.Leveler) *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// Report prints why the command of a program did not run, and returns the exit status.
func Report(w io.Writer, name string, err error) int {
	var (
		interrupted interruptError
		path        *fs.PathError
		command     *exec.Error
		status      = StatusFailed
	)
	switch {
	case errors.As(err, &interrupted):
		return StatusSignalBase + int(interrupted.Signal)
	case errors.As(err, &command):
		err, status = fmt.Errorf("%s: command not found", command.Name), StatusNotFound
	case errors.As(err, &path) && path.Op == "exec" && errors.Is(err, fs.ErrNotExist):
		err, status = fmt.Errorf("%s: %w", path.Path, path.Err), StatusNotFound
	case errors.As(err, &path) && path.Op == "exec":
		err, status = fmt.Errorf("%s: %w", path.Path, path.Err), StatusNoExec
	}
	fmt.Fprintf(w, "%s: %s\n", name, printable(err.Error()))
	return status
}

// ReportUsage prints what is wrong with the command line, and returns the exit status.
func ReportUsage(name string, err error) int {
	fmt.Fprintf(os.Stderr, "%s: %s\n%[1]s -h shows the usage\n", name, printable(err.Error()))
	return StatusUsage
}

// printable returns a text with what a terminal would obey written as in Go. Errors have
// names of files, arguments and words of peers in them.
func printable(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		if r == '\n' || r == '\t' || strconv.IsPrint(r) && (r != utf8.RuneError || n > 1) {
			b.WriteString(text[:n])
		} else {
			quoted := strconv.Quote(text[:n])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		text = text[n:]
	}
	return b.String()
}

// Signals handles the signals that would end the program. Until the command runs, they do.
// Then those of the terminal reach the command directly, which is in the same process
// group, and the others are passed on.
type Signals struct {
	Context context.Context // done if a signal ends the program before the command runs
	cancel  context.CancelCauseFunc

	mu      sync.Mutex  // guards command
	command *os.Process // once it runs
}

// interruptError is a signal that ended the program.
type interruptError struct{ syscall.Signal }

func (e interruptError) Error() string { return e.Signal.String() }

// WatchSignals handles signals from now on.
func WatchSignals() *Signals {
	s := &Signals{}
	s.Context, s.cancel = context.WithCancelCause(context.Background())
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

func (s *Signals) handle(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.command == nil:
		s.cancel(interruptError{sig})
	case sig == syscall.SIGTERM, sig == syscall.SIGHUP:
		s.command.Signal(sig) // fails only if it has ended
	}
}

// Run runs the command, unless a signal came first, and returns the exit status of the
// program. An error says that it did not run.
func (s *Signals) Run(cmd *vdestack.Cmd) (int, error) {
	cmd.KeepGroup = true // a command in the background could not read the terminal
	if errors.Is(cmd.Err, exec.ErrDot) {
		cmd.Err = nil // the user has put the working directory into PATH
	}
	if err := s.start(cmd); err != nil {
		return 0, err
	}
	cmd.Wait() // its error is in ProcessState
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case !ok:
		return 0, errors.New("the end of the command is not known")
	case status.Signaled():
		return StatusSignalBase + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}

// start starts the command, unless a signal came first.
func (s *Signals) start(cmd *vdestack.Cmd) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := context.Cause(s.Context); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.command = cmd.Process
	return nil
}
