package vdeplug

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// The messages of the control connection. Numbers are in the byte order of the
// host; a path lies in a struct sockaddr_un.
const (
	vdeMagic      = 0xfeedface
	vdeVersion    = 3
	vdeTypeNew    = 0 // the number of the port goes above the low byte
	vdeTypePort0  = 1
	unixFamily    = 1
	unixPathLen   = 108
	unixAddrLen   = 2 + unixPathLen
	vdeRequestLen = 12 + unixAddrLen // without the description
	vdeRequestMax = 256              // of which switches read no more
)

// wholeMark follows the description of a client that takes a pair of sockets
// for whole packets along with the reply. Others see the end of the text at its
// NUL; the next form of the packets needs another mark.
const wholeMark = "\x00whole 1"

func hasWholeMark(description []byte) bool { return bytes.HasSuffix(description, []byte(wholeMark)) }

func nativeUint32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }

// makeVDERequest returns the request for a port, to be sent in one piece. path
// is that of the client's data socket.
func makeVDERequest(port int, path, description string) []byte {
	kind := uint32(vdeTypeNew)
	switch {
	case port == 0:
		kind = vdeTypePort0
	case port > 0:
		kind |= uint32(port) << 8
	}
	e := binary.NativeEndian
	b := make([]byte, 0, vdeRequestLen+len(description))
	b = e.AppendUint32(b, vdeMagic)
	b = e.AppendUint32(b, vdeVersion)
	b = e.AppendUint32(b, kind)
	b = e.AppendUint16(b, unixFamily)
	b = append(b, path...)
	b = append(b, make([]byte, vdeRequestLen-len(b))...)
	return append(b, description...)
}

// makeUnixAddr returns the struct sockaddr_un of a path.
func makeUnixAddr(path string) []byte {
	b := make([]byte, unixAddrLen)
	binary.NativeEndian.PutUint16(b, unixFamily)
	copy(b[2:], path)
	return b
}

// parseVDEReply returns the address of the switch's data socket: a path, or
// "@" and an abstract name, which has the full length.
func parseVDEReply(b []byte) (string, error) {
	if len(b) != unixAddrLen {
		return "", fmt.Errorf("the switch answered %d bytes, want %d", len(b), unixAddrLen)
	}
	path, err := parseUnixAddr(b)
	if err != nil {
		return "", fmt.Errorf("the switch answered %w", err)
	}
	return path, nil
}

// parseUnixAddr reads a struct sockaddr_un. Its errors say what it is instead.
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
		return "", fmt.Errorf("%q, which is no absolute path", bytes.TrimRight(name, "\x00"))
	}
	return string(name[:end]), nil
}

// A vdeRequest is what a client asks a switch for. Its port does not matter
// here: there are as many as clients.
type vdeRequest struct {
	path  string // of the client's data socket, in the form of parseVDEReply
	whole bool   // it takes a pair of sockets for whole packets
}

// parseVDERequest reads a request, all of it.
func parseVDERequest(b []byte) (vdeRequest, error) {
	switch {
	case len(b) < vdeRequestLen:
		return vdeRequest{}, fmt.Errorf("a request of %d bytes, want %d or more", len(b), vdeRequestLen)
	case nativeUint32(b) != vdeMagic:
		return vdeRequest{}, errors.New("this is no request")
	case nativeUint32(b[4:]) != vdeVersion:
		return vdeRequest{}, fmt.Errorf("a request of version %d, want %d", nativeUint32(b[4:]), vdeVersion)
	case nativeUint32(b[8:])&0xff > vdeTypePort0:
		return vdeRequest{}, fmt.Errorf("a request of type %d", nativeUint32(b[8:])&0xff)
	}
	path, err := parseUnixAddr(b[12:vdeRequestLen])
	if err != nil {
		return vdeRequest{}, fmt.Errorf("the client's socket: %w", err)
	}
	return vdeRequest{path: path, whole: hasWholeMark(b[vdeRequestLen:])}, nil
}
