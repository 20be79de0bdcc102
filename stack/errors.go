package stack

import (
	"fmt"
	"io/fs"
	"os"
	"strconv"
)

// ErrNoStack is the error of the methods of a nil or zero Stack: mostly, nobody looked
// at the error of New. It is [fs.ErrInvalid] too.
var ErrNoStack = fmt.Errorf("there is no stack, the error of Open or New says why: %w", os.ErrInvalid)

// An InterfaceError says which interface of a stack could not be made.
type InterfaceError struct {
	Name string // of the interface
	VNL  string // the locator of its network
	// Err is the cause:
	//
	//   - a *vdeplug.Error if the network could not be opened;
	//   - [fs.ErrExist] if the name is in use;
	//   - a [*RefusedError] if the machine does not allow such an interface;
	//   - the cause of the context if that has ended;
	//   - else the kernel's error, or what is wrong with the configuration.
	Err error
}

// Error quotes a name that an interface cannot have, which may be no text.
func (e *InterfaceError) Error() string {
	return fmt.Sprintf("interface %s: %v", nameText(e.Name), e.Err)
}

// nameText returns the name of an interface for an error: quoted, if none can have it.
func nameText(name string) string {
	if checkName(name) != nil {
		return strconv.Quote(name)
	}
	return name
}

// Unwrap returns e.Err.
func (e *InterfaceError) Unwrap() error { return e.Err }

// A RefusedError says that the kernel, or what confines the program, does not allow an
// operation, and why: user namespaces are switched off or used up, AppArmor or seccomp
// forbid them, a capability or /dev/net/tun is missing, the kernel is too old or was built
// without something. A test that needs stacks may skip where New returns one.
type RefusedError struct {
	// Reason names the setting or rule that is in the way, and what to do about it.
	Reason string
	// Err is the whole error, whose text ends with Reason. It unwraps to the error of the
	// system call.
	Err error
}

func (e *RefusedError) Error() string {
	if e.Err == nil { // made by somebody else
		return e.Reason
	}
	return e.Err.Error()
}

// Unwrap returns e.Err.
func (e *RefusedError) Unwrap() error { return e.Err }

// refused adds the reason to an error.
func refused(err error, reason string) error {
	return &RefusedError{reason, fmt.Errorf("%w (%s)", err, reason)}
}

// A sentinelError is also a sentinel, which its text does not have.
type sentinelError struct {
	error
	is error
}

func (e sentinelError) Unwrap() []error { return []error{e.error, e.is} }

// inUse reports the name of an interface that another one has.
func inUse(err error) error { return sentinelError{err, fs.ErrExist} }

// noInterface reports a name that no interface has.
func noInterface(name string) error {
	return sentinelError{fmt.Errorf("there is no interface %q", name), fs.ErrNotExist}
}
