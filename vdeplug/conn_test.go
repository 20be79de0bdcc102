package vdeplug

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/testenv"
)

// An inbox is a plug of a test. Its frames are received all the time, so that
// a test can wait for one with a deadline.
type inbox struct {
	Conn
	frames chan []byte
	end    chan error // the last error of Recv
}

// station returns the address of a made-up station.
func station(n int) ether.MAC {
	var m ether.MAC
	m[0] = 0x02
	binary.BigEndian.PutUint32(m[2:], uint32(n))
	return m
}

// A plugOn is a plug with its transport.
type plugOn[T packet.Transport] struct {
	*plug
	on T
}

// isOn reports whether the transport of a plug is a T.
func isOn[T packet.Transport](c Conn) (p plugOn[T], ok bool) {
	switch c := c.(type) {
	case plugOn[T]:
		return c, true
	case *linkedPlug:
		p.plug = c.plug
	case *plug:
		p.plug = c
	default:
		return p, false
	}
	p.on, ok = p.transport.(T)
	return p, ok
}

// on is isOn for a plug of which that is known.
func on[T packet.Transport](c Conn) plugOn[T] {
	p, ok := isOn[T](c)
	if !ok {
		panic(fmt.Sprintf("%T is another plug", c))
	}
	return p
}

// newInbox takes over a plug and closes it at the end of the test.
func newInbox(t *testing.T, c Conn) *inbox {
	t.Helper()
	in := &inbox{Conn: c, frames: make(chan []byte, 4096), end: make(chan error, 1)}
	go func() {
		defer close(in.frames)
		buf := make([]byte, 64<<10)
		for {
			n, err := c.Recv(buf)
			if err != nil {
				in.end <- err
				return
			}
			select {
			case in.frames <- bytes.Clone(buf[:n]):
			default: // a test that wants all reads them in time
			}
		}
	}()
	t.Cleanup(func() {
		c.Close()
		for range in.frames {
		}
	})
	return in
}

// openInbox opens a plug for the time of the test.
func openInbox(t *testing.T, vnl string) *inbox {
	t.Helper()
	c, err := Open(vnl, nil)
	if err != nil {
		t.Fatal(err)
	}
	return newInbox(t, c)
}

// want waits for a frame that equals frame and passes over others.
func (in *inbox) want(t *testing.T, frame []byte) {
	t.Helper()
	if !in.has(frame, testenv.Timeout) {
		t.Fatalf("a frame of %d bytes (%.20x) did not arrive in %v", len(frame), frame, testenv.Timeout)
	}
}

// next returns the next frame.
func (in *inbox) next(t *testing.T) []byte {
	t.Helper()
	select {
	case f, ok := <-in.frames:
		if !ok {
			t.Fatal("the network has ended")
		}
		return f
	case <-time.After(testenv.Timeout):
		t.Fatalf("no frame arrived in %v", testenv.Timeout)
	}
	return nil
}

// wantEnd waits for the end of the network and returns the reason.
func (in *inbox) wantEnd(t *testing.T) error {
	t.Helper()
	select {
	case err := <-in.end:
		in.end <- err
		return err
	case <-time.After(testenv.Timeout):
		t.Fatalf("the network did not end in %v", testenv.Timeout)
	}
	return nil
}

func (in *inbox) has(frame []byte, wait time.Duration) bool {
	timeout := time.After(wait)
	for {
		select {
		case f, ok := <-in.frames:
			if !ok {
				return false
			}
			if bytes.Equal(f, frame) {
				return true
			}
		case <-timeout:
			return false
		}
	}
}

func send(t *testing.T, c Conn, frame []byte) {
	t.Helper()
	if err := c.Send(frame); err != nil {
		t.Fatal(err)
	}
}

// carry sends the frame until it arrives: the peer may still be opening its
// network, or learn only then who is there.
func carry(t *testing.T, from interface{ Send([]byte) error }, to *inbox, frame []byte) {
	t.Helper()
	deadline := time.Now().Add(testenv.Timeout)
	for {
		if err := from.Send(frame); err != nil {
			t.Fatalf("send: %v", err)
		}
		if to.has(frame, 20*time.Millisecond) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no frame of %d bytes (%.20x) arrived in %v", len(frame), frame, testenv.Timeout)
		}
	}
}

