package vdeplug

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/transform"
)

// A flaky is a network of the scheme "flaky".
type flaky struct {
	mu    sync.Mutex
	err   error       // of opening
	opens []time.Time // attempts
	now   *flakyConn  // the last that was opened
	hang  bool        // opening does not return before its context has ended
}

// newFlaky returns a network, and its locator.
func newFlaky(t *testing.T) (*flaky, string) {
	t.Helper()
	f := &flaky{}
	registerTest(t, "flaky", f.open)
	return f, "flaky://x"
}

func (f *flaky) open(ctx context.Context) (Conn, error) {
	if f.hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opens = append(f.opens, time.Now())
	if f.err != nil {
		return nil, f.err
	}
	f.now = &flakyConn{frames: make(chan []byte, 8)}
	f.now.gone, f.now.end = context.WithCancelCause(context.Background())
	return f.now, nil
}

func (f *flaky) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// end ends the network.
func (f *flaky) end() { f.conn().end(errTestGone) }

func (f *flaky) conn() *flakyConn {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *flaky) attempts() []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.opens)
}

// A flakyConn returns the frames that are sent, until it is gone.
type flakyConn struct {
	packet.Counters
	frames chan []byte
	gone   context.Context // its cause is the error of calls
	end    context.CancelCauseFunc
}

func (c *flakyConn) Drops() Drops { return Drops{c.DroppedRecv.Load(), c.DroppedSend.Load()} }

func (c *flakyConn) Recv(frame []byte) (int, error) {
	select {
	case f := <-c.frames:
		return copy(frame, f), nil
	case <-c.gone.Done():
		return 0, context.Cause(c.gone)
	}
}

func (c *flakyConn) Send(frame []byte) error {
	if err := context.Cause(c.gone); err != nil {
		return err
	}
	select {
	case c.frames <- bytes.Clone(frame):
	default:
		c.DroppedSend.Add(1)
	}
	return nil
}

func (c *flakyConn) Close() error {
	c.end(net.ErrClosed)
	return nil
}

// links records the calls of Notify.
type links struct {
	mu   sync.Mutex
	told []string
}

func (l *links) add(link Link) {
	text := "back"
	switch {
	case link.Err != nil && link.Reconnecting:
		text = "gone"
	case link.Err != nil:
		text = "for good"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = append(l.told, text)
}

func (l *links) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.told, ", ")
}

var (
	errTestGone  = errors.New("it has gone")
	errTestAgain = &os.PathError{Op: "open", Path: "x", Err: syscall.ENOENT}
)

// receiving starts a goroutine that receives, and sends the last error to end.
func receiving(c Conn) (got chan []byte, end chan error) {
	got, end = make(chan []byte, 64), make(chan error, 1)
	go func() {
		buf := make([]byte, ether.MaxFrame)
		for {
			n, err := c.Recv(buf)
			if err != nil {
				end <- err
				return
			}
			got <- bytes.Clone(buf[:n])
		}
	}()
	return got, end
}

// reopening opens a plug with Reconnect for the time of the test.
func reopening(t *testing.T, vnl string, notify func(Link)) Conn {
	t.Helper()
	c := testenv.Must(Open(vnl, &Options{Reconnect: true, Notify: notify}))(t)
	t.Cleanup(func() { c.Close() })
	return c
}

// wantLink compares the state of a network. err is what its error wraps.
func wantLink(t *testing.T, c Conn, what string, err error, reconnecting bool, reconnects uint64) {
	t.Helper()
	if l := c.(Linker).Link(); !errors.Is(l.Err, err) || l.Reconnecting != reconnecting || l.Reconnects != reconnects {
		t.Errorf("%s: %+v", what, l)
	}
}

