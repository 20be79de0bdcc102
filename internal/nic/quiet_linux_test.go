//go:build amd64 || arm64

package nic

import (
	"errors"
	"os"
	"testing"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// TestQuiet has the kernel send a packet: the interface is quiet again when who
// reads has come back for more, not when it was read.
func TestQuiet(t *testing.T) {
	s := newSpace(t)
	d, index := s.tap(All)
	if !d.Quiet() {
		t.Fatal("not quiet in the beginning")
	}
	from := testenv.Must(s.ns.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0))(s.t)
	defer unix.Close(from)
	s.check(unix.Sendto(from, make([]byte, 60), 0, &unix.SockaddrLinklayer{Ifindex: index}))
	if d.Quiet() {
		t.Error("quiet with a packet that was not read")
	}
	var b packet.Buffer
	packets, err := d.Read(&b)
	if err != nil || len(packets) != 1 {
		t.Fatalf("%d packets, %v", len(packets), err)
	}
	if d.Quiet() {
		t.Error("quiet while somebody has a packet")
	}
	ended := make(chan error)
	go func() {
		_, err := d.Read(&b)
		ended <- err
	}()
	testenv.Eventually(t, "it to be quiet when all is read", d.Quiet)
	d.Close()
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

// TestStop stops a monitor: what was queued is read, and nothing later.
func TestStop(t *testing.T) {
	s := newSpace(t)
	_, index := s.tap(All)
	socket := func() int {
		fd, err := s.ns.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		s.check(err)
		return fd
	}
	m, err := NewMonitor(socket(), index)
	s.check(err)
	from := socket()
	defer unix.Close(from)
	send := func(first byte) {
		s.check(unix.Sendto(from, append([]byte{first}, make([]byte, 59)...), 0, &unix.SockaddrLinklayer{Ifindex: index}))
	}
	send(2)
	send(4)
	s.check(m.Stop())
	send(6)
	var got []byte
	ended := make(chan error)
	go func() {
		var b packet.Buffer
		for {
			packets, _, err := m.Read(&b)
			if err != nil {
				ended <- err
				return
			}
			for _, p := range packets {
				if p.Data[0] < 0x33 { // not of IPv6 itself
					got = append(got, p.Data[0])
				}
			}
		}
	}()
	testenv.Eventually(t, "all to be read", m.Quiet)
	s.check(m.Close())
	if err := <-ended; !errors.Is(err, os.ErrClosed) || string(got) != "\x02\x04" {
		t.Errorf("read %v, %v", got, err)
	}
	if err := m.Stop(); err == nil {
		t.Error("a closed monitor is stopped")
	}
}

// TestDetach closes an interface and leaves it: it is there, and the namespace
// can end.
func TestDetach(t *testing.T) {
	s := newSpace(t)
	d, index := s.tap(All)
	s.check(d.Detach())
	if _, err := s.nl.Link(index); err != nil {
		t.Error(err)
	}
	if _, err := d.Read(new(packet.Buffer)); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	s.check(s.nl.LinkDel(index))
}

// TestQuietRemoved removes interfaces: what they have sent before is read, and they are
// quiet then.
func TestQuietRemoved(t *testing.T) {
	s := newSpace(t)
	tap, index := s.tap(All)
	s.check(s.nl.LinkDel(index))
	if !tap.Quiet() {
		t.Error("a TAP is not quiet")
	}
	a, b := s.cable()
	d := s.socket(b, All)
	from := testenv.Must(s.ns.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0))(s.t)
	defer unix.Close(from)
	s.check(unix.Sendto(from, testFrame(60), 0, &unix.SockaddrLinklayer{Ifindex: a}))
	testenv.Eventually(t, "the packet", func() bool { return !d.Quiet() })
	s.check(s.nl.LinkDel(b))
	var buf packet.Buffer
	if packets, err := d.Read(&buf); err != nil || len(packets) != 1 {
		t.Errorf("got %d packets, %v, want the one that was sent before", len(packets), err)
	}
	if _, err := d.Read(&buf); !errors.Is(err, ErrRemoved) {
		t.Errorf("got %v, want %v", err, ErrRemoved)
	}
	if !d.Quiet() {
		t.Error("a socket is not quiet")
	}
}
