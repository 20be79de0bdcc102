package worker

import (
	"context"
	"errors"
	"net"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// open measures how long stacks take to open and to close.
func (s *server) open(n []int, text []string) ([]int64, error) {
	count, pause := n[0], time.Duration(n[1])*time.Millisecond
	opens, closes := make([]int64, 0, count), make([]int64, 0, count)
	for i := range count {
		if i > 0 {
			time.Sleep(pause)
		}
		start := time.Now()
		st, err := s.c.Open(strings.ReplaceAll(text[0], "%d", strconv.Itoa(i)), i)
		if err != nil {
			return nil, err
		}
		sock, err := st.Socket()
		opens = append(opens, time.Since(start).Nanoseconds())
		if err != nil {
			st.Close()
			return nil, err
		}
		sock.Close()
		start = time.Now()
		if err := st.Close(); err != nil {
			return nil, err
		}
		closes = append(closes, time.Since(start).Nanoseconds())
	}
	return slices.Concat(opens, closes), nil
}

// sockets measures how long n sockets take.
func (s *server) sockets(n []int, _ []string) ([]int64, error) {
	count, goroutines := n[0], n[1]
	st, err := s.c.Open("", 0)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	var group sync.WaitGroup
	errs := make(chan error, goroutines)
	start := time.Now()
	for g := range goroutines {
		group.Go(func() {
			for i := g; i < count; i += goroutines {
				sock, err := st.Socket()
				if err != nil {
					errs <- err
					return
				}
				sock.Close()
			}
		})
	}
	group.Wait()
	took := time.Since(start)
	close(errs)
	return []int64{took.Nanoseconds()}, <-errs
}

// dials measures how long n connections take.
func (s *server) dials(n []int, _ []string) ([]int64, error) {
	st, err := s.c.Open("", 0)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	ln, err := st.Listen()
	if err != nil {
		return nil, err
	}
	var accepted sync.WaitGroup
	accepted.Go(func() { closeAll(ln) })
	defer accepted.Wait()
	defer ln.Close()
	ctx, cancel := context.WithTimeout(context.Background(), Spare)
	defer cancel()
	start := time.Now()
	for range n[0] {
		c, err := st.Dial(ctx, ln.Addr().String())
		if err != nil {
			return nil, err
		}
		c.Close()
	}
	return []int64{time.Since(start).Nanoseconds()}, nil
}

// closeAll closes each connection when its peer has.
func closeAll(ln net.Listener) {
	var buf [1]byte
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		c.Read(buf[:])
		c.Close()
	}
}

// gather makes many stacks. The first one is made before the process is traced: it starts
// what all have in common.
func (s *server) gather(n []int, text []string) ([]int64, error) {
	s.close()
	st, err := s.c.Open("", 0)
	if err != nil {
		return nil, err
	}
	if err := st.Close(); err != nil {
		return nil, err
	}
	if s.c.Trace != nil {
		if s.gone, err = s.c.Trace(); err != nil {
			return nil, err
		}
	}
	took, err := s.crowd([]int{n[0], 1}, text)
	if err != nil {
		return nil, err
	}
	for _, st := range s.gathered {
		if t, ok := st.(Quieter); ok {
			if err := t.Quiet(); err != nil {
				return nil, err
			}
		}
	}
	debug.FreeOSMemory()
	return took, nil
}

// crowd makes many stacks, some of them at once.
func (s *server) crowd(n []int, text []string) ([]int64, error) {
	var (
		next  atomic.Int64
		group sync.WaitGroup
		mu    sync.Mutex // guards fail and s.gathered
		fail  error
	)
	start := time.Now()
	for range n[1] {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < n[0]; i = int(next.Add(1)) - 1 {
				st, err := s.c.Open(text[0], i)
				mu.Lock()
				if err == nil {
					s.gathered = append(s.gathered, st)
				} else {
					fail = err
				}
				failed := fail != nil
				mu.Unlock()
				if failed {
					return
				}
			}
		})
	}
	group.Wait()
	took := time.Since(start)
	if fail != nil {
		s.close()
		return nil, fail
	}
	return []int64{took.Nanoseconds()}, nil
}

func (s *server) reach(n []int, _ []string) ([]int64, error) {
	if s.c.Reach == nil {
		return nil, errors.ErrUnsupported
	}
	pairs, reached := s.c.Reach(s.gathered, max(1, n[0]))
	return []int64{int64(pairs), int64(reached)}, nil
}

func (s *server) disband([]int, []string) ([]int64, error) {
	start := time.Now()
	for _, st := range s.gathered {
		if err := st.Close(); err != nil {
			return nil, err
		}
	}
	s.gathered = nil
	closed := time.Since(start)
	if s.gone != nil {
		if err := s.gone(); err != nil {
			return nil, err
		}
	}
	return []int64{closed.Nanoseconds(), time.Since(start).Nanoseconds()}, nil
}
