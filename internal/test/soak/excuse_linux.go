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

// errCorrupt reports data that differ from those sent. It is never excused.
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

// use records that the task depends on the stacks.
func (t *task) use(ms ...*member) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range ms {
		t.used = append(t.used, use{net: m.net, m: m, upsets: m.net.upsets.Load()})
	}
}

// useNet records that the task depends on the network.
func (t *task) useNet(n *network) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.used = append(t.used, use{net: n, upsets: n.upsets.Load()})
}

// upset reports whether a stack or network that the task depends on was disturbed, so
// that the task need not succeed.
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

// circumstances describes the stacks of a task that has failed.
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

// errnos are the errors of users of a closed stack or a cut network.
var errnos = []error{
	unix.ECONNRESET, unix.ECONNREFUSED, unix.ECONNABORTED, unix.EPIPE, unix.ETIMEDOUT, unix.ENOTCONN,
	unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ENETDOWN, unix.EADDRNOTAVAIL, unix.ENODEV,
	// Accept on a listener of the hook alone that was shut down; a packet to a neighbour
	// of IPv6 for which the table has no room, and to one of IPv4.
	unix.EINVAL, unix.ENOBUFS,
	// The directory of a switch that is gone, and its vde_plug.
	unix.ENOENT, unix.ESRCH,
}

// excused reports whether a closed stack or a cut network causes err. Of joined errors
// each must be excused.
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

// within calls f until it returns true, for at most d.
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