// testFrame makes a frame of n bytes from station src to station dst that is
// different from all others.
func testFrame(dst, src ether.MAC, n int) []byte {
	f := make([]byte, max(n, ether.HeaderLen))
	copy(f, dst[:])
	copy(f[6:], src[:])
	f[12], f[13] = 0x88, 0xb5 // local experiments
	serial.Lock()
	defer serial.Unlock()
	serial.n++
	for i := ether.HeaderLen; i < len(f); i++ {
		f[i] = byte(i * int(serial.n))
	}
	if len(f) >= ether.HeaderLen+4 {
		binary.BigEndian.PutUint32(f[ether.HeaderLen:], serial.n)
	}
	return f
}

var serial struct {
	sync.Mutex
	n uint32
}

var broadcast = ether.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// pipes are the two ends of a program's standard input and output.
type pipes struct {
	io.ReadCloser
	w io.WriteCloser
}

func (p pipes) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p pipes) Close() error                { return errors.Join(p.w.Close(), p.ReadCloser.Close()) }

// testConn checks what every plug promises. open returns a new plug on a
// network of its own.
func testConn(t *testing.T, open func(t *testing.T) Conn) {
	t.Run("close", func(t *testing.T) {
		testenv.NoLeaks(t)
		c := open(t)
		errs := make(chan error)
		const readers = 3
		for range readers {
			go func() {
				for {
					if _, err := c.Recv(make([]byte, ether.MaxFrame)); err != nil {
						errs <- err
						return
					}
				}
			}()
		}
		for range 10 {
			runtime.Gosched() // let some block
		}
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		for range readers {
			select {
			case err := <-errs:
				if err != net.ErrClosed {
					t.Errorf("recv: got %v, want net.ErrClosed", err)
				}
			case <-time.After(testenv.Timeout):
				t.Fatal("Close did not wake a receiver")
			}
		}
		if _, err := c.Recv(make([]byte, ether.MaxFrame)); err != net.ErrClosed {
			t.Errorf("recv after close: got %v, want net.ErrClosed", err)
		}
		if err := c.Send(testFrame(broadcast, station(1), 60)); err != net.ErrClosed {
			t.Errorf("send after close: got %v, want net.ErrClosed", err)
		}
		if err := c.Close(); err != nil {
			t.Errorf("second close: %v", err)
		}
	})
	t.Run("drops", func(t *testing.T) {
		testenv.NoLeaks(t)
		c := open(t)
		defer c.Close()
		d, ok := c.(Dropper)
		if !ok {
			t.Fatalf("%T counts no drops", c)
		}
		for _, n := range []int{0, 1, ether.HeaderLen - 1, ether.MaxFrame + 1, 20000} {
			before := d.Drops().Send
			if err := c.Send(make([]byte, n)); err != nil {
				t.Errorf("%d bytes: %v", n, err)
			}
			if got := d.Drops().Send - before; got != 1 {
				t.Errorf("%d bytes: %d drops, want 1", n, got)
			}
		}
	})
	t.Run("does not block", func(t *testing.T) {
		testenv.NoLeaks(t)
		c := open(t)
		done := make(chan error)
		go func() {
			frame := testFrame(broadcast, station(1), 1514)
			for range 5000 {
				if err := c.Send(frame); err != nil {
					done <- fmt.Errorf("send: %w", err)
					return
				}
			}
			done <- nil
		}()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(testenv.Timeout):
			t.Error("Send blocks")
		}
		c.Close()
	})
	t.Run("concurrent", func(t *testing.T) {
		testenv.NoLeaks(t)
		c := open(t)
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				for c.Send(testFrame(broadcast, station(i), 100)) == nil {
				}
			})
			wg.Go(func() {
				buf := make([]byte, ether.MaxFrame)
				for {
					if _, err := c.Recv(buf); err != nil {
						return
					}
				}
			})
		}
		time.AfterFunc(50*time.Millisecond, func() { c.Close() })
		wg.Wait()
		c.Close()
	})
}

// benchPlugs sends frames from one plug to another.
func benchPlugs(b *testing.B, fromVNL, toVNL string) {
	open := func(vnl string) Conn {
		c, err := Open(vnl, nil)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		return c
	}
	scheme, _, _ := strings.Cut(fromVNL, "://")
	from, to := open(fromVNL), open(toVNL)
	for _, size := range []int{60, 1514, ether.MaxFrame} {
		frame, buf := testFrame(broadcast, station(1), size), make([]byte, ether.MaxFrame)
		b.Run(fmt.Sprint(scheme, " ", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if err := from.Send(frame); err != nil {
					b.Fatal(err)
				}
				if _, err := to.Recv(buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
