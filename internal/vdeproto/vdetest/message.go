package vdetest

import "encoding/binary"

// Lengths of the messages of the control connection.
const (
	RequestLen = 12 + ReplyLen // without the description
	ReplyLen   = 2 + pathLen
	pathLen    = 108
)

// Request makes the request of a client for any port. path is the name of its data socket.
func Request(path, description string) []byte {
	e := binary.NativeEndian
	b := make([]byte, RequestLen, RequestLen+len(description))
	e.PutUint32(b, 0xfeedface)
	e.PutUint32(b[4:], 3)
	e.PutUint16(b[12:], 1) // AF_UNIX
	copy(b[14:], path)
	return append(b, description...)
}

// Reply makes the answer of a switch: the address of its data socket.
func Reply(family uint16, path string) []byte {
	b := make([]byte, ReplyLen)
	binary.NativeEndian.PutUint16(b, family)
	copy(b[2:], path)
	return b
}
