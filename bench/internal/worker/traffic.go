package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
)

const (
	// warmUp is the number of round trips that are not counted.
	warmUp = 50
	// retry is the pause between two attempts to connect to the other half, which may
	// not listen yet.
	retry = 5 * time.Millisecond
	// lossTime is after which datagrams that have not come back are lost.
	lossTime = 200 * time.Millisecond
)

// stream sends for a time, and measures until the receiver has all of it.
func (s *server) stream(n []int, _ []string) ([]int64, error) {
	ln, err := s.pair.Listen(0)
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	port := ln.Addr().(*net.TCPAddr).Port
	t := newTransfer(n)
	sent := make(chan error, 1)
	go func() { sent <- t.send(s.pair, port) }()
	values, err := t.receive(s.pair, ln)
	return values, cmp.Or(err, <-sent)
}

func (s *server) receive(n []int, _ []string) ([]int64, error) {
	ln, err := s.pair.Listen(Port)
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	return newTransfer(n).receive(s.pair, ln)
}

func (s *server) send(n []int, _ []string) ([]int64, error) {
	return nil, newTransfer(n).send(s.pair, Port)
}

// A transfer is what both sides of a stream know.
type transfer struct {
	streams, size int
	time          time.Duration
}

// newTransfer takes the numbers of a request.
func newTransfer(n []int) *transfer {
	return &transfer{streams: n[0], size: n[1], time: time.Duration(n[2]) * time.Millisecond}
}

// send connects, writes until the time is over, and ends the streams.
func (t *transfer) send(p Pair, port int) error {
	deadline := time.Now().Add(t.time + Spare)
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range t.streams {
		c, err := dial(p, port, deadline)
		if err != nil {
			return err
		}
		conns = append(conns, c)
		c.SetDeadline(deadline)
	}
	end := time.Now().Add(t.time)
	return all(conns, func(c net.Conn) error {
		buf := make([]byte, t.size)
		for time.Now().Before(end) {
			if _, err := c.Write(buf); err != nil {
				return err
			}
		}
		half, ok := c.(interface{ CloseWrite() error })
		if !ok {
			return fmt.Errorf("connection of type %T cannot be closed for writing", c)
		}
		if err := half.CloseWrite(); err != nil {
			return err
		}
		// The end of the other direction says that everything has arrived.
		_, err := io.Copy(io.Discard, c)
		return err
	})
}

