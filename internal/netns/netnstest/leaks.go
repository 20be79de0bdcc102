// Package netnstest checks tests of stacks for leaks.
package netnstest

import (
	"maps"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/teardown"
	"github.com/vdestack/vdestack/internal/testenv"
)

// Settle completes what stacks leave to the background when they are closed.
func Settle() {
	teardown.Wait()
	netns.DropReady()
}

// NoLeaks fails the test if descriptors are left at its end, or for long goroutines
// or child processes. Call it first: its clean-up is then the last.
func NoLeaks(t testing.TB) {
	t.Helper()
	warm()
	Settle()
	testenv.NoLeaks(t, Settle)
	before := kinds(t)
	t.Cleanup(func() {
		Settle()
		for kind, n := range kinds(t) {
			if n > before[kind] {
				t.Errorf("%d descriptors of kind %q, %d before", n, kind, before[kind])
			}
		}
	})
}

// kinds counts the open files by what they are.
func kinds(t testing.TB) map[string]int {
	m := map[string]int{}
	for target := range maps.Values(testenv.Descriptors(t)) {
		m[strings.TrimRight(target, "0123456789[]")]++
	}
	return m
}
