package testenv

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"
)

// Timeout is how long a test waits for an event before it fails. It only ends
// tests that hang: a test of how long something takes has a limit of its own.
const Timeout = time.Minute

// Context returns a context that ends after Timeout, or with the test.
func Context(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Timeout)
	t.Cleanup(cancel)
	return ctx
}

// Eventually waits until ok returns true. If it does not within Timeout, the test
// fails with what was expected and, where given, the last state.
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

// A Buffer collects what a running program writes.
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

// ShortDir returns a directory with a short name, as the paths of local sockets need.
// It is removed at the end of the test.
func ShortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vde")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
