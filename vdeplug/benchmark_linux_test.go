package vdeplug

import (
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/plugtest"
)

func BenchmarkCmd(b *testing.B) {
	c, err := Open("cmd://cat", nil)
	if err != nil {
		b.Fatal(err)
	}
	benchTurnback(b, c)
}

// BenchmarkTAP sends to the host's end of an interface, which nobody reads.
func BenchmarkTAP(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("making an interface needs root")
	}
	c, err := Open("tap://vdebench0", nil)
	if err != nil {
		b.Skip(err)
	}
	b.Cleanup(func() { c.Close() })
	upBench(b, "vdebench0")
	frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 1514)
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Send(frame); err != nil {
			b.Fatal(err)
		}
	}
}

// upBench sets an interface up.
func upBench(b *testing.B, name string) {
	b.Helper()
	s, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	raw, err := s.(*net.UDPConn).SyscallConn()
	if err != nil {
		b.Fatal(err)
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		b.Fatal(err)
	}
	ifr.SetUint16(unix.IFF_UP)
	raw.Control(func(fd uintptr) { err = unix.IoctlIfreq(int(fd), unix.SIOCSIFFLAGS, ifr) })
	if err != nil {
		b.Fatal(err)
	}
}