func TestReconnect(t *testing.T) {
	f, vnl := newFlaky(t)
	synctest.Test(t, func(t *testing.T) {
		var told links
		c := reopening(t, vnl, told.add)
		got, end := receiving(c)
		frame := plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60)
		if err := c.Send(frame); err != nil || !bytes.Equal(<-got, frame) {
			t.Fatal("no frame", err)
		}
		f.conn().DroppedSend.Add(3)

		f.set(errTestAgain)
		lost := time.Now()
		f.end()
		synctest.Wait()
		wantLink(t, c, "gone", errTestGone, true, 0)
		plugtest.WantError(t, c.(Linker).Link().Err, fmt.Sprintf("vdeplug: recv %q: it has gone", vnl))
		if err := c.Send(frame); err != nil {
			t.Errorf("sending while it is gone: %v", err)
		}
		time.Sleep(30 * time.Second)
		wantLink(t, c, "still gone", syscall.ENOENT, true, 0)
		want, last := reconnectFirst, lost
		attempts := f.attempts()[1:]
		if len(attempts) < 10 || len(attempts) > 16 {
			t.Errorf("%d attempts in 30 s", len(attempts))
		}
		for i, at := range attempts {
			if d := at.Sub(last); d > want || d < want*3/4 {
				t.Errorf("attempt %d came after %v, want %v or a little less", i+1, d, want)
			}
			last, want = at, min(2*want, 5*time.Second)
		}

		f.set(nil)
		time.Sleep(5 * time.Second)
		wantLink(t, c, "back", nil, false, 1)
		if err := c.Send(frame); err != nil || !bytes.Equal(<-got, frame) {
			t.Error("no frame", err)
		}
		wantDrops(t, c, Drops{Send: 4})
		time.Sleep(2 * time.Second)

		// Sending finds it out as well, and the wait has started over.
		lost = time.Now()
		f.end()
		if err := c.Send(frame); err != nil {
			t.Error(err)
		}
		time.Sleep(reconnectFirst)
		if at := f.attempts(); at[len(at)-1].Sub(lost) > reconnectFirst {
			t.Error("the first wait is long")
		}
		if got, want := told.String(), "gone, back, gone, back"; got != want {
			t.Errorf("told %q, want %q", got, want)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := <-end; err != net.ErrClosed {
			t.Errorf("receiving after Close: %v", err)
		}
		if err := c.Send(frame); err != net.ErrClosed {
			t.Errorf("sending after Close: %v", err)
		}
		if c.Close() != nil {
			t.Error("a second Close")
		}
	})
}

// TestReconnectUnsteady has a network that ends as soon as it is open.
func TestReconnectUnsteady(t *testing.T) {
	f, vnl := newFlaky(t)
	synctest.Test(t, func(t *testing.T) {
		var told links
		c := reopening(t, vnl, told.add)
		receiving(c)
		for range 20 {
			had := f.conn()
			f.end()
			for f.conn() == had {
				time.Sleep(time.Millisecond)
			}
		}
		if got, want := told.String(), "gone, back"; got != want {
			t.Errorf("told %q, want %q", got, want)
		}
		at := f.attempts()
		if d := at[len(at)-1].Sub(at[len(at)-2]); d < 3*time.Second {
			t.Errorf("the last wait was %v", d)
		}
		wantLink(t, c, "unsteady", nil, false, 20)
		time.Sleep(2 * reconnectSteady)
		if got, want := told.String(), "gone, back, back"; got != want {
			t.Errorf("told %q when it lasts, want %q", got, want)
		}
	})
}

// TestReconnectEnds has lasting errors.
func TestReconnectEnds(t *testing.T) {
	for name, err := range map[string]error{
		"permission":  fmt.Errorf("connecting: %w", syscall.EACCES),
		"operation":   os.NewSyscallError("connect", syscall.EPERM),
		"unsupported": errors.ErrUnsupported,
	} {
		t.Run(name, func(t *testing.T) {
			f, vnl := newFlaky(t)
			synctest.Test(t, func(t *testing.T) {
				var told links
				c := reopening(t, vnl, told.add)
				_, end := receiving(c)
				// For a moment it passes.
				f.set(err)
				f.end()
				time.Sleep(reconnectDoubt / 2)
				wantLink(t, c, "at once", err, true, 0)
				f.set(nil)
				time.Sleep(10 * time.Second)
				wantLink(t, c, "after a moment", nil, false, 1)
				f.set(err)
				f.end()
				if got := <-end; !errors.Is(got, err) || !strings.Contains(got.Error(), vnl) {
					t.Errorf("got %v, want %v", got, err)
				}
				if got := c.Send(make([]byte, 60)); !errors.Is(got, err) {
					t.Errorf("sending: %v", got)
				}
				synctest.Wait()
				wantLink(t, c, "in the end", err, false, 1)
				n := len(f.attempts())
				time.Sleep(time.Minute)
				if now := len(f.attempts()); now != n {
					t.Errorf("%d attempts after the end", now-n)
				}
				if got, want := told.String(), "gone, back, gone, for good"; got != want {
					t.Errorf("told %q, want %q", got, want)
				}
			})
		})
	}
}

// TestReconnectOpen checks that Open fails at once, with Reconnect or without.
func TestReconnectOpen(t *testing.T) {
	f, vnl := newFlaky(t)
	f.set(errTestAgain)
	if _, err := Open(vnl, &Options{Reconnect: true}); !errors.Is(err, fs.ErrNotExist) || len(f.attempts()) != 1 {
		t.Errorf("got %v after %d attempts", err, len(f.attempts()))
	}
	f.set(nil)
	c := openPlug(t, vnl)
	if _, ok := c.(*flakyConn); !ok {
		t.Errorf("without Reconnect it is a %T", c)
	}
}

