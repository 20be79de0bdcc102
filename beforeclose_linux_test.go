package vdestack

import (
	"context"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
)

// TestBeforeClose uses a stack in functions that Close calls, two times at once.
func TestBeforeClose(t *testing.T) {
	s := testenv.Must(Open("null://", "10.0.0.1/24"))(t)
	var called atomic.Int32
	for range 2 {
		testenv.Must(s.BeforeClose(func(ctx context.Context) {
			called.Add(1)
			if _, ok := ctx.Deadline(); !ok {
				t.Error("the context has no deadline")
			}
			if c, err := s.ListenPacket("udp", "10.0.0.1:0"); err != nil {
				t.Errorf("before the stack is closed: %v", err)
			} else {
				c.Close()
			}
			if _, err := s.BeforeClose(func(context.Context) {}); !errors.Is(err, net.ErrClosed) {
				t.Errorf("BeforeClose in Close: %v, want net.ErrClosed", err)
			}
			time.Sleep(10 * time.Millisecond)
			called.Add(1)
		}))(t)
	}
	stop := testenv.Must(s.BeforeClose(func(context.Context) { t.Error("the function was taken back") }))(t)
	if !stop() || stop() {
		t.Error("stop should return true once")
	}
	if _, err := s.BeforeClose(nil); !errors.Is(err, os.ErrInvalid) {
		t.Errorf("BeforeClose without a function: %v, want os.ErrInvalid", err)
	}
	second := make(chan error)
	go func() { second <- s.Close() }()
	testenv.Check(t, s.Close())
	if n := called.Load(); n != 4 {
		t.Errorf("Close has returned after %d of 4 steps", n)
	}
	testenv.Check(t, <-second)
	if _, err := s.BeforeClose(func(context.Context) {}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("BeforeClose after Close: %v, want net.ErrClosed", err)
	}
	if _, err := (*Stack)(nil).BeforeClose(nil); !errors.Is(err, ErrNoStack) {
		t.Errorf("BeforeClose of no stack: %v, want ErrNoStack", err)
	}
}

// TestBeforeCloseSlow has a function that does not return.
func TestBeforeCloseSlow(t *testing.T) {
	testenv.Long(t)
	s := testenv.Must(Open(""))(t)
	end := make(chan struct{})
	defer close(end)
	testenv.Must(s.BeforeClose(func(context.Context) { <-end }))(t)
	start := time.Now()
	testenv.Check(t, s.Close())
	if d := time.Since(start); d < closeGrace {
		t.Errorf("Close has returned after %v, want %v", d, closeGrace)
	}
}
