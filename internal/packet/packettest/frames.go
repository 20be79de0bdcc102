// Package packettest looks at packets, for tests.
package packettest

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/virtio"
)

// Frame returns a frame of n bytes, which differs from those of other lengths.
func Frame(n int) []byte {
	f := make([]byte, n)
	copy(f, []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5})
	for i := ether.HeaderLen; i < n; i++ {
		f[i] = byte(i * n)
	}
	return f
}

// Frames returns the frames of packets.
func Frames(t testing.TB, packets ...packet.Packet) (frames [][]byte) {
	t.Helper()
	for _, p := range packets {
		var s virtio.Segmenter
		segments := testenv.Must(s.Split(p.Offload, bytes.Clone(p.Data), 0))(t)
		for _, g := range segments {
			frames = append(frames, append(bytes.Clone(g.Head), g.Data...))
		}
	}
	return frames
}

// Sum adds bytes to a sum of the Internet's checksums, RFC 1071. It does not use
// what it is to check.
func Sum(b []byte, s uint32) uint16 {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) > 0 {
		s += uint32(b[0]) << 8
	}
	for s>>16 != 0 {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// Tag returns a copy of a frame with a VLAN tag.
func Tag(frame []byte, etherType uint16, number, priority int) []byte {
	tag := binary.BigEndian.AppendUint16(nil, etherType)
	tag = binary.BigEndian.AppendUint16(tag, uint16(priority<<13|number))
	return slices.Insert(bytes.Clone(frame), ether.AddrsLen, tag...)
}

// TagPacket returns a copy of a packet with a VLAN tag.
func TagPacket(p packet.Packet, etherType uint16, number, priority int) packet.Packet {
	const length = 4
	p.Data = Tag(p.Data, etherType, number, priority)
	p.Offload.CsumStart += length
	p.Offload.HdrLen += length
	return p
}
