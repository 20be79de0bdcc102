// Package bridge has the networks that the kernel switches, and the veth pairs that
// join interfaces of stacks to them.
//
// A [Switch] is a bridge in a namespace of its own. An interface of a stack is one end
// of a veth pair whose other end is a [Port] of the bridge: between stacks no frame
// enters user space. A [Pair] has no bridge: the process reads and writes its other end
// with a packet socket.
package bridge

import "path/filepath"

// SharedPath returns the path of a network that processes share, of the body of a locator
// of lan://; "" if it is a name, of a network of this process.
func SharedPath(body string) string {
	if !filepath.IsAbs(body) {
		return ""
	}
	return filepath.Clean(body)
}
