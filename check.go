package vdestack

import (
	"context"

	"github.com/vdestack/vdestack/stack"
)

// A Report says what works on this machine, why the rest does not, and what to do about
// it: Features, a list of what it has looked at. Its Err says whether a plain stack works,
// and String is a table for people.
type Report = stack.Report

// A Feature is a line of a [Report]: Name, Works, Reason, Remedy and Err.
type Feature = stack.Feature

// Check finds out what works on this machine, for this program and user: stacks, user
// namespaces, TUN, veth, bridge, settings, mounts, host names, nftables, vxlan, WireGuard, MPTCP and
// limits. It tries them in a stack of its own, which it closes: that takes some
// milliseconds, sends nothing, and leaves other stacks alone. The kernel may load modules,
// as it does when what they have is used. The error is that of the look itself, as when ctx
// has ended; what the machine refuses is in the Report.
func Check(ctx context.Context) (*Report, error) { return stack.Check(ctx) }
