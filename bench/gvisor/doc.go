//go:build linux

// Command gvisor is the worker of the benchmark for gVisor's TCP/IP stack, a
// module of its own so that nobody who uses stacks depends on it. Its stacks
// are joined, by the locator, by
//
//   - "pipe", which hands packets over within the process,
//   - "gso", the same with packets of up to 64 KiB and without checksums,
//   - "unix", a unix socket with such packets.
//
// See package bench/internal/worker for what it is asked.
package main
