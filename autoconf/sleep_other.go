//go:build !linux

package autoconf

import (
	"context"
	"iter"
	"time"
)

// sleeps returns nothing: there are no stacks on this system.
func sleeps(context.Context) iter.Seq[time.Duration] { return func(func(time.Duration) bool) {} }
