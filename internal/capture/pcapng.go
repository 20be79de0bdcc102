package capture

import (
	"encoding/binary"
	"math/bits"
)

// Blocks and options of pcapng, draft-ietf-opsawg-pcapng. All numbers are written
// in little endian.
const (
	blockSection    = 0x0a0d0d0a
	blockInterface  = 1
	blockStatistics = 5
	blockPacket     = 6

	byteOrderMagic = 0x1a2b3c4d
	linkEthernet   = 1

	optEnd      = 0
	optUserAppl = 4 // of a section

	optName        = 2 // of an interface
	optDescription = 3
	optTSResol     = 9

	optFlags     = 2 // of a packet
	optDropCount = 4

	optStartTime = 2 // of statistics
	optEndTime   = 3
	optIfRecv    = 4
	optIfDrop    = 5
	optOSDrop    = 7
	optUsrDeliv  = 8

	// nanoseconds is the resolution of timestamps, 10⁻⁹.
	nanoseconds = 9

	flagInbound  = 1
	flagOutbound = 2
)

// begin appends the beginning of a block, for end to complete.
func begin(b []byte, block uint32) (_ []byte, at int) {
	at = len(b)
	b = binary.LittleEndian.AppendUint32(b, block)
	return append(b, 0, 0, 0, 0), at
}

func end(b []byte, at int) []byte {
	n := uint32(len(b) - at + 4)
	binary.LittleEndian.PutUint32(b[at+4:], n)
	return binary.LittleEndian.AppendUint32(b, n)
}

func pad(b []byte, n int) []byte { return append(b, 0, 0, 0)[:len(b)+(-n&3)] }

func appendText(b []byte, option uint16, text string) []byte {
	if text == "" {
		return b
	}
	text = text[:min(len(text), 1<<16-1)]
	b = binary.LittleEndian.AppendUint16(b, option)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(text)))
	return pad(append(b, text...), len(text))
}

func appendNumber(b []byte, option uint16, value uint64) []byte {
	b = binary.LittleEndian.AppendUint16(b, option)
	b = binary.LittleEndian.AppendUint16(b, 8)
	return binary.LittleEndian.AppendUint64(b, value)
}

// timestamp returns a time in nanoseconds with its upper half first.
func timestamp(ns int64) uint64 { return bits.RotateLeft64(uint64(ns), 32) }

func appendEnd(b []byte) []byte { return append(b, optEnd, 0, 0, 0) }

// appendSection begins a section of any length.
func appendSection(b []byte) []byte {
	b, at := begin(b, blockSection)
	b = binary.LittleEndian.AppendUint32(b, byteOrderMagic)
	b = append(b, 1, 0, 0, 0) // version 1.0
	b = binary.LittleEndian.AppendUint64(b, 1<<64-1)
	b = appendText(b, optUserAppl, "vdestack")
	return end(appendEnd(b), at)
}

// appendInterface describes the next interface of a section.
func appendInterface(b []byte, name, description string) []byte {
	b, at := begin(b, blockInterface)
	b = append(b, linkEthernet, 0, 0, 0)
	b = append(b, 0, 0, 0, 0) // frames of any length
	b = appendText(b, optName, name)
	b = appendText(b, optDescription, description)
	b = append(b, optTSResol, 0, 1, 0, nanoseconds, 0, 0, 0)
	return end(appendEnd(b), at)
}

const (
	// packetHead is how much of a packet is before its frame.
	packetHead = 28
	// packetMore is the largest size of a packet without its frame.
	packetMore = packetHead + 3 + 8 + 12 + 4 + 4
)

// appendPacket appends a frame in two pieces.
func appendPacket(b []byte, id int, ns int64, out bool, dropped uint64, head, data []byte) []byte {
	b, at := begin(b, blockPacket)
	n := len(head) + len(data)
	b = binary.LittleEndian.AppendUint32(b, uint32(id))
	b = binary.LittleEndian.AppendUint64(b, timestamp(ns))
	b = binary.LittleEndian.AppendUint32(b, uint32(n))
	b = binary.LittleEndian.AppendUint32(b, uint32(n))
	b = pad(append(append(b, head...), data...), n)
	flags := byte(flagInbound)
	if out {
		flags = flagOutbound
	}
	b = append(b, optFlags, 0, 4, 0, flags, 0, 0, 0)
	if dropped > 0 {
		b = appendNumber(b, optDropCount, dropped)
	}
	return end(appendEnd(b), at)
}

// statistics are the counts of an interface.
type statistics struct {
	start, end         int64
	recorded           uint64
	dropped, osDropped uint64
}

func appendStatistics(b []byte, id int, s statistics) []byte {
	b, at := begin(b, blockStatistics)
	b = binary.LittleEndian.AppendUint32(b, uint32(id))
	b = binary.LittleEndian.AppendUint64(b, timestamp(s.end))
	b = appendNumber(b, optStartTime, timestamp(s.start))
	b = appendNumber(b, optEndTime, timestamp(s.end))
	b = appendNumber(b, optIfRecv, s.recorded+s.dropped+s.osDropped)
	b = appendNumber(b, optIfDrop, s.dropped)
	b = appendNumber(b, optOSDrop, s.osDropped)
	b = appendNumber(b, optUsrDeliv, s.recorded)
	return end(appendEnd(b), at)
}
