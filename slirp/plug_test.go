package slirp

import (
	"context"
	"testing"
	"testing/synctest"
)

// A slowCloser is a socket whose Close waits.
type slowCloser struct {
	closes int
	goOn   chan struct{}
}

func (s *slowCloser) Close() error {
	s.closes++
	<-s.goOn
	return nil
}

// TestCloseAtEnd closes a plug whose sockets take time to close: it waits for them, as
// another plug may want their ports.
func TestCloseAtEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &nat{}
		n.ctx, n.cancel = context.WithCancel(t.Context())
		s := &slowCloser{goOn: make(chan struct{})}
		end := n.closeAtEnd(s)
		n.cancel()
		synctest.Wait()
		n.tasks.Go(end)
		over := make(chan struct{})
		go func() {
			defer close(over)
			n.tasks.Wait()
		}()
		synctest.Wait()
		select {
		case <-over:
			t.Error("the end did not wait for a socket")
		default:
		}
		close(s.goOn)
		<-over
		if s.closes != 1 {
			t.Errorf("closed %d times, want 1", s.closes)
		}
	})
}
