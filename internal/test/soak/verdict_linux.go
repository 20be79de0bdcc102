package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errCorrupt reports data that are not those sent; nothing excuses it.
var errCorrupt = errors.New("wrong hash")

// A use is a network, or a stack on it, that a task depends on.
type use struct {
	net    *network
	m      *member // nil: the network alone
	upsets uint64  // of the network, when the task began to use it
}

func (u use) String() string {
	if u.m != nil {
		return u.m.String()
	}
	return u.net.name
}

// use notes that the task depends on the stacks.
func (t *task) use(ms ...*member) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range ms {
		t.used = append(t.used, use{net: m.net, m: m, upsets: m.net.upsets.Load()})
	}
}

// useNet notes that the task depends on the network.
func (t *task) useNet(n *network) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.used = append(t.used, use{net: n, upsets: n.upsets.Load()})
}

// upset reports whether something was done to what the task depends on: then it
// need not succeed.
func (t *task) upset() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, u := range t.used {
		if u.m != nil && u.m.doomed() || u.net.upsets.Load() != u.upsets || t.start.Before(u.net.quiet()) {
			return true
		}
	}
	return false
}

// circumstances tells more about a failure.
func (t *task) circumstances() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	for _, u := range t.used {
		if u.m == nil {
			continue
		}
		fmt.Fprintf(&b, "\n\t%v: closing=%v cut=%v", u.m, u.m.closing.Load(), u.m.cut.Load())
		for _, st := range u.m.st.Stats().Interfaces {
			fmt.Fprintf(&b, " %+v", st)
		}
	}
	return b.String()
}

// errnos are what a closed stack or a cut network gives its users.
var errnos = []error{
	unix.ECONNRESET, unix.ECONNREFUSED, unix.ECONNABORTED, unix.EPIPE, unix.ETIMEDOUT, unix.ENOTCONN,
	unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ENETDOWN, unix.EADDRNOTAVAIL, unix.ENODEV,
	// Accept on a listener of a bare hook that was shut down; a packet to an
	// IPv6 neighbour for which the table has no room, and to one of IPv4.
	unix.EINVAL, unix.ENOBUFS,
	// The directory of a switch that is gone, and the vde_plug that was on it.
	unix.ENOENT, unix.ESRCH,
}

// excused reports whether err is one that a closed stack or a cut network
// causes. Of errors that are joined each must be.
func excused(err error) bool {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if joined, ok := e.(interface{ Unwrap() []error }); ok {
			return !slices.ContainsFunc(joined.Unwrap(), func(e error) bool { return !excused(e) })
		}
	}
	for _, e := range []error{net.ErrClosed, os.ErrClosed, io.EOF, io.ErrUnexpectedEOF, context.Canceled, context.DeadlineExceeded, os.ErrDeadlineExceeded} {
		if errors.Is(err, e) {
			return true
		}
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return killed(exit)
	}
	for _, e := range errnos {
		if errors.Is(err, e) {
			return true
		}
	}
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// killed reports whether a command died by SIGKILL.
func killed(exit *exec.ExitError) bool {
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == unix.SIGKILL
}

// within calls f until it reports true, for at most d.
func within(d time.Duration, f func() bool) bool {
	for end := time.Now().Add(d); ; time.Sleep(5 * time.Millisecond) {
		if f() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}
