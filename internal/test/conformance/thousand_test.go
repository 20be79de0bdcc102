package conformance

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
)

// TestThousand has 1,000 connections of one listener at once, each with payloads in both
// directions.
func TestThousand(t *testing.T) {
	testenv.Long(t)
	guard(t)
	const connections = 1000
	testenv.NeedDescriptors(t, 2*connections+200)
	// A few packets each, because all of them together exceed the queues.
	const size = 4000
	for _, r := range ethernet(t) {
		t.Run(r.name, func(t *testing.T) {
			ctx := testenv.Context(t)
			ln := r.listen(t)
			var wg, open sync.WaitGroup
			open.Add(2 * connections)
			all := make(chan struct{}) // are open
			go func() {
				open.Wait()
				close(all)
			}()
			exchange := func(c *net.TCPConn, send, receive payload) error {
				defer c.Close()
				open.Done()
				select {
				case <-all:
				case <-ctx.Done():
					return fmt.Errorf("not all are open: %w", ctx.Err())
				}
				sent := make(chan error, 1)
				go func() {
					_, err := c.Write(send.bytes())
					sent <- errors.Join(err, c.CloseWrite())
				}()
				return errors.Join(receive.check(c), <-sent)
			}
			wg.Go(func() {
				ln.SetDeadline(time.Now().Add(testenv.Timeout))
				for range connections {
					c, err := ln.AcceptTCP()
					if err != nil {
						t.Error(err)
						open.Done()
						continue
					}
					c.SetDeadline(time.Now().Add(testenv.Timeout))
					wg.Go(func() {
						// The port identifies the connection.
						seed := uint64(c.RemoteAddr().(*net.TCPAddr).Port)
						if err := exchange(c, payload{seed, size}, payload{seed + 1<<16, size}); err != nil {
							t.Errorf("server, connection %d: %v", seed, err)
						}
					})
				}
			})
			for range connections {
				wg.Go(func() {
					c, err := r.dial(ctx, ln.Addr().String())
					if err != nil {
						t.Error(err)
						open.Done()
						return
					}
					seed := uint64(c.LocalAddr().(*net.TCPAddr).Port)
					if err := exchange(c, payload{seed + 1<<16, size}, payload{seed, size}); err != nil {
						t.Errorf("client, connection %d: %v", seed, err)
					}
				})
			}
			wg.Wait()
		})
	}
}
