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

// NeedDescriptors does nothing: the limits of other systems are unknown.
func NeedDescriptors(testing.TB, uint64) {}

// WatchNamespaces does nothing: there are no namespaces here.
func WatchNamespaces(testing.TB, ...string) {}
