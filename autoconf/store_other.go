//go:build !linux

package autoconf

import "os"

// openStored opens a file. There are no stacks on this system that would use it.
func openStored(name string) (*os.File, error) { return os.Open(name) }
