package stack_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/stack"
)

// TestNewCancelled gives New no time, and then less and less: nothing is left
// behind.
func TestNewCancelled(t *testing.T) {
	testenv.Long(t)
	netnstest.NoLeaks(t)
	goroutines := runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	cfg := Config{Interfaces: []Interface{
		{VNL: "mem://" + t.Name(), Addrs: testenv.Prefixes("10.0.0.1/24", "fc00::1:1/64")},
		{VNL: "lan://" + t.Name(), Addrs: testenv.Prefixes("10.1.0.1/24", "fc00::2:1/64")},
	}}
	if _, err := New(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	start := time.Now()
	s := testenv.Must(New(t.Context(), cfg))(t)
	whole := time.Since(start)
	s.Close()
	cancelled := 0
	for i := range 40 {
		ctx, cancel := context.WithTimeout(t.Context(), whole*time.Duration(40-i)/40)
		s, err := New(ctx, cfg)
		cancel()
		switch {
		case err == nil:
			s.Close()
		case errors.Is(err, context.DeadlineExceeded):
			cancelled++
		default:
			t.Error(err)
		}
	}
	t.Logf("cancelled %d times of 40", cancelled)
	netnstest.NoGoroutines(t, goroutines)
}

// TestNewBlocked cancels New while it waits for its second network. What the
// first one has is given back.
func TestNewBlocked(t *testing.T) {
	netnstest.NoLeaks(t)
	goroutines := runtime.NumGoroutine()
	reason := errors.New("changed my mind")
	for _, first := range []string{"mem://" + t.Name(), "lan://" + t.Name(), "cmd://cat"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			<-stack.Hanging
			cancel(reason)
		}()
		_, err := New(ctx, Config{Interfaces: []Interface{{VNL: first, Addrs: testenv.Prefixes("10.0.0.1/24")}, {VNL: "hangingtest://"}}})
		cancel(nil)
		if !errors.Is(err, reason) {
			t.Errorf("%s: got %v, want the cause", first, err)
		}
	}
	netnstest.NoGoroutines(t, goroutines)
	noChildren(t)
}
