// Package memnet is what packages vdeplug and stack say to each other about the
// networks mem://NAME. Such a network has two halves: a switch in user space,
// which package vdeplug has for plugs, and a switch of the kernel, which package
// stack has for the interfaces of stacks. An uplink joins the two, but only while
// there are plugs: a network of stacks alone costs nothing in user space.
package memnet

import (
	"sync/atomic"

	"github.com/vdestack/vdestack/internal/packet"
)

// A Port is the uplink's connection to the switch in user space. After Close,
// RecvPackets goes on to return what was sent before, and then [net.ErrClosed].
type Port interface {
	packet.Transport
}

// An Uplink is the kernel's half of a network. Its methods are called one at a
// time.
type Uplink interface {
	// Connect is called when the network has plugs. When it returns, frames pass
	// between the halves. The port belongs to the uplink, unless there is an
	// error, which is that of opening the plug.
	Connect(Port) error
	// Disconnect is called when the last plug has left, or the uplink is
	// detached. When it returns, what plugs sent before is delivered.
	Disconnect()
}

// Attach gives the network of a name its uplink, until detach is called. A
// network has one uplink at most. Package vdeplug sets it.
var Attach func(name string, u Uplink) (detach func(), err error)

// UserSpace makes package stack do without a switch of the kernel for mem://:
// interfaces are plugs then. It is set where the kernel has none, and by tests.
var UserSpace atomic.Bool
