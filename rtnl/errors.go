package rtnl

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/mdlayher/netlink"
)

// Error is the error of every method of Conn. It unwraps to Err, so errors.Is
// finds the kernel's errno (unix.EEXIST, unix.ENODEV, …) and, where the errno
// means them, fs.ErrExist, fs.ErrPermission and errors.ErrUnsupported.
type Error struct {
	Op   string // what was asked, as "add route"
	What string // of what, as "default via 10.0.0.9"; may be empty
	Err  error  // the unix.Errno of the kernel, or net.ErrClosed, os.ErrDeadlineExceeded, …
	Msg  string // the kernel's own words, or what is wrong with an argument; may be empty
}

// Error returns for example
//
//	rtnl: add route default via 10.0.0.9: network is unreachable (Nexthop has invalid gateway)
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("rtnl: ")
	b.WriteString(e.Op)
	if e.What != "" {
		b.WriteString(" " + e.What)
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	if e.Msg != "" {
		b.WriteString(" (" + e.Msg + ")")
	}
	return b.String()
}

// Unwrap returns e.Err.
func (e *Error) Unwrap() error { return e.Err }

// invalid reports an argument that was not sent to the kernel. The errno is
// the one that the kernel has for it.
func invalid(errno error, format string, args ...any) error {
	return &Error{Err: errno, Msg: fmt.Sprintf(format, args...)}
}

// fail names the operation and its subject in an error; nil stays nil.
func fail(op string, what fmt.Stringer, err error) error {
	if err == nil {
		return nil
	}
	e := &Error{Op: op, Err: err}
	if what != nil {
		e.What = what.String()
	}
	if bad, ok := errors.AsType[*Error](err); ok {
		e.Err, e.Msg = bad.Err, bad.Msg
		return e
	}
	if oe, ok := errors.AsType[*netlink.OpError](err); ok {
		e.Err, e.Msg = oe.Err, oe.Message
	}
	if errors.Is(e.Err, os.ErrDeadlineExceeded) {
		e.Err, e.Msg = os.ErrDeadlineExceeded, "no answer from the kernel"
	}
	return e
}
