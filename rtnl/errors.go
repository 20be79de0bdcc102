package rtnl

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/vdestack/vdestack/internal/netns"
)

// Error is the error of every method of Conn. It unwraps to Err, so errors.Is
// finds the kernel's errno, as a constant of golang.org/x/sys/unix or of syscall. Some
// stand for fs.ErrExist (EEXIST), fs.ErrNotExist (ENOENT), fs.ErrPermission (EACCES,
// EPERM) or errors.ErrUnsupported (EOPNOTSUPP) too. What is missing mostly has an errno
// that does not: ENODEV an interface, EADDRNOTAVAIL an address, ESRCH a route.
type Error struct {
	Op   string // the operation, such as "add route"
	What string // its subject, such as "default via 10.0.0.9"; may be empty
	Err  error  // the kernel's unix.Errno, or net.ErrClosed, os.ErrDeadlineExceeded, …
	Msg  string // the kernel's explanation, or what is wrong with an argument; may be empty
}

// Error returns, for example,
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

// invalid returns the error for an argument that was not sent to the kernel. errno is
// the one that the kernel uses for it.
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
		if bad.Op != "" {
			return e
		}
	}
	if errors.Is(e.Err, os.ErrDeadlineExceeded) {
		e.Err, e.Msg = os.ErrDeadlineExceeded, "no answer from the kernel"
	}
	if errno, ok := e.Err.(syscall.Errno); ok && e.Msg == "" {
		e.Msg = hint(op, errno)
	}
	return e
}

// hint explains an errno where the kernel itself does not; older kernels explain fewer.
func hint(op string, errno syscall.Errno) string {
	verb, object, _ := strings.Cut(op, " ")
	object, _, _ = strings.Cut(object, " ")
	switch errno {
	case syscall.EPERM, syscall.EACCES:
		text := "this needs CAP_NET_ADMIN over the stack"
		if givenUp := netns.GivenUp(); givenUp != "" {
			text += ": " + givenUp
		}
		return text
	case syscall.ENODEV:
		if op == "add route" {
			return "there is no such interface, or the route has neither interface nor gateway"
		}
		return "there is no such interface"
	case syscall.EEXIST:
		switch object {
		case "":
			return "the name or the index is taken"
		case "name":
			return "the name is taken"
		}
		return "it exists already"
	case syscall.ESRCH, syscall.ENOENT:
		return "there is no such entry"
	case syscall.ENETUNREACH, syscall.EHOSTUNREACH:
		return "no interface that is up has a network with the gateway in it"
	case syscall.EADDRNOTAVAIL:
		switch {
		case verb == "delete":
			return "the interface does not have it"
		case object == "hardware" || object == "":
			return "a hardware address must not be zero or a group's"
		}
	case syscall.EINVAL:
		switch {
		case op == "add":
			return "a parameter of the kind is missing, such as the Parent of a vlan, or wrong, such as a Master that does not exist"
		case object == "master":
			return "there is no interface with the index of the master"
		case object == "MTU":
			return "the interface does not take this MTU"
		case op == "get", op == "delete", object == "up", object == "down", object == "hardware":
			return "no interface has index 0"
		}
	case syscall.EOPNOTSUPP:
		switch {
		case op == "add":
			return "the kernel does not have this kind; modprobe may load it"
		case object == "master":
			return "the master is not a bridge, or the interface cannot be a port"
		case op == "delete":
			return "the kernel keeps this interface"
		}
	case syscall.EBUSY:
		if object == "name" {
			return "set the interface down first"
		}
	}
	return ""
}
