// Package regular opens files that users name, which may be anything.
package regular

import (
	"errors"
	"os"
	"syscall"
)

// errKind is for pipes, directories and devices.
var errKind = errors.New("not a regular file")

// Open opens a regular file for reading; of anything else, a pipe without a writer too, it
// returns an error at once. It looks after it has opened, so nobody can exchange the file
// between the two. The error is an [*os.PathError].
func Open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &os.PathError{Op: "open", Path: path, Err: errKind}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
