// Package capturetest reads what package capture writes, for tests. It takes nothing
// that is not as draft-ietf-opsawg-pcapng says.
package capturetest

import (
	"encoding/binary"
	"fmt"
)

// A File is what was recorded.
type File struct {
	Sections   int
	Interfaces []Interface // of all sections
	Packets    []Packet
}

// An Interface is one that was recorded.
type Interface struct {
	Section           int
	Name, Description string
	// What its statistics say, if there are any.
	Closed                             bool
	Received, Dropped, OSDropped, User uint64
}

// A Packet is a frame that was recorded.
type Packet struct {
	Interface int // place in File.Interfaces
	Time      int64
	Out       bool
	Missed    uint64 // frames before it
	Data      []byte
}

func options(b []byte) (all map[uint16][]byte, err error) {
	all = make(map[uint16][]byte)
	for {
		if len(b) < 4 {
			return nil, fmt.Errorf("options do not end: %x", b)
		}
		code, n := binary.LittleEndian.Uint16(b), int(binary.LittleEndian.Uint16(b[2:]))
		padded := (n + 3) &^ 3
		if b = b[4:]; padded > len(b) {
			return nil, fmt.Errorf("option %d has %d bytes of %d", code, len(b), n)
		}
		value := b[:n]
		b = b[padded:]
		if code == 0 {
			if n != 0 || len(b) != 0 {
				return nil, fmt.Errorf("%d bytes behind the options", n+len(b))
			}
			return all, nil
		}
		if _, ok := all[code]; ok {
			return nil, fmt.Errorf("option %d is there twice", code)
		}
		all[code] = value
	}
}

func number(b []byte) uint64 {
	switch len(b) {
	case 0:
		return 0
	case 4:
		return uint64(binary.LittleEndian.Uint32(b))
	case 8:
		return binary.LittleEndian.Uint64(b)
	}
	panic(fmt.Sprintf("a number of %d bytes", len(b)))
}

func timestamp(b []byte) int64 {
	return int64(binary.LittleEndian.Uint32(b))<<32 | int64(binary.LittleEndian.Uint32(b[4:]))
}

// Read reads a whole file.
func Read(b []byte) (f File, err error) {
	first := 0 // interface of the section
	for at := 0; len(b) > 0; {
		fail := func(format string, args ...any) (File, error) {
			return f, fmt.Errorf("block at byte %d: %s", at, fmt.Sprintf(format, args...))
		}
		if len(b) < 12 {
			return fail("%d bytes", len(b))
		}
		typ, n := binary.LittleEndian.Uint32(b), int(binary.LittleEndian.Uint32(b[4:]))
		if n < 12 || n%4 != 0 || n > len(b) || int(binary.LittleEndian.Uint32(b[n-4:])) != n {
			return fail("type %#x with length %d of %d", typ, n, len(b))
		}
		body := b[8 : n-4]
		if f.Sections == 0 && typ != 0x0a0d0d0a {
			return fail("type %#x before a section", typ)
		}
		fixed := map[uint32]int{0x0a0d0d0a: 16, 1: 8, 5: 12, 6: 20}[typ]
		if fixed == 0 || len(body) < fixed {
			return fail("type %#x with %d bytes", typ, len(body))
		}
		if typ == 6 {
			fixed += (int(binary.LittleEndian.Uint32(body[12:])) + 3) &^ 3
			if fixed > len(body) {
				return fail("packet of %d bytes in %d", fixed-20, len(body))
			}
		}
		opts, err := options(body[fixed:])
		if err != nil {
			return fail("type %#x: %v", typ, err)
		}
		id := 0
		if typ == 5 || typ == 6 {
			if id = first + int(binary.LittleEndian.Uint32(body)); id >= len(f.Interfaces) {
				return fail("there is no interface %d", id)
			}
		}
		switch typ {
		case 0x0a0d0d0a:
			if magic := binary.LittleEndian.Uint32(body); magic != 0x1a2b3c4d || body[4] != 1 || body[6] != 0 {
				return fail("section of another kind: %x", body)
			}
			f.Sections++
			first = len(f.Interfaces)
		case 1:
			if link := binary.LittleEndian.Uint16(body); link != 1 || len(opts[9]) != 1 || opts[9][0] != 9 {
				return fail("link type %d, resolution %x", link, opts[9])
			}
			f.Interfaces = append(f.Interfaces, Interface{Section: f.Sections, Name: string(opts[2]), Description: string(opts[3])})
		case 5:
			i := &f.Interfaces[id]
			if i.Closed || timestamp(opts[2]) > timestamp(opts[3]) || timestamp(body[4:]) != timestamp(opts[3]) {
				return fail("statistics of interface %d: %x", id, opts)
			}
			i.Closed = true
			i.Received, i.Dropped, i.OSDropped, i.User = number(opts[4]), number(opts[5]), number(opts[7]), number(opts[8])
		case 6:
			length := binary.LittleEndian.Uint32(body[12:])
			if f.Interfaces[id].Closed || binary.LittleEndian.Uint32(body[16:]) != length || number(opts[2]) != 1 && number(opts[2]) != 2 {
				return fail("packet of interface %d: %x", id, opts)
			}
			f.Packets = append(f.Packets, Packet{
				Interface: id, Time: timestamp(body[4:]), Out: number(opts[2]) == 2, Missed: number(opts[4]), Data: body[20:][:length:length],
			})
		}
		b, at = b[n:], at+n
	}
	return f, nil
}
