package soak

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

	"github.com/vdestack/vdestack/internal/neigh"
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

// use records that the task depends on a network, and on a stack unless it is nil.
func (t *task) use(n *network, m *member) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.used = append(t.used, use{n, m, n.upsets.Load()})
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

// excuses are the errors of users of a closed stack or a cut network.
var excuses = []error{
	net.ErrClosed, os.ErrClosed, io.EOF, io.ErrUnexpectedEOF, context.Canceled, context.DeadlineExceeded, os.ErrDeadlineExceeded,
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
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return killed(exit)
	}
	return isTimeout(err) || slices.ContainsFunc(excuses, func(e error) bool { return errors.Is(err, e) })
}

// killed reports whether a command died by SIGKILL.
func killed(exit *exec.ExitError) bool {
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == unix.SIGKILL
}

// overflows returns how often the machine had no room for a neighbour:
//
//   - The kernel has one table of IPv4 neighbours and one of IPv6 for all network
//     namespaces together. When other programs fill them, no stack can resolve addresses
//     (net.ipv4.neigh.default.gc_thresh3, and the same of ipv6).
//   - Only the machine's own namespace shows that. The parent of this process is in it;
//     otherwise overflows is always 0.
func overflows() (total uint64) {
	for _, table := range []string{"arp_cache", "ndisc_cache"} {
		n, _ := neigh.Sum(read(fmt.Sprintf("/proc/%d/net/stat/%s", os.Getppid(), table)), "table_fulls")
		total += n
	}
	return total
}
