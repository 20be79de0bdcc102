package vdeproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// The messages of the control connection. Numbers are in the byte order of the host; paths
// are in a struct sockaddr_un.
const (
	magic       = 0xfeedface
	version     = 3
	typeNew     = 0 // the number of the port follows in the upper three bytes
	typePort0   = 1
	unixFamily  = 1
	unixPathLen = 108
	unixAddrLen = 2 + unixPathLen
	requestLen  = 12 + unixAddrLen // without the description
	requestMax  = 256              // switches read no more
)

// gsoMark follows the description of a client that accepts a pair of sockets for GSO
// packets with the reply. Other switches end the description at its NUL. Another format of
// the packets needs another mark.
const gsoMark = "\x00whole 1"

func nativeUint32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }

// makeRequest returns the request for a port, to be sent in one piece. path is the name of
// the client's data socket.
func makeRequest(port int, path, description string) []byte {
	kind := uint32(typeNew)
	switch {
	case port == 0:
		kind = typePort0
	case port > 0:
		kind |= uint32(port) << 8
	}
	e := binary.NativeEndian
	b := make([]byte, 0, requestLen+len(description))
	b = e.AppendUint32(b, magic)
	b = e.AppendUint32(b, version)
	b = e.AppendUint32(b, kind)
	b = append(b, makeUnixAddr(path)...)
	return append(b, description...)
}

// makeUnixAddr returns the struct sockaddr_un of a path.
func makeUnixAddr(path string) []byte {
	b := make([]byte, unixAddrLen)
	binary.NativeEndian.PutUint16(b, unixFamily)
	copy(b[2:], path)
	return b
}

// parseReply returns the address of the switch's data socket: a path, or "@" and an
// abstract name of the full length.
func parseReply(b []byte) (string, error) {
	if len(b) != unixAddrLen {
		return "", fmt.Errorf("the switch answered %d bytes, want %d", len(b), unixAddrLen)
	}
	path, err := parseUnixAddr(b)
	if err != nil {
		return "", fmt.Errorf("the switch answered %w", err)
	}
	return path, nil
}

// parseUnixAddr parses a struct sockaddr_un. Its errors say what was found instead.
func parseUnixAddr(b []byte) (string, error) {
	if family := binary.NativeEndian.Uint16(b); family != unixFamily {
		return "", fmt.Errorf("an address of family %d, not a local one", family)
	}
	name := b[2:unixAddrLen]
	if name[0] == 0 {
		if bytes.Count(name, []byte{0}) == len(name) {
			return "", errors.New("an empty address")
		}
		return "@" + string(name[1:]), nil
	}
	end := bytes.IndexByte(name, 0)
	if end < 0 || name[0] != '/' {
		return "", fmt.Errorf("%q, which is not an absolute path", bytes.TrimRight(name, "\x00"))
	}
	return string(name[:end]), nil
}

// A request is the request of a client, without the port: a switch of this package gives
// each client a port of its own.
type request struct {
	path string // of the client's data socket, as parseReply returns it
	gso  bool   // it accepts a pair of sockets for GSO packets
}

// parseRequest parses a complete request.
func parseRequest(b []byte) (request, error) {
	switch {
	case len(b) < requestLen:
		return request{}, fmt.Errorf("a request of %d bytes, want %d or more", len(b), requestLen)
	case nativeUint32(b) != magic:
		return request{}, errors.New("it is not a request")
	case nativeUint32(b[4:]) != version:
		return request{}, fmt.Errorf("a request of version %d, want %d", nativeUint32(b[4:]), version)
	case nativeUint32(b[8:])&0xff > typePort0:
		return request{}, fmt.Errorf("a request of type %d", nativeUint32(b[8:])&0xff)
	}
	path, err := parseUnixAddr(b[12:requestLen])
	if err != nil {
		return request{}, fmt.Errorf("the client's socket: %w", err)
	}
	return request{path: path, gso: bytes.HasSuffix(b[requestLen:], []byte(gsoMark))}, nil
}
