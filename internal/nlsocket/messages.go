// Package nlsocket is netlink sockets that were made in a stack: for package rtnl, and as
// connections of mdlayher/netlink, whose own Dial enters a namespace only with CAP_SYS_ADMIN.
package nlsocket

import (
	"encoding/binary"
	"errors"
	"iter"

	"github.com/mdlayher/netlink"
)

// headerLen is the size of a struct nlmsghdr.
const headerLen = 16

// ErrMalformed says that what has come is not what netlink sends.
var ErrMalformed = errors.New("malformed netlink message")

// Messages splits a datagram.
func Messages(b []byte) iter.Seq2[netlink.Message, error] {
	return func(yield func(netlink.Message, error) bool) {
		for len(b) > 0 {
			if len(b) < headerLen {
				yield(netlink.Message{}, ErrMalformed)
				return
			}
			n := binary.NativeEndian.Uint32(b)
			if n < headerLen || uint64(n) > uint64(len(b)) {
				yield(netlink.Message{}, ErrMalformed)
				return
			}
			m := netlink.Message{
				Header: netlink.Header{
					Length:   n,
					Type:     netlink.HeaderType(binary.NativeEndian.Uint16(b[4:])),
					Flags:    netlink.HeaderFlags(binary.NativeEndian.Uint16(b[6:])),
					Sequence: binary.NativeEndian.Uint32(b[8:]),
					PID:      binary.NativeEndian.Uint32(b[12:]),
				},
				Data: b[headerLen:n:n],
			}
			if !yield(m, nil) {
				return
			}
			// The last message of a datagram may lack its padding.
			b = b[min((int(n)+3)&^3, len(b)):]
		}
	}
}
