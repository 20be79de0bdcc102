package vdestack

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

func BenchmarkSocket(b *testing.B) {
	s := open(b, "")
	b.ReportAllocs()
	for b.Loop() {
		f, err := s.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		testenv.Check(b, err)
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
			ln := testenv.Must(tt.listen("tcp4", "127.0.0.1:0"))(b)
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
				testenv.Check(b, err)
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
		testenv.Check(b, err)
		c.Close()
	}
}

// BenchmarkPCAP is one TCP stream between a stack on an end of a veth pair and the
// kernel, which has the other end, with the processor time of both.
func BenchmarkPCAP(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("a packet socket needs root")
	}
	ip := func(args string) {
		b.Helper()
		if out, err := exec.Command("/sbin/ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			b.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	ip("link add wire0 type veth peer name wire1")
	b.Cleanup(func() { ip("link del wire0") })
	ip("link set wire0 up")
	ip("link set wire1 up")
	ip("addr add 10.77.0.1/24 dev wire1")
	s := testenv.Opened(Open("pcap://wire0", "10.77.0.2/24"))(b)
	ln := testenv.Opened(net.Listen("tcp", "10.77.0.1:0"))(b)
	for _, direction := range []string{"from stack", "to stack"} {
		b.Run(direction, func(b *testing.B) {
			from := testenv.Opened(s.DialContext(b.Context(), "tcp", ln.Addr().String()))(b)
			to := testenv.Opened(ln.Accept())(b)
			if direction == "to stack" {
				from, to = to, from
			}
			before := processorTime(b)
			testenv.Stream(b, from, to)
			b.ReportMetric((processorTime(b)-before).Seconds()/(float64(b.N)*testenv.StreamChunk/1e9), "cpu-s/GB")
		})
	}
}

// processorTime is what the process has taken so far.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	testenv.Check(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