// dial connects to a port that will be listened on.
func dial(p Pair, port int, deadline time.Time) (net.Conn, error) {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	for {
		c, err := p.Dial(ctx, port)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return c, err
		}
		select {
		case <-time.After(retry):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// receive accepts the connections and reads all to their end.
func (t *transfer) receive(p Pair, ln net.Listener) ([]int64, error) {
	deadline := time.Now().Add(t.time + Spare)
	if l, ok := ln.(interface{ SetDeadline(time.Time) error }); ok {
		l.SetDeadline(deadline)
	} else {
		defer time.AfterFunc(time.Until(deadline), func() { ln.Close() }).Stop()
	}
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	var start time.Time
	for range t.streams {
		c, err := ln.Accept()
		if err != nil {
			return nil, err
		}
		if conns == nil {
			start = time.Now()
		}
		conns = append(conns, c)
		c.SetDeadline(deadline)
	}
	var counted sync.WaitGroup
	var allocs, frames int64
	counted.Go(func() { allocs, frames = t.count(p) })
	received := make(chan int64, t.streams)
	err := all(conns, func(c net.Conn) error {
		buf := make([]byte, t.size)
		var sum int64
		for {
			n, err := c.Read(buf)
			sum += int64(n)
			if err == io.EOF {
				received <- sum
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
	took := time.Since(start)
	counted.Wait()
	if err != nil {
		return nil, err
	}
	var sum int64
	for range t.streams {
		sum += <-received
	}
	return []int64{sum, took.Nanoseconds(), allocs, frames}, nil
}

// count counts in the middle of the transfer, when everything for it is set up.
func (t *transfer) count(p Pair) (allocs, frames int64) {
	c, ok := p.(Carrier)
	if !ok {
		return 0, 0
	}
	var before, after runtime.MemStats
	time.Sleep(t.time / 4)
	first := c.Frames()
	runtime.ReadMemStats(&before)
	time.Sleep(t.time / 2)
	runtime.ReadMemStats(&after)
	return int64(after.Mallocs - before.Mallocs), int64(c.Frames() - first)
}

// all calls f for all connections at once. If one call fails, all are closed.
func all(conns []net.Conn, f func(net.Conn) error) error {
	errs := make(chan error, len(conns))
	for _, c := range conns {
		go func() { errs <- f(c) }()
	}
	var first error
	for range conns {
		if err := <-errs; err != nil && first == nil {
			first = err
			for _, c := range conns {
				c.Close()
			}
		}
	}
	return first
}

// rtt measures round trips. Package net sets TCP_NODELAY.
func (s *server) rtt(n []int, _ []string) ([]int64, error) {
	ln, err := s.pair.Listen(0)
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	echoed := make(chan error, 1)
	go func() { echoed <- echo(ln, n[0]) }()
	times, err := ping(s.pair, ln.Addr().(*net.TCPAddr).Port, n[0], n[1])
	ln.Close() // in case nobody has connected
	return times, cmp.Or(err, <-echoed)
}

func (s *server) echo(n []int, _ []string) ([]int64, error) {
	ln, err := s.pair.Listen(Port)
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	defer time.AfterFunc(Spare, func() { ln.Close() }).Stop()
	return nil, echo(ln, n[0])
}

func (s *server) ping(n []int, _ []string) ([]int64, error) { return ping(s.pair, Port, n[0], n[1]) }

// echo accepts a connection, and sends back what comes.
func echo(ln net.Listener, size int) error {
	c, err := ln.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(Spare))
	buf := make([]byte, size)
	for {
		if _, err := io.ReadFull(c, buf); err != nil {
			return nil // the client has closed, or reports the error
		}
		if _, err := c.Write(buf); err != nil {
			return nil
		}
	}
}

// ping connects to echo, and measures.
func ping(p Pair, port, size, count int) ([]int64, error) {
	deadline := time.Now().Add(Spare)
	c, err := dial(p, port, deadline)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(deadline)
	buf := make([]byte, size)
	times := make([]int64, 0, count)
	for i := range warmUp + count {
		start := time.Now()
		if _, err := c.Write(buf); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return nil, err
		}
		if i >= warmUp {
			times = append(times, time.Since(start).Nanoseconds())
		}
	}
	return times, nil
}

// reflect sends datagrams back.
func (s *server) reflect(n []int, _ []string) ([]int64, error) {
	p, ok := s.pair.(Datagrammer)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	c, err := p.ListenPacket(Port)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(Spare))
	buf := make([]byte, n[0])
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil || n == 0 {
			return nil, err
		}
		if _, err := c.WriteToUDPAddrPort(buf[:n], from); err != nil {
			return nil, err
		}
	}
}

// packets measures datagrams that come back.
func (s *server) packets(n []int, _ []string) ([]int64, error) {
	p, ok := s.pair.(Datagrammer)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	buf, window, limit := make([]byte, n[0]), n[1], time.Duration(n[2])*time.Millisecond
	c, err := p.DialPacket(Port)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	// The other half may not be there yet.
	for deadline := time.Now().Add(Spare); ; time.Sleep(retry) {
		c.SetReadDeadline(time.Now().Add(lossTime))
		if _, err = c.Write(buf); err == nil {
			_, err = c.Read(buf)
		}
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			return nil, err
		}
	}
	var back, lost int64
	start := time.Now()
	for away := 0; time.Since(start) < limit; {
		c.SetReadDeadline(time.Now().Add(lossTime))
		for ; away < window; away++ {
			if _, err := c.Write(buf); err != nil {
				return nil, err
			}
		}
		// The window stays full, and the clock is not read for each datagram.
		for range window {
			if _, err := c.Read(buf); errors.Is(err, os.ErrDeadlineExceeded) {
				lost, away = lost+int64(away), 0
				break
			} else if err != nil {
				return nil, err
			}
			back++
			if _, err := c.Write(buf); err != nil {
				return nil, err
			}
		}
	}
	took := time.Since(start)
	_, err = c.Write(nil)
	return []int64{back, lost, took.Nanoseconds()}, err
}
