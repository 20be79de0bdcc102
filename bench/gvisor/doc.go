//go:build linux

// Command gvisor is the worker of the benchmark for gVisor's TCP/IP stack. It is a module
// of its own, so that users of this module do not depend on gVisor. The locator says what
// joins its stacks:
//
//   - "pipe" passes packets within the process.
//   - "gso" does so with packets of up to 64 KiB and without checksums.
//   - "unix" is a unix socket with such packets.
//
// Package bench/internal/worker describes the requests.
package main