// TestReconnectClose closes a plug at every moment of its absence.
func TestReconnectClose(t *testing.T) {
	for _, hang := range []bool{false, true} {
		for _, after := range []time.Duration{0, reconnectFirst / 2, 60 * time.Millisecond, 3 * time.Second, 20 * time.Second} {
			t.Run(fmt.Sprint(hang, after), func(t *testing.T) {
				f, vnl := newFlaky(t)
				synctest.Test(t, func(t *testing.T) {
					c := reopening(t, vnl, nil)
					_, end := receiving(c)
					f.set(errTestAgain)
					f.hang = hang
					f.end()
					time.Sleep(after)
					began := time.Now()
					if err := c.Close(); err != nil {
						t.Error(err)
					}
					if d := time.Since(began); d > 0 {
						t.Errorf("Close took %v", d)
					}
					if err := <-end; err != net.ErrClosed {
						t.Errorf("receiving: %v", err)
					}
				})
			})
		}
	}
}

// TestReconnectFile has the locator in a file that changes.
func TestReconnectFile(t *testing.T) {
	f, vnl := newFlaky(t)
	file := filepath.Join(t.TempDir(), "net.vnl")
	write := func(text string) { writeFile(t, file, text) }
	write(vnl + "\n")
	synctest.Test(t, func(t *testing.T) {
		c := reopening(t, file, nil)
		_, end := receiving(c)
		// It may be empty for a moment, or gone for a while.
		write("")
		f.end()
		time.Sleep(reconnectDoubt / 2)
		if l := c.(Linker).Link(); !l.Reconnecting || !strings.Contains(l.Err.Error(), "empty") {
			t.Errorf("an empty file: %+v", l)
		}
		os.Remove(file)
		time.Sleep(10 * time.Second)
		wantLink(t, c, "without the file", fs.ErrNotExist, true, 0)
		write("null://\n")
		time.Sleep(10 * time.Second)
		wantLink(t, c, "another network", nil, false, 1)
		c.Close()
		<-end

		write(vnl + "\n")
		c = reopening(t, file, nil)
		_, end = receiving(c)
		write("vlan://x{null://}\n")
		f.end()
		if err := <-end; !strings.Contains(err.Error(), `"x"`) {
			t.Errorf("a bad locator: %v", err)
		}
	})
}

// TestReconnectNested loses an inner network: it is opened again, and the outer ones stay.
func TestReconnectNested(t *testing.T) {
	f, vnl := newFlaky(t)
	synctest.Test(t, func(t *testing.T) {
		c := reopening(t, "vlan://7{vlan://8/qinq{"+vnl+"}}", nil)
		if _, ok := packet.Find[*transform.Transport](transportOf(c)); !ok {
			t.Errorf("the plug is a %T", c)
		}
		got, _ := receiving(c)
		frame := plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60)
		for i := range 3 {
			if err := c.Send(frame); err != nil || !bytes.Equal(<-got, frame) {
				t.Fatal("no frame", err)
			}
			wantLink(t, c, "inside", nil, false, uint64(i))
			f.end()
			time.Sleep(10 * time.Second)
		}
	})
}

// TestReconnectRace loses the network while everything is called, and closes.
func TestReconnectRace(t *testing.T) {
	testenv.Long(t)
	f, vnl := newFlaky(t)
	synctest.Test(t, func(t *testing.T) {
		for range 20 {
			c := reopening(t, vnl, func(Link) {})
			var wg sync.WaitGroup
			// Only one: others would wait for a mutex, which synctest cannot see.
			wg.Go(func() {
				var b packet.Buffer
				defer b.Release()
				for {
					if _, err := c.(packet.Transport).RecvPackets(&b); err != nil {
						return
					}
				}
			})
			for range 3 {
				wg.Go(func() { plugtest.Drain(c) })
				wg.Go(func() {
					for c.Send(make([]byte, 60)) == nil && c.(packet.Transport).SendPackets([]packet.Packet{{Data: make([]byte, 60)}}, true) == nil {
						c.(Dropper).Drops()
						c.(Linker).Link()
						time.Sleep(time.Millisecond)
					}
				})
			}
			for i := range 20 {
				f.end()
				time.Sleep(time.Duration(i) * 20 * time.Millisecond)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			wg.Wait()
		}
	})
}

// TestLinkJSON checks that the error is written as text.
func TestLinkJSON(t *testing.T) {
	for want, l := range map[string]Link{
		`{"Reconnecting":false,"Reconnects":0,"Err":null}`:                              {},
		`{"Reconnecting":true,"Reconnects":2,"Err":"use of closed network connection"}`: {Err: net.ErrClosed, Reconnecting: true, Reconnects: 2},
	} {
		if got, err := json.Marshal(l); err != nil || string(got) != want {
			t.Errorf("got %s, %v, want %s", got, err, want)
		}
	}
}
