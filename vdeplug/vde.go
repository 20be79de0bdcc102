package vdeplug

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

func init() {
	Register("vde", openVDE)
	Describe("vde", Usage{
		Form:  "vde://[DIRECTORY][[OPTIONS]]",
		About: "a switch of this host; by default that in /var/run/vde.ctl or /tmp/vde.ctl",
		Options: []Option{
			{Value: "N", About: "the same as port=N, and any other word as portgroup=NAME"},
			{Name: "port", Value: "N", About: "number of the port; any free one by default"},
			{Name: "portgroup", Value: "NAME", About: "a group of ports"},
			{Name: "group", Value: "GROUP", About: "users that get access to the socket of the connection"},
			{Name: "mode", Value: "OCTAL", Default: "700", About: "permissions of that socket"},
		},
	})
}

// vdeConfig is what a vde locator says.
type vdeConfig struct {
	dir       string // empty: the default switches
	port      int    // anyPort: the switch chooses
	portgroup string // name of a socket in dir
	group     string // of users, owner of the client's socket; empty: unset
	mode      int    // permissions of the client's socket; -1: unset
}

const (
	anyPort = -1
	// maxPort is the largest number that a request has room for.
	maxPort = 1<<24 - 1
)

// openVDE connects to a switch on this host, one of the program vde_switch or
// of the scheme switch, hub, multi or bonding:
//
//	vde://[directory][[port=N][/group=G][/mode=M]]
//
// The directory is that of the switch; by default it is /var/run/vde.ctl or, if
// no switch is there, /tmp/vde.ctl; a switch that is neither root's nor that of the user
// must be named.
//
//   - port is the number of the port, by default any free one. A number alone
//     does as well: vde:///run/sw[3]. Port 0 of vde_switch is for management.
//   - portgroup is a socket in the directory that stands for a group of ports,
//     as its name alone does. The switches of Debian have none.
//   - group is the group of users that gets access to the socket of the
//     connection, a name or a number.
//   - mode are the permissions of that socket in octal, 0700 by default.
//
// vde_switch cuts frames longer than 1518 bytes without a word: the MTU of an
// interface on it must be 1500 at most.
func openVDE(ctx context.Context, l Locator, o *Options) (Conn, error) {
	cfg, err := parseVDE(l)
	if err != nil {
		return nil, err
	}
	return dialVDE(ctx, l, cfg, o)
}

func parseVDE(l Locator) (vdeConfig, error) {
	t, err := l.Bracketed()
	if err != nil {
		return vdeConfig{}, err
	}
	cfg := vdeConfig{dir: t.Addr, port: anyPort, mode: -1}
	ports := 0
	port := func(value string, _ bool) error {
		if ports++; ports > 1 {
			return errors.New("the port is set already")
		}
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 || n > maxPort {
			return fmt.Errorf("must be a number from 0 to %d", maxPort)
		}
		cfg.port = n
		return nil
	}
	portgroup := func(value string, has bool) error {
		switch _, err := strconv.Atoi(value); {
		case err == nil:
			return port(value, has)
		case value == "" || value == "." || value == ".." || strings.Contains(value, "/"):
			return errors.New("must be the number of a port or the name of a group of ports")
		}
		cfg.portgroup = value
		if ports++; ports > 1 {
			return errors.New("the port is set already")
		}
		return nil
	}
	err = t.Options(map[string]func(string, bool) error{
		"":          portgroup,
		"port":      port,
		"portgroup": portgroup,
		"group":     textOption(&cfg.group),
		"mode":      modeOption(&cfg.mode, 0o777),
	})
	return cfg, err
}

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
