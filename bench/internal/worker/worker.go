// Package worker is the measured side of a benchmark: it makes stacks, moves
// data between them and reports times. A worker is a program that answers
// requests on its standard input, one line each, with one line on its standard
// output, so that stacks of other languages and modules are measured in the
// same way. Fields are separated by tabs:
//
//	pair A B           make two stacks, the first on the locator A, the second
//	                   on B, one network; no values
//	stream SIZE MS     send from the second stack to the first over one TCP
//	                   connection, in writes of SIZE bytes, for MS milliseconds;
//	                   bytes received, and nanoseconds until their end
//	rtt SIZE N         N round trips of SIZE bytes over one TCP connection with
//	                   TCP_NODELAY; the nanoseconds of each
//	open N LOCATOR     N times one after the other make a stack on the locator,
//	                   with %d replaced by a number, and a socket in it, and
//	                   close both; an empty locator gives loopback only; the
//	                   nanoseconds until each socket, then those of each close
//	sockets N THREADS  make and close N sockets in one stack, by THREADS threads
//	                   or goroutines; nanoseconds in all
//
// An answer is "ok" and decimal values, or "error" and a text. The end of the
// input ends the worker. Every request ends by itself: connections have
// deadlines.
package worker

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Spare is what a transfer may take beyond its planned time until it is given
// up.
const Spare = 10 * time.Second

// A Contestant makes the stacks that are measured.
type Contestant struct {
	// Pair makes two stacks on the network of the locators a and b.
	Pair func(a, b string) (Pair, error)
	// Open makes a stack on the network of a locator, empty for loopback only.
	Open func(vnl string) (Stack, error)
}

// A Pair is two stacks on one network.
type Pair interface {
	// Listen listens for TCP in the first stack, at an address that the second
	// reaches.
	Listen() (net.Listener, error)
	// Dial connects from the second stack.
	Dial(ctx context.Context, address string) (net.Conn, error)
	Close() error
}

// A Stack is one stack.
type Stack interface {
	// Socket makes a TCP socket in the stack.
	Socket() (io.Closer, error)
	Close() error
}

// Serve answers the requests of in until it ends.
func (c *Contestant) Serve(in io.Reader, out io.Writer) error {
	s := server{c: c}
	defer s.close()
	for lines := bufio.NewScanner(in); ; {
		if !lines.Scan() {
			return lines.Err()
		}
		answer := []byte("ok")
		values, err := s.answer(strings.Split(lines.Text(), "\t"))
		if err != nil {
			answer = fmt.Appendf(nil, "error\t%s", strings.ReplaceAll(err.Error(), "\n", "; "))
		}
		for _, v := range values {
			answer = strconv.AppendInt(append(answer, '\t'), v, 10)
		}
		if _, err := out.Write(append(answer, '\n')); err != nil {
			return err
		}
	}
}

// A server has the pair of stacks that was asked for.
type server struct {
	c    *Contestant
	pair Pair
}

func (s *server) close() {
	if s.pair != nil {
		s.pair.Close()
		s.pair = nil
	}
}

func (s *server) answer(request []string) ([]int64, error) {
	name, args := request[0], request[1:]
	if len(args) != 2 {
		return nil, fmt.Errorf("request %q has %d arguments, not 2", name, len(args))
	}
	if name == "pair" {
		s.close()
		var err error
		s.pair, err = s.c.Pair(args[0], args[1])
		return nil, err
	}
	n, err := strconv.Atoi(args[0])
	if err != nil || n <= 0 {
		return nil, fmt.Errorf("request %q: %q is not a positive number", name, args[0])
	}
	if name == "open" {
		return s.open(n, args[1])
	}
	m, err := strconv.Atoi(args[1])
	if err != nil || m <= 0 {
		return nil, fmt.Errorf("request %q: %q is not a positive number", name, args[1])
	}
	switch {
	case name == "sockets":
		return s.sockets(n, m)
	case name != "stream" && name != "rtt":
		return nil, fmt.Errorf("unknown request %q", name)
	case s.pair == nil:
		return nil, fmt.Errorf("request %q before pair", name)
	case name == "stream":
		return s.stream(n, time.Duration(m)*time.Millisecond)
	}
	return s.rtt(n, m)
}

// open measures how long stacks take to come and to go. The first one is not
// counted: it may start what all have in common.
func (s *server) open(n int, vnl string) ([]int64, error) {
	opens, closes := make([]int64, 0, n), make([]int64, 0, n)
	for i := range n + 1 {
		start := time.Now()
		st, err := s.c.Open(strings.ReplaceAll(vnl, "%d", strconv.Itoa(i)))
		if err != nil {
			return nil, err
		}
		sock, err := st.Socket()
		opened := time.Since(start)
		if err != nil {
			st.Close()
			return nil, err
		}
		start = time.Now()
		sock.Close()
		if err := st.Close(); err != nil {
			return nil, err
		}
		if i > 0 {
			opens = append(opens, opened.Nanoseconds())
			closes = append(closes, time.Since(start).Nanoseconds())
		}
	}
	return slices.Concat(opens, closes), nil
}

// sockets measures how long n sockets take.
func (s *server) sockets(n, goroutines int) ([]int64, error) {
	st, err := s.c.Open("")
	if err != nil {
		return nil, err
	}
	defer st.Close()
	var group sync.WaitGroup
	errs := make(chan error, goroutines)
	start := time.Now()
	for g := range goroutines {
		group.Go(func() {
			for i := g; i < n; i += goroutines {
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
