//go:build amd64 || arm64

// Package rlimit has the limit of open files with which the process was started. Go's
// syscall package raises the limit when it is initialised and keeps the first one to
// itself, for the programs it starts.
//
// This package imports nothing, and its path sorts before "syscall": by the language
// specification it is initialised first.
package rlimit

// Nofile is RLIMIT_NOFILE: the soft limit and the hard limit.
var Nofile [2]uint64

// Known says that Nofile was read.
var Known = getrlimit(&Nofile) == 0

// getrlimit calls prlimit64(0, RLIMIT_NOFILE, nil, limit).
//
//go:noescape
func getrlimit(limit *[2]uint64) (errno uintptr)
