package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// warmUp is the number of round trips that are not counted.
const warmUp = 50

// connect makes one TCP connection between the stacks, with a deadline.
func (s *server) connect(planned time.Duration) (client, server net.Conn, err error) {
	end := time.Now().Add(planned + Spare)
	ln, err := s.pair.Listen()
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	ctx, cancel := context.WithDeadline(context.Background(), end)
	defer cancel()
	// The handshake needs nobody to accept.
	if client, err = s.pair.Dial(ctx, ln.Addr().String()); err != nil {
		return nil, nil, err
	}
	if server, err = ln.Accept(); err != nil {
		client.Close()
		return nil, nil, err
	}
	client.SetDeadline(end)
	server.SetDeadline(end)
	return client, server, nil
}

// stream sends for a time, and measures until the receiver has all of it.
func (s *server) stream(size int, d time.Duration) ([]int64, error) {
	client, server, err := s.connect(d)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	defer server.Close()
	sent := make(chan error, 1)
	start := time.Now()
	go func() { sent <- send(client, size, start.Add(d)) }()

	buf := make([]byte, size)
	var received int64
	for {
		n, err := server.Read(buf)
		received += int64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			client.Close() // ends the sender
			return nil, errors.Join(err, <-sent)
		}
	}
	took := time.Since(start)
	return []int64{received, took.Nanoseconds()}, <-sent
}

// send writes until the end, and then says that there is no more.
func send(c net.Conn, size int, end time.Time) error {
	buf := make([]byte, size)
	for time.Now().Before(end) {
		if _, err := c.Write(buf); err != nil {
			return err
		}
	}
	half, ok := c.(interface{ CloseWrite() error })
	if !ok {
		return fmt.Errorf("connection of type %T cannot be closed for writing", c)
	}
	return half.CloseWrite()
}

// rtt measures round trips. TCP_NODELAY is what package net sets anyway.
func (s *server) rtt(size, n int) ([]int64, error) {
	client, server, err := s.connect(0)
	if err != nil {
		return nil, err
	}
	echoed := make(chan struct{})
	go func() {
		defer close(echoed)
		buf := make([]byte, size)
		for {
			if _, err := io.ReadFull(server, buf); err != nil {
				return // the client has closed, or reports it
			}
			if _, err := server.Write(buf); err != nil {
				return
			}
		}
	}()
	defer func() {
		client.Close()
		server.Close()
		<-echoed
	}()

	buf := make([]byte, size)
	times := make([]int64, 0, n)
	for i := range warmUp + n {
		start := time.Now()
		if _, err := client.Write(buf); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(client, buf); err != nil {
			return nil, err
		}
		if i >= warmUp {
			times = append(times, time.Since(start).Nanoseconds())
		}
	}
	return times, nil
}
