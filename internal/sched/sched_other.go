//go:build !linux

// Package sched schedules programs that only carry frames.
package sched

// Batch does nothing on this system.
func Batch() {}
