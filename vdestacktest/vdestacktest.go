// Package vdestacktest gives tests stacks that end with them.
package vdestacktest

import (
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
)

// closeTime is how long the sockets of a test may take to close after it: a
// connection that is closed while another goroutine reads from it is closed when the
// reader has returned.
const closeTime = 2 * time.Second

// Open is [vdestack.Open] for a test, which fails at once if there is an error. The
// stack is closed when the test and its subtests have ended and their later cleanups
// have run.
//
// The test fails if it has then left TCP or UDP sockets of the stack open in any
// process: servers that were not closed, response bodies, idle connections of a
// client (CloseIdleConnections of [net/http.Client] closes those). The error lists
// them; a connection between two stacks of the test stands at the one that ends
// first, which is the one opened last. All of them end with their stacks.
func Open(t testing.TB, vnl string, prefixes ...string) *vdestack.Stack {
	t.Helper()
	s, err := vdestack.Open(vnl, prefixes...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		t.Helper()
		if left := wait(s); len(left) > 0 {
			t.Errorf("%s: the test has left %d sockets open: %s", s, len(left), strings.Join(left, ", "))
		}
		if err := s.Close(); err != nil {
			t.Errorf("closing %s: %v", s, err)
		}
	})
	return s
}

// wait waits until no socket of the stack is open, and returns those that are after
// closeTime. A stack that the test has closed has none.
func wait(s *vdestack.Stack) []string {
	for end := time.Now().Add(closeTime); ; time.Sleep(time.Millisecond) {
		left, err := sockets(s)
		if err != nil || len(left) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return left
		}
	}
}
