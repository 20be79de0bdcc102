// Package testenv gives tests a private network namespace and the programs
// they need.
package testenv

import (
	"os"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv/private"
)

// Skip skips the test, or fails it with VDESTACK_TEST_STRICT=1, as on a machine that has
// everything that tests need. The text says what is missing and how to get it.
func Skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("VDESTACK_TEST_STRICT") == "1" {
		t.Fatalf("must not be skipped here: "+format, args...)
	}
	t.Skipf(format, args...)
}

// Need returns the path of a program, and skips the test if it is missing; pkg is the
// Debian package that has it.
func Need(t testing.TB, program, pkg string) string {
	t.Helper()
	path, err := private.Find(program, pkg)
	if err != nil {
		Skip(t, "%v", err)
	}
	return path
}

// NeedRoot skips the test of an ordinary user; what says what takes root.
func NeedRoot(t testing.TB, what string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip(what + " needs root")
	}
}

// Check ends the test if there is an error.
func Check(t testing.TB, err error) {
	if err != nil { // this first: Helper is slow for benchmarks
		t.Helper()
		t.Fatal(err)
	}
}

// Long skips the test with go test -short: it takes half a second or more.
func Long(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes long: not with -short")
	}
}
