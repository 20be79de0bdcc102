package vdeplug

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/stream"
	"github.com/vdestack/vdestack/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// openPlug opens a plug for the time of the test.
func openPlug(t testing.TB, vnl string) Conn {
	t.Helper()
	c := testenv.Must(Open(vnl, nil))(t)
	t.Cleanup(func() { c.Close() })
	return c
}

// wantOpenError wants an error of Open with the text, that is each of the others.
func wantOpenError(t *testing.T, vnl, text string, is ...error) {
	t.Helper()
	c, err := Open(vnl, nil)
	if err == nil {
		c.Close()
	}
	plugtest.WantError(t, err, text, is...)
}

// writeFile writes a file and returns its path. It makes the directory.
func writeFile(t *testing.T, path, text string) string {
	t.Helper()
	testenv.Check(t, os.MkdirAll(filepath.Dir(path), 0o700))
	testenv.Check(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// wantDrops compares the drops of a plug.
func wantDrops(t *testing.T, c Conn, want Drops) {
	t.Helper()
	if in, ok := c.(*plugtest.Inbox); ok {
		c = in.Conn
	}
	if got := c.(Dropper).Drops(); got != want {
		t.Errorf("dropped %+v, want %+v", got, want)
	}
}

// openInbox is openPlug for a plug that is received from all the time.
func openInbox(t *testing.T, vnl string) *plugtest.Inbox {
	t.Helper()
	return plugtest.NewInbox(t, openPlug(t, vnl))
}

// testParse parses a locator, and wants a result, or an error with a text.
func testParse[C any](t *testing.T, vnl string, parse func(Locator) (C, error), want C, text string) {
	t.Helper()
	l := testenv.Must(Parse(vnl))(t)
	got, err := parse(l)
	if text != "" {
		plugtest.WantError(t, err, text)
	} else if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

// A parseTest is a locator, and what its parser makes of it: what is set in the
// configuration without options, and the inner network; or an error.
type parseTest[C any] struct {
	in    string
	set   func(*C)
	inner string
	err   string
}

// is sets a whole configuration.
func is[C any](want C) func(*C) { return func(c *C) { *c = want } }

// testParses parses locators with a function that returns the inner network separately.
func testParses[C any](t *testing.T, parse func(Locator) (C, string, error), plain C, tests []parseTest[C]) {
	for _, tt := range tests {
		t.Run(tt.in[:min(len(tt.in), 60)], func(t *testing.T) {
			want, inner := plain, ""
			if tt.set != nil {
				tt.set(&want)
			}
			testParse(t, tt.in, func(l Locator) (got C, err error) {
				got, inner, err = parse(l)
				return got, err
			}, want, tt.err)
			if tt.err == "" && inner != tt.inner {
				t.Errorf("got the inner network %q, want %q", inner, tt.inner)
			}
		})
	}
}

// flat is for testParses of networks without an inner one.
func flat[C any](parse func(Locator) (C, error)) func(Locator) (C, string, error) {
	return func(l Locator) (C, string, error) {
		cfg, err := parse(l)
		return cfg, "", err
	}
}

// registerTest registers a scheme for the time of the test.
func registerTest(t *testing.T, name string, open func(context.Context) (Conn, error)) {
	t.Helper()
	Register(Scheme{Name: name, Open: func(ctx context.Context, _ Locator, _ *Options) (Conn, error) { return open(ctx) }})
	t.Cleanup(func() {
		registry.mu.Lock()
		defer registry.mu.Unlock()
		delete(registry.schemes, name)
	})
}

// registerStream registers nestedtest://, whose plug is on a stream to peer.
func registerStream(t *testing.T) (peer net.Conn) {
	t.Helper()
	p, peer := net.Pipe()
	registerTest(t, "nestedtest", func(context.Context) (Conn, error) { return newPlug("nestedtest://", stream.New(p)), nil })
	return peer
}

// registerFrames registers nestedtest://, whose plugs carry only single frames.
func registerFrames(t *testing.T) {
	t.Helper()
	registerTest(t, "nestedtest", func(context.Context) (Conn, error) {
		c, err := Open("mem://nestedtest", nil)
		return struct {
			Conn
			Dropper
		}{c, c.(Dropper)}, err
	})
}

// testConn checks what every plug promises. open returns a new plug on a network of
// its own.
func testConn(t *testing.T, open func(t *testing.T) Conn) {
	plugtest.Check(t, func(t *testing.T) plugtest.Conn {
		c := open(t)
		if _, ok := c.(Dropper); !ok {
			t.Fatalf("%T counts no drops", c)
		}
		return c
	})
}

// TestConn checks what every plug promises, for the schemes of all systems.
func TestConn(t *testing.T) {
	testenv.Long(t)
	registerFrames(t)
	for _, vnl := range []string{
		"null://whatever", agnoVNL(t, "mem://agno"),
		"vlan://4{mem://nested}", "vlan://4{nestedtest://}", "vlan://4{null://}",
		"netemu://{mem://netemu}", "netemu://loss=10%/duplicate=10%/corrupt=10%/reorder=10%{mem://netemu}",
		"netemu://delay=1ms/jitter=1ms{mem://netemu}", "netemu://delay=1h{mem://netemu}", "netemu://rate=1mbit{mem://netemu}",
		"restart://{mem://restart}", "vlan://4{restart://3{nestedtest://}}",
		"netemu://delay=1ms{vlan://4{mem://netemu}}", "vlan://4{netemu://delay=1ms{mem://netemu}}", "netemu://reorder=50%/rate=1gbit{nestedtest://}",
	} {
		t.Run(vnl, func(t *testing.T) {
			testConn(t, func(t *testing.T) Conn { return openPlug(t, vnl) })
		})
	}
	for _, vnl := range []string{"mem://capture", "netemu://delay=1ms{mem://capture}", "nestedtest://"} {
		t.Run("capture of "+vnl, func(t *testing.T) {
			testConn(t, func(t *testing.T) Conn { return Capture(openPlug(t, vnl), new(bytes.Buffer), "plug") })
		})
	}
	t.Run("mem, and a peer", func(t *testing.T) {
		testConn(t, func(t *testing.T) Conn {
			openInbox(t, "mem://"+t.Name())
			return openPlug(t, "mem://"+t.Name())
		})
	})
}

// benchPlugs sends frames to a station from one plug to another.
func benchPlugs(b *testing.B, from, to Conn, dst ether.MAC) {
	for _, size := range []int{60, 1514, ether.MaxFrame} {
		frame, buf := plugtest.TestFrame(dst, plugtest.Station(2), size), make([]byte, ether.MaxFrame)
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				testenv.Check(b, from.Send(frame))
				_, err := to.Recv(buf)
				testenv.Check(b, err)
			}
		})
	}
}

func TestNull(t *testing.T) {
	c := openInbox(t, "null://")
	for i := range 10 {
		testenv.Check(t, c.Send(plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(i), 60)))
	}
	wantDrops(t, c, Drops{Send: 10})
}
