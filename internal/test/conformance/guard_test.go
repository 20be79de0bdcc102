package conformance

import (
	"runtime"
	"testing"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// guard fails the test if it leaves goroutines or descriptors behind, or if a thread of
// the process leaves its namespaces meanwhile. It comes first in a test, so that its
// clean-up is the last.
func guard(t *testing.T) {
	t.Helper()
	// The first stack makes the helper task, whose descriptors stay.
	if s, err := vdestack.Open(""); err == nil {
		s.Close()
	}
	testenv.NoLeaks(t, netnstest.Settle, runtime.GC) // package net keeps the pipes of splice in a sync.Pool
	testenv.WatchNamespaces(t, "net", "user")        // of which the helper task has its own
}
