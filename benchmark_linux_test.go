package vdestack

import (
	"context"
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

func BenchmarkSocket(b *testing.B) {
	s := open(b, "")
	b.ReportAllocs()
	for b.Loop() {
		f, err := s.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}

// BenchmarkDial connects to a listener of the same stack, and of the host.
func BenchmarkDial(b *testing.B) {
	s := open(b, "")
	for _, tt := range []struct {
		name   string
		listen func(network, address string) (net.Listener, error)
		dial   func(ctx context.Context, network, address string) (net.Conn, error)
	}{
		{"stack", s.Listen, s.DialContext},
		{"host", net.Listen, new(net.Dialer).DialContext},
	} {
		b.Run(tt.name, func(b *testing.B) {
			ln, err := tt.listen("tcp4", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				for {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					io.Copy(io.Discard, c)
					c.Close()
				}
			}()
			b.ReportAllocs()
			for b.Loop() {
				c, err := tt.dial(b.Context(), "tcp4", ln.Addr().String())
				if err != nil {
					b.Fatal(err)
				}
				c.Close()
			}
			ln.Close()
			<-done
		})
	}
}

// BenchmarkDialUDP makes a socket and connects it, which sends nothing.
func BenchmarkDialUDP(b *testing.B) {
	s := open(b, "")
	b.ReportAllocs()
	for b.Loop() {
		c, err := s.DialContext(b.Context(), "udp4", "127.0.0.1:9")
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}
