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

// An Inbox is a plug with a goroutine that receives, so that a test can wait for a frame with
// a deadline.
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
			default: // tests that want all frames read them in time
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

// Drain receives until the end of the network, and returns the reason.
func Drain(c Conn) error {
	for buf := make([]byte, ether.MaxFrame); ; {
		if _, err := c.Recv(buf); err != nil {
			return err
		}
	}
}

// await returns the next value of a channel; false if the channel is closed. It ends the test
// if nothing comes in time.
func await[T any](t *testing.T, want string, c <-chan T) (v T, ok bool) {
	t.Helper()
	select {
	case v, ok = <-c:
	case <-time.After(testenv.Timeout):
		t.Fatalf("want %s within %v", want, testenv.Timeout)
	}
	return v, ok
}

// Want waits for the frame, and skips others.
func (in *Inbox) Want(t *testing.T, frame []byte) {
	t.Helper()
	if !in.has(frame, testenv.Timeout) {
		t.Fatalf("a frame of %d bytes (%.20x) did not arrive in %v", len(frame), frame, testenv.Timeout)
	}
}

// Next returns the next frame.
func (in *Inbox) Next(t *testing.T) []byte {
	t.Helper()
	f, ok := await(t, "a frame", in.Frames)
	if !ok {
		t.Fatal("the network has ended")
	}
	return f
}

// WantNext wants the next frame to be frame.
func (in *Inbox) WantNext(t *testing.T, frame []byte) {
	t.Helper()
	if got := in.Next(t); !bytes.Equal(got, frame) {
		t.Errorf("got another frame, of %d bytes: %.40x, want %.40x", len(got), got, frame)
	}
}

// WantEnd waits for the end of the network and returns the reason.
func (in *Inbox) WantEnd(t *testing.T) error {
	t.Helper()
	err, _ := await(t, "the end of the network", in.end)
	in.end <- err
	return err
}

// has reports whether the frame arrives in time. It skips others.
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
	testenv.Check(t, c.Send(frame))
}

// Deliver sends a frame once, and waits until it arrives.
func Deliver(t *testing.T, from Conn, to interface{ Want(*testing.T, []byte) }, frame []byte) {
	t.Helper()
	Send(t, from, frame)
	to.Want(t, frame)
}

// Carry sends a frame until it arrives: the peer may still be opening its network, or learn
// from the frame where the sender is.
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

// Pipe joins two ends of pipes, such as a program's standard input and output.
func Pipe(r io.ReadCloser, w io.WriteCloser) io.ReadWriteCloser { return pipes{r, w} }

type pipes struct {
	io.ReadCloser
	w io.WriteCloser
}

func (p pipes) Write(b []byte) (int, error) { return p.w.Write(b) }

func (p pipes) Close() error { return errors.Join(p.w.Close(), p.ReadCloser.Close()) }

// Check tests what every plug promises. open returns a new plug on a network of its own; it
// counts drops with Dropped.
func Check(t *testing.T, open func(t *testing.T) Conn) {
	t.Run("close", func(t *testing.T) {
		testenv.NoLeaks(t)
		c := open(t)
		errs := make(chan error)
		const readers = 3
		for range readers {
			go func() { errs <- Drain(c) }()
		}
		for range 10 {
			runtime.Gosched() // let some block
		}
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		for range readers {
			if err, _ := await(t, "a receiver to wake from Close", errs); err != net.ErrClosed {
				t.Errorf("recv: got %v, want net.ErrClosed", err)
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
		if err, _ := await(t, "Send not to block", done); err != nil {
			t.Error(err)
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
			wg.Go(func() { Drain(c) })
		}
		time.AfterFunc(50*time.Millisecond, func() { c.Close() })
		wg.Wait()
		c.Close()
	})
}

// WantNone wants no frame of a station among those that have arrived.
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

// WantError wants an error with the text, that is each of the errors that are not nil.
func WantError(t testing.TB, err error, text string, is ...error) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("got error %v, want one with %q", err, text)
	}
	for _, want := range is {
		if want != nil && !errors.Is(err, want) {
			t.Errorf("got error %v, want one that wraps %v", err, want)
		}
	}
}

// CarryBoth carries frames of stations 1 and 2 both ways, of each size.
func CarryBoth(t *testing.T, a, b *Inbox, sizes ...int) {
	t.Helper()
	for _, n := range sizes {
		Carry(t, a, b, TestFrame(Station(2), Station(1), n))
		Carry(t, b, a, TestFrame(Station(1), Station(2), n))
	}
}

// SendBoth is CarryBoth where each frame must arrive: it is sent once.
func SendBoth(t *testing.T, a, b *Inbox, sizes ...int) {
	t.Helper()
	for _, n := range sizes {
		for _, way := range [2]struct {
			from, to *Inbox
			frame    []byte
		}{{b, a, TestFrame(Station(1), Station(2), n)}, {a, b, TestFrame(Station(2), Station(1), n)}} {
			Deliver(t, way.from, way.to, way.frame)
		}
	}
}

// CheckAllocs sees that frames are sent and received both ways without allocating.
func CheckAllocs(t *testing.T, a, b Conn) {
	t.Helper()
	if testenv.Race {
		t.Skip("the race detector empties pools")
	}
	frame, buf := TestFrame(Broadcast, Station(1), 1514), make([]byte, ether.MaxFrame)
	for _, way := range [2][2]Conn{{a, b}, {b, a}} {
		n := testing.AllocsPerRun(1000, func() {
			Send(t, way[0], frame)
			for n := 0; n != len(frame); { // the kernel may have something to say
				var err error
				n, err = way[1].Recv(buf)
				testenv.Check(t, err)
			}
		})
		if n != 0 {
			t.Errorf("%v allocations per frame, want 0", n)
		}
	}
}

// Closes sees that Close returns while the kernel holds what was received.
func Closes(t *testing.T, c Conn) {
	t.Helper()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		c.Close()
	}()
	await(t, "Close to return", closed)
}
