package vdestacktest_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/vdestacktest"
)

// A recorder is a test whose failures are wanted.
type recorder struct {
	testing.TB
	cleanups []func()
	errors   []string
}

func (r *recorder) Helper()                   {}
func (r *recorder) Cleanup(f func())          { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Errorf(f string, a ...any) { r.errors = append(r.errors, fmt.Sprintf(f, a...)) }
func (r *recorder) Fatal(a ...any)            { r.errors = append(r.errors, fmt.Sprint(a...)); panic(r) }

// run is a test that does f, and returns its failures.
func run(t *testing.T, f func(t testing.TB)) []string {
	t.Helper()
	r := &recorder{TB: t}
	func() {
		defer func() {
			if p := recover(); p != nil && p != r {
				panic(p)
			}
		}()
		f(r)
	}()
	for i := len(r.cleanups); i > 0; i-- {
		r.cleanups[i-1]()
	}
	return r.errors
}

func TestOpen(t *testing.T) {
	testenv.Long(t)
	vnl := "mem://" + t.Name()
	tests := []struct {
		name string
		do   func(t testing.TB, a, b *vdestack.Stack)
		want []string // of the failure; empty: none
	}{
		{"nothing", func(testing.TB, *vdestack.Stack, *vdestack.Stack) {}, nil},
		{"all closed", func(t testing.TB, a, b *vdestack.Stack) {
			ln, c, s := connect(t, a, b)
			ln.Close()
			c.Close()
			s.Close()
		}, nil},
		{"closed by a cleanup", func(t testing.TB, a, b *vdestack.Stack) {
			ln, c, s := connect(t, a, b)
			t.Cleanup(func() { ln.Close(); c.Close(); s.Close() })
		}, nil},
		{"a reader", func(t testing.TB, a, b *vdestack.Stack) {
			ln, c, s := connect(t, a, b)
			go io.Copy(io.Discard, c)
			ln.Close()
			c.Close()
			s.Close()
		}, nil},
		{"a stack that was closed", func(t testing.TB, a, b *vdestack.Stack) {
			connect(t, a, b)
			a.Close()
			b.Close()
		}, nil},
		{"a listener", func(t testing.TB, a, b *vdestack.Stack) {
			ln, c, s := connect(t, a, b)
			t.Cleanup(func() { _ = ln })
			c.Close()
			s.Close()
		}, []string{"left open: tcp 0.0.0.0:7000, which listens"}},
		{"connections", func(t testing.TB, a, b *vdestack.Stack) {
			ln, c, s := connect(t, a, b)
			ln.Close()
			t.Cleanup(func() { _, _ = c, s })
		}, []string{"left open: tcp 10.0.0.2:", "to 10.0.0.1:7000"}},
		{"UDP", func(t testing.TB, a, _ *vdestack.Stack) {
			pc := testenv.Must(a.ListenPacket("udp6", "[::1]:7000"))(t)
			t.Cleanup(func() { _ = pc })
		}, []string{"udp [::1]:7000"}},
		{"an idle connection", func(t testing.TB, a, b *vdestack.Stack) {
			ln := testenv.Must(a.Listen("tcp", ":80"))(t)
			srv := &http.Server{Handler: http.NotFoundHandler()}
			go srv.Serve(ln)
			client := b.HTTPClient()
			resp := testenv.Must(client.Get("http://10.0.0.1/"))(t)
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			ln.Close()
		}, []string{"tcp 10.0.0.2:", "to 10.0.0.1:80"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := run(t, func(t testing.TB) {
				a, b := vdestacktest.Open(t, vnl, "10.0.0.1/24"), vdestacktest.Open(t, vnl, "10.0.0.2/24")
				tt.do(t, a, b)
			})
			if len(tt.want) == 0 && len(got) > 0 {
				t.Errorf("failed: %q", got)
			}
			all := strings.Join(got, "\n")
			for _, want := range tt.want {
				if !strings.Contains(all, want) {
					t.Errorf("got %q, want %q", all, want)
				}
			}
		})
	}
	if got := run(t, func(t testing.TB) { vdestacktest.Open(t, "nosuch://") }); len(got) != 1 || !strings.Contains(got[0], "nosuch") {
		t.Errorf("got %q, want the error of Open", got)
	}
}

// connect makes a listener of a, a connection of b to it, and its other end.
func connect(t testing.TB, a, b *vdestack.Stack) (ln net.Listener, client, server net.Conn) {
	t.Helper()
	ln = testenv.Must(a.Listen("tcp4", ":7000"))(t)
	client = testenv.Must(b.Dial("tcp", "10.0.0.1:7000"))(t)
	server = testenv.Must(ln.Accept())(t)
	return ln, client, server
}

// TestOpenLimit has no descriptor left to look for sockets with: the test does not pass.
func TestOpenLimit(t *testing.T) {
	var limit syscall.Rlimit
	testenv.Check(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	got := run(t, func(t testing.TB) {
		vdestacktest.Open(t, "")
		t.Cleanup(func() { syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 3, Max: limit.Max}) })
	})
	if len(got) != 1 || !strings.Contains(got[0], "looking for sockets that are open: ") || !strings.Contains(got[0], "too many open files") {
		t.Errorf("got %q, want that nothing was looked for", got)
	}
}
