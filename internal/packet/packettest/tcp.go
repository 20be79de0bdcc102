package packettest

import (
	"encoding/binary"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
)

// TCP makes a packet as the kernel's TCP gives it to an interface: of segments with
// mss bytes, from station 02:00:00:00:00:01 to 02:00:00:00:00:02.
func TCP(segments, mss int) packet.Packet {
	const ip, tcp, data = 14, 34, 54
	p := make([]byte, data, data+segments*mss)
	copy(p, []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0})
	for i := range segments * mss {
		p = append(p, byte(i)^byte(i>>8))
	}
	copy(p[ip:], []byte{0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2})
	binary.BigEndian.PutUint16(p[ip+2:], uint16(len(p)-ip))
	binary.BigEndian.PutUint16(p[ip+10:], ^Sum(p[ip:tcp], 0))
	copy(p[tcp:], []byte{0x10, 0, 0x20, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0x50, 0x18, 4, 0, 0, 0, 0, 0})
	// The sum of the pseudo header, which is completed when frames are made.
	binary.BigEndian.PutUint16(p[tcp+16:], Sum(p[ip+12:ip+20], uint32(6+len(p)-tcp)))
	return packet.Packet{
		Offload: virtio.Header{Flags: virtio.FlagNeedsCsum, GSOType: virtio.GSOTCPv4, HdrLen: data, GSOSize: uint16(mss), CsumStart: tcp, CsumOffset: 16},
		Data:    p,
	}
}
