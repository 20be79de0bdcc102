//go:build !linux

// Package sched is how programs want to be scheduled that only carry frames.
package sched

// Batch does nothing on this system.
func Batch() {}
