package stack

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// A Report says what works on this machine, for this program and user: see [Check].
type Report struct {
	// Features are in this order:
	//
	//   - "stack": a stack with an interface of whatever kind there is; all networks of
	//     package vdeplug that need no privilege can be plugged into it.
	//   - "user namespaces": stacks without CAP_SYS_ADMIN, and Config.Isolated.
	//   - "TUN", "veth": the two kinds of interfaces with a plug; one is enough.
	//   - "bridge": the kernel's switch of lan:// and, without which it is slower, mem://.
	//   - "settings": Stack.Sysctl.
	//   - "mounts", "host names": Names, Binds and SysAdmin of commands; their Hostname.
	//   - "nftables", "vxlan", "WireGuard", "MPTCP": what the kernel has of these in a
	//     stack.
	//   - "limits": whether one was reached, and what they are.
	Features []Feature
}

// A Feature is a line of a [Report].
type Feature struct {
	Name   string
	Works  bool
	Reason string // why it does not work; of limits that are not reached, what they are
	Remedy string // what to do about it; may be empty
	// Err is the error with which it was refused; nil if it works or was not tried.
	Err error
}

// Err returns nil where a plain stack works, with an interface, and otherwise the error
// that New or AddInterface would return.
func (r *Report) Err() error {
	if r != nil {
		for _, f := range r.Features {
			if f.Name == featureStack {
				return f.Err
			}
		}
	}
	return errors.New("there is no report, the error of Check says why")
}

// String returns the report as a table of names, "yes" or "no", and reasons, for people.
// The remedy is on a line of its own.
func (r *Report) String() string {
	if r == nil {
		return ""
	}
	width := 0
	for _, f := range r.Features {
		width = max(width, utf8.RuneCountInString(f.Name))
	}
	var b strings.Builder
	for _, f := range r.Features {
		works := "no "
		if f.Works {
			works = "yes"
		}
		line := fmt.Sprintf("%-*s  %s  %s", width, f.Name, works, f.Reason)
		fmt.Fprintln(&b, strings.TrimRight(line, " "))
		if f.Remedy != "" {
			fmt.Fprintf(&b, "%*s%s\n", width+len("  yes  "), "", "-> "+f.Remedy)
		}
	}
	return b.String()
}

const featureStack = "stack"

// add adds a feature that works if err is nil.
func (r *Report) add(name string, err error) {
	f := Feature{Name: name, Works: err == nil, Err: err}
	if err != nil {
		f.Reason, f.Remedy = reasonOf(err)
	}
	r.Features = append(r.Features, f)
}
