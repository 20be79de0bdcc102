package testenv

import (
	"bytes"
	"context"
	"io"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"
)

// Timeout is how long a test waits for an event before it fails. It only ends tests that
// hang: tests of how long something takes have limits of their own.
const Timeout = time.Minute

// Context returns a context that ends after Timeout, or with the test.
func Context(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Timeout)
	t.Cleanup(cancel)
	return ctx
}

// Eventually waits until ok returns true. If that takes longer than Timeout, the test
// fails with what was expected and, if given, the last state.
func Eventually(t testing.TB, want string, ok func() bool, state ...func() string) {
	t.Helper()
	for deadline := time.Now().Add(Timeout); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			text := ""
			for _, s := range state {
				text += ": " + s()
			}
			t.Fatalf("want %s within %v%s", want, Timeout, text)
		}
	}
}

// A Buffer collects the output of a running program.
type Buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String returns what has been written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// Must returns the value of a call that must succeed, or ends the test:
//
//	ln := testenv.Must(net.Listen("tcp", ":0"))(t)
func Must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// Closing closes what a call has returned. It returns the error of the call, or of Close.
func Closing[T io.Closer](v T, err error) error {
	if err == nil {
		err = v.Close()
	}
	return err
}

// Prefixes parses prefixes.
func Prefixes(list ...string) (ps []netip.Prefix) {
	for _, s := range list {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// Addrs parses addresses.
func Addrs(list ...string) (as []netip.Addr) {
	for _, s := range list {
		as = append(as, netip.MustParseAddr(s))
	}
	return as
}

// ShortDir returns a new directory with a short name, for local sockets, whose paths are
// limited. It is removed at the end of the test.
func ShortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vde")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
