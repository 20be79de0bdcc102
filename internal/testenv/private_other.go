//go:build !linux

package testenv

import (
	"os"
	"testing"
)

// Main runs the tests as they are: there are no network namespaces here.
func Main(m *testing.M) {
	runProgram()
	os.Exit(m.Run())
}
