package plugtest

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
	"github.com/vdestack/vdestack/internal/testenv"
)

// An Inbox is a plug that is received from all the time, so that a test can wait for a
// frame with a deadline.
type Inbox struct {
	Conn
	Frames chan []byte
	end    chan error // the error that ended Recv
}

// Station returns the address of station n.
func Station(n int) ether.MAC {
	var m ether.MAC
	m[0] = 0x02
	binary.BigEndian.PutUint32(m[2:], uint32(n))
	return m
}

// NewInbox takes over a plug, and closes it at the end of the test.
func NewInbox(t *testing.T, c Conn) *Inbox {
	t.Helper()
	in := &Inbox{Conn: c, Frames: make(chan []byte, 4096), end: make(chan error, 1)}
	go func() {
		defer close(in.Frames)
		buf := make([]byte, 64<<10)
		for {
			n, err := c.Recv(buf)
			if err != nil {
				in.end <- err
				return
			}
			select {
			case in.Frames <- bytes.Clone(buf[:n]):
			default: // a test that wants all reads them in time
			}
		}
	}()
	t.Cleanup(func() {
		c.Close()
		for range in.Frames {
		}
	})
	return in
}

// Want waits for a frame that equals frame, and skips others.
func (in *Inbox) Want(t *testing.T, frame []byte) {
	t.Helper()
	if !in.has(frame, testenv.Timeout) {
		t.Fatalf("a frame of %d bytes (%.20x) did not arrive in %v", len(frame), frame, testenv.Timeout)
	}
}

// Next returns the next frame.
func (in *Inbox) Next(t *testing.T) []byte {
	t.Helper()
	select {
	case f, ok := <-in.Frames:
		if !ok {
			t.Fatal("the network has ended")
		}
		return f
	case <-time.After(testenv.Timeout):
		t.Fatalf("no frame arrived in %v", testenv.Timeout)
	}
	return nil
}

// WantEnd waits for the end of the network and returns the reason.
func (in *Inbox) WantEnd(t *testing.T) error {
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

// has reports whether a frame that equals frame arrives in time. It skips others.
func (in *Inbox) has(frame []byte, wait time.Duration) bool {
	timeout := time.After(wait)
	for {
		select {
		case f, ok := <-in.Frames:
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

// Send sends a frame.
func Send(t *testing.T, c Conn, frame []byte) {
	t.Helper()
	if err := c.Send(frame); err != nil {
		t.Fatal(err)
	}
}

// Carry sends a frame until it arrives: the peer may still be opening its network, or
// learn only from the frame where the sender is.
func Carry(t *testing.T, from interface{ Send([]byte) error }, to *Inbox, frame []byte) {
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

// TestFrame makes a frame of n bytes from src to dst that differs from all others.
func TestFrame(dst, src ether.MAC, n int) []byte {
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

// Broadcast is the address of all stations.
var Broadcast = ether.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// Pipe makes one file of two ends of pipes, such as a program's standard input and output.
func Pipe(r io.ReadCloser, w io.WriteCloser) io.ReadWriteCloser { return pipes{r, w} }

type pipes struct {
	io.ReadCloser
	w io.WriteCloser
}

func (p pipes) Write(b []byte) (int, error) { return p.w.Write(b) }

func (p pipes) Close() error { return errors.Join(p.w.Close(), p.ReadCloser.Close()) }

// Check tests what every plug promises. open returns a new plug on a network of its
// own, which counts its drops with Dropped.
func Check(t *testing.T, open func(t *testing.T) Conn) {
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
		if err := c.Send(TestFrame(Broadcast, Station(1), 60)); err != net.ErrClosed {
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
		for _, n := range []int{0, 1, ether.HeaderLen - 1, ether.MaxFrame + 1, 20000} {
			_, before := Dropped(c)
			if err := c.Send(make([]byte, n)); err != nil {
				t.Errorf("%d bytes: %v", n, err)
			}
			if _, after := Dropped(c); after-before != 1 {
				t.Errorf("%d bytes: %d drops, want 1", n, after-before)
			}
		}
	})
	t.Run("does not block", func(t *testing.T) {
		testenv.NoLeaks(t)
		c := open(t)
		done := make(chan error)
		go func() {
			frame := TestFrame(Broadcast, Station(1), 1514)
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
				for c.Send(TestFrame(Broadcast, Station(i), 100)) == nil {
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

// WantNone looks whether a frame of a station is among those that have come and
// were not waited for.
func (in *Inbox) WantNone(t *testing.T, what string, src ether.MAC) {
	t.Helper()
	for {
		select {
		case f := <-in.Frames:
			if len(f) >= ether.HeaderLen && ether.MAC(f[6:12]) == src {
				t.Errorf("%s: %.20x", what, f)
			}
		default:
			return
		}
	}
}

// Dropped returns the drops that a plug of a transport has counted.
func Dropped(c Conn) (recv, send uint64) {
	return c.(interface{ Dropped() (recv, send uint64) }).Dropped()
}

// WantError wants an error with the text.
func WantError(t testing.TB, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("got error %v, want one with %q", err, text)
	}
}
