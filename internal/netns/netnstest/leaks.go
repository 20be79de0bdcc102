// Package netnstest checks tests of stacks for leaks, and runs them on several networks.
package netnstest

import (
	"maps"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/teardown"
	"github.com/vdestack/vdestack/internal/testenv"
)

// Settle completes what stacks leave to the background when they are closed.
func Settle() {
	teardown.Wait()
	netns.EmptyPool()
	teardown.Wait()
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

// NoGoroutines waits until there are no more goroutines than the given number.
func NoGoroutines(t testing.TB, before int) {
	t.Helper()
	Settle()
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(end) {
			buf := make([]byte, 1<<16)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
	}
}

// Busy keeps what Close leaves for later from being done, until the function that
// it returns is called, once or more.
func Busy(t testing.TB) (release func()) {
	t.Helper()
	const more = 100 // than is done at once
	blocked := make(chan bool)
	for range more {
		teardown.Go(func() { <-blocked })
	}
	release = sync.OnceFunc(func() { close(blocked); teardown.Wait() })
	t.Cleanup(release)
	return release
}

// kinds counts the open files by what they are.
func kinds(t testing.TB) map[string]int {
	m := map[string]int{}
	for target := range maps.Values(testenv.Descriptors(t)) {
		m[strings.TrimRight(target, "0123456789[]")]++
	}
	return m
}
