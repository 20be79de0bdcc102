// Package testenv gives tests a private network namespace and the programs
// they need.
package testenv

import (
	"os"
	"os/exec"
	"testing"
)

// Strict says that a test that must run on a fully equipped machine may not
// skip. It is set by VDESTACK_TEST_STRICT=1.
func Strict() bool { return os.Getenv("VDESTACK_TEST_STRICT") == "1" }

// Skip skips the test, or fails it under Strict. The text names what is
// missing and how to get it.
func Skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if Strict() {
		t.Fatalf("must not be skipped here: "+format, args...)
	}
	t.Skipf(format, args...)
}

// Need returns the path of a program, and skips the test if it is missing;
// pkg is the Debian package that has it.
func Need(t testing.TB, program, pkg string) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/sbin/", "/sbin/"} {
		if path, err := exec.LookPath(dir + program); err == nil {
			return path
		}
	}
	Skip(t, "program %s is missing (apt-get install %s)", program, pkg)
	return ""
}

// Check ends the test if there is an error.
func Check(t testing.TB, err error) {
	if err != nil { // this first: Helper is slow for benchmarks
		t.Helper()
		t.Fatal(err)
	}
}

// Long skips the test where the tests are to be quick (go test -short), for it takes
// seconds.
func Long(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes seconds: not with -short")
	}
}
