package vdeplug

import (
	"encoding/binary"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/virtio"
)

// testPacket makes a packet as the kernel's TCP gives it to an interface: of
// segments with so many bytes, from station 1 to station 2.
func testPacket(segments, mss int) packet.Packet {
	const ip, tcp, data = 14, 34, 54
	p := make([]byte, data, data+segments*mss)
	dst, src := plugtest.Station(2), plugtest.Station(1)
	copy(p, dst[:])
	copy(p[6:], src[:])
	binary.BigEndian.PutUint16(p[12:], 0x0800)
	for i := range segments * mss {
		p = append(p, byte(i)^byte(i>>8))
	}
	copy(p[ip:], []byte{0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2})
	binary.BigEndian.PutUint16(p[ip+2:], uint16(len(p)-ip))
	binary.BigEndian.PutUint16(p[ip+10:], ^sum16(p[ip:tcp], 0))
	copy(p[tcp:], []byte{0x10, 0, 0x20, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0x50, 0x18, 4, 0, 0, 0, 0, 0})
	// The sum of the pseudo header, which whoever makes frames completes.
	binary.BigEndian.PutUint16(p[tcp+16:], sum16(p[ip+12:ip+20], uint32(6+len(p)-tcp)))
	return packet.Packet{
		Offload: virtio.Header{Flags: virtio.FlagNeedsCsum, GSOType: virtio.GSOTCPv4, HdrLen: data, GSOSize: uint16(mss), CsumStart: tcp, CsumOffset: 16},
		Data:    p,
	}
}

// sum16 returns the sum of the Internet's checksums.
func sum16(b []byte, sum uint32) uint16 {
	for ; len(b) > 0; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	sum = sum>>16 + sum&0xffff
	return uint16(sum>>16 + sum)
}
