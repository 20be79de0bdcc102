//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/syslog"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/program"
)

// inTheBackground tells the program that it is the process in the background: its standard
// input is a pipe to the one that started it, for an error, or the text "ready".
const inTheBackground = "VDENS_BACKGROUND"

const ready = "ready"

// backgroundEnv is what the process in the background has in its environment.
var backgroundEnv = []string{inTheBackground + "=1"}

// inBackground reports whether this is the process in the background. From then on errors go
// to the one that waits.
func inBackground() bool {
	if os.Getenv(inTheBackground) == "" {
		return false
	}
	os.Unsetenv(inTheBackground)
	errOutput = os.Stdin
	return true
}

// startBackground starts the program once more, in a session of its own, and returns the exit
// status: 0 once its networks are there. Descriptors that it inherits keep their numbers.
func startBackground() int {
	exe, err := os.Executable()
	if err != nil {
		return report(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return report(err)
	}
	cmd := exec.Command(exe, os.Args[1:]...)
	cmd.Env = append(os.Environ(), backgroundEnv...)
	cmd.Stdin = w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// Whoever ends this program meanwhile means the other one too.
	sigs := program.WatchSignals()
	err = cmd.Start()
	w.Close()
	if err != nil {
		return report(err)
	}
	defer context.AfterFunc(sigs.Context, func() { cmd.Process.Signal(syscall.SIGTERM) })()
	text, err := io.ReadAll(r)
	if err == nil && string(text) == ready {
		return 0
	}
	os.Stderr.Write(text)
	cmd.Wait() // its error is in ProcessState
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return program.StatusSignalBase + int(status.Signal())
	}
	return cmd.ProcessState.ExitCode()
}

// leave tells the process that waits that all is there.
func leave() error {
	if _, err := os.Stdin.WriteString(ready); err != nil {
		return fmt.Errorf("nobody waits any more: %w", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	errOutput = os.Stderr
	return os.NewSyscallError("dup2", unix.Dup2(int(null.Fd()), 0))
}

// createPIDFile writes the number of the process to a file, which remove removes, unless
// another process has its number there by then. It follows no link, which somebody else may
// have put there, and takes no device or pipe.
func createPIDFile(path string) (remove func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644)
	if errors.Is(err, unix.ELOOP) {
		err = fmt.Errorf("%w (it is a link, which is not followed)", err)
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	made, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !made.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	text := strconv.Itoa(os.Getpid()) + "\n"
	if err := f.Truncate(0); err != nil {
		return nil, err
	}
	if _, err := f.WriteString(text); err != nil {
		return nil, err
	}
	return func() {
		defer f.Close()
		now := make([]byte, len(text)+1)
		n, _ := f.ReadAt(now, 0)
		if there, err := os.Lstat(path); err == nil && os.SameFile(made, there) && string(now[:n]) == text {
			os.Remove(path)
		}
	}, nil
}

// newSyslog returns what logs a line to syslog.
func newSyslog() (logLine func(string), err error) {
	w, err := syslog.New(syslog.LOG_INFO|syslog.LOG_USER, "vdens")
	if err != nil {
		return nil, err
	}
	return func(line string) { w.Info(line) }, nil
}
