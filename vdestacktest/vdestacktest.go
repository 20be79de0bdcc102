// Package vdestacktest gives tests stacks that end with them.
package vdestacktest

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/sockets"
)

// closeTime is how long the sockets of a test may take to close after it: a
// connection that is closed while another goroutine reads from it is closed when the
// reader has returned.
const closeTime = 2 * time.Second

// Open is [vdestack.Open] for a test, which ends at once if there is an error. The
// stack is closed after the test, its subtests and the cleanups that were registered
// after Open. [vdestack.Stack.AddInterface], SetDNS and RTNL give it what a
// [vdestack.Config] has besides.
//
// The test fails if TCP or UDP sockets of the stack are still open two seconds later,
// in any process. The error lists them. Often they are
//
//   - listeners and servers that were not closed;
//   - response bodies that were not closed;
//   - idle connections of an HTTP client: call its CloseIdleConnections.
//
// A connection between two stacks of the test is reported by the stack that closes
// first, which is the one that was opened last. Closing the stacks ends all of them.
//
// To skip the test where the machine does not allow stacks, call [vdestack.Open] first
// and look for a [*vdestack.RefusedError] with [errors.As].
func Open(t testing.TB, vnl string, prefixes ...string) *vdestack.Stack {
	t.Helper()
	s, err := vdestack.Open(vnl, prefixes...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		t.Helper()
		if left, err := wait(s); err != nil {
			t.Errorf("%s: looking for sockets that are open: %v", s, err)
		} else if len(left) > 0 {
			t.Errorf("%s: the test has left open: %s", s, strings.Join(left, ", "))
		}
		if err := s.Close(); err != nil {
			t.Errorf("closing %s: %v", s, err)
		}
	})
	return s
}

// wait waits until no socket of the stack is open, and returns those that are after
// closeTime. A stack that the test has closed has none.
func wait(s *vdestack.Stack) ([]string, error) {
	for end := time.Now().Add(closeTime); ; time.Sleep(time.Millisecond) {
		left, err := open(s)
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil, nil
		case err != nil, len(left) == 0, time.Now().After(end):
			return left, err
		}
	}
}

// open describes the sockets of a stack that a process has open.
func open(s *vdestack.Stack) (all []string, err error) {
	list, err := sockets.List(s)
	if err != nil {
		return nil, err
	}
	for _, s := range list {
		text := "udp " + s.Local.String()
		if s.TCP {
			text = "tcp " + s.Local.String()
		}
		switch {
		case !s.Open:
			continue
		case s.Listening:
			text += ", which listens"
		case s.TCP || s.Remote.Port() != 0:
			text = fmt.Sprintf("%s to %v", text, s.Remote)
		}
		all = append(all, text)
	}
	return all, nil
}
