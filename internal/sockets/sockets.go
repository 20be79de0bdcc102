// Package sockets does with sockets what package net does not: it begins TCP connections
// and makes raw sockets without one on the host, joins multicast groups by the index of an
// interface, and lists and ends the sockets of a network namespace.
package sockets

import (
	"context"
	"net/netip"
	"os"
	"syscall"
)

// A ControlFunc is called with a new socket before it is bound or connected.
type ControlFunc = func(network, address string, c syscall.RawConn) error

// A Maker makes sockets in a stack.
type Maker interface {
	Socket(domain, typ, proto int) (*os.File, error)
}

// A Stack is where [Begin] makes sockets.
type Stack interface {
	Maker
	ControlContext(ctx context.Context, network, address string, c syscall.RawConn) error
}

// Fresh is the context that tells a stack's ControlContext that the socket is one which
// package net has just made for the network, not for multipath TCP: the kernel need not
// be asked what it is. If Begun is not nil, that takes its place, unless it is the same:
// a socket of the stack, from [Begin].
type Fresh struct {
	context.Context
	Begun *os.File
}

// A Socket is an entry of [List].
type Socket struct {
	TCP           bool // else UDP
	Listening     bool
	Open          bool // in some process; others, such as those in TIME_WAIT, are the kernel's
	Local, Remote netip.AddrPort
}
