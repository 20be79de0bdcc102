//go:build linux

// Command wireguard is the worker of the benchmark for two ways to a WireGuard tunnel without
// privilege, with the same wireguard-go. It is a module of its own, so that users of module
// wireguard do not depend on gVisor. Its argument says which:
//
//   - "tun" is module wireguard: wireguard-go on the TUN of a stack.
//   - "netstack" is wireguard-go's own package tun/netstack: gVisor's stack.
//
// A pair is two tunnels in this process, to each other by UDP on the host's loopback. A stack
// is one tunnel, with a peer that does not answer; a socket of it is one that listens, as
// netstack has no others.
//
// Package bench/internal/worker describes the requests.
package main
