package vdestack

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// closeGrace is how long Close waits for the functions of BeforeClose.
const closeGrace = 2 * time.Second

// closeFuncs are the functions of BeforeClose.
type closeFuncs struct {
	mu    sync.Mutex // guards the fields below
	all   map[*closeFunc]struct{}
	begun bool

	running sync.Once
}

type closeFunc struct{ f func(context.Context) }

// BeforeClose has [Stack.Close] call f before it ends anything, so that f can still use the
// stack, to say goodbye to a server for example.
//
//   - All functions are called at once, each in a goroutine of its own. Close goes on
//     when they have returned, or after two seconds, when ctx ends.
//   - stop takes f back. It returns false if Close has begun to call it, or if it was taken
//     back before.
//   - f must not call Close, which waits for it. If f panics, the program ends.
//   - After Close has begun, the error is [net.ErrClosed].
func (s *Stack) BeforeClose(f func(ctx context.Context)) (stop func() bool, err error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if f == nil {
		return nil, fmt.Errorf("%s: BeforeClose was called without a function: %w", s.st.Name(), os.ErrInvalid)
	}
	c := &s.beforeClose
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.begun {
		return nil, fmt.Errorf("%s: stack is closed: %w", s.st.Name(), net.ErrClosed)
	}
	if c.all == nil {
		c.all = make(map[*closeFunc]struct{})
	}
	entry := &closeFunc{f}
	c.all[entry] = struct{}{}
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, ok := c.all[entry]
		delete(c.all, entry)
		return ok
	}, nil
}

// run calls the functions. Every call returns when that is done.
func (c *closeFuncs) run() {
	c.running.Do(func() {
		c.mu.Lock()
		all := c.all
		c.all, c.begun = nil, true
		c.mu.Unlock()
		if len(all) == 0 {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
		defer cancel()
		var wg sync.WaitGroup
		for entry := range all {
			wg.Go(func() { entry.f(ctx) })
		}
		returned := make(chan struct{})
		go func() {
			wg.Wait()
			close(returned)
		}()
		select {
		case <-returned:
		case <-ctx.Done():
		}
	})
}
