// Package virtio cuts the packets of a TAP interface into Ethernet frames, and
// joins frames into such packets; those of a TUN into IP packets, without Ethernet headers.
//
// The kernel's TCP is fast because a packet stands for up to 64 KiB of one flow: it goes
// through the stack once, and a network card cuts it into frames. A TAP with IFF_VNET_HDR
// and offloads shows these packets, each with a [Header] that says what is left to do. The
// network beyond the TAP knows only frames: [Segmenter] does what the card
// does on sending (GSO), [Coalescer] what it does on receiving (GRO).
//
// Nothing here allocates once its scratch memory has grown to the size of a batch, and
// nothing trusts its input: every length is checked against the frame.
package virtio

import (
	"encoding/binary"
	"errors"
)

// HeaderLen is the length of an encoded [Header].
const HeaderLen = 10

// MaxPacket is the largest packet of a TAP: an IPv4 packet or the payload of an IPv6 packet
// of 65535 bytes, and link headers with two VLAN tags.
const MaxPacket = 65535 + ipv6Len + etherLen + 2*4

// Bits of Header.Flags, of linux/virtio_net.h.
const (
	// FlagNeedsCsum: the checksum of everything from CsumStart on is missing. It belongs
	// CsumOffset bytes after CsumStart, where the sum of the pseudo header is already.
	FlagNeedsCsum = 1
	// FlagDataValid: the checksums of the packet are known to be right.
	FlagDataValid = 2
)

// Values of Header.GSOType, of linux/virtio_net.h.
const (
	GSONone  = 0
	GSOTCPv4 = 1
	GSOUDP   = 3 // a datagram to send in IP fragments; only with TUN_F_UFO
	GSOTCPv6 = 4
	GSOUDPL4 = 5    // datagrams of equal size, of IPv4 or IPv6; with TUN_F_USO4 and TUN_F_USO6
	GSOECN   = 0x80 // bit: the flag CWR is set, and is for the first segment only
)

// A Header is the struct virtio_net_hdr of linux/virtio_net.h. The zero Header describes a
// complete frame.
type Header struct {
	Flags      uint8
	GSOType    uint8
	HdrLen     uint16 // of all headers of the packet, as a hint
	GSOSize    uint16 // payload of each segment but the last
	CsumStart  uint16 // offset in the packet
	CsumOffset uint16 // relative to CsumStart
}

var errShortHeader = errors.New("virtio: packet is shorter than a virtio header (is IFF_VNET_HDR set?)")

// Decode reads a header, in the byte order of the host, from the beginning of b.
func (h *Header) Decode(b []byte) error {
	if len(b) < HeaderLen {
		return errShortHeader
	}
	*h = Header{
		Flags:      b[0],
		GSOType:    b[1],
		HdrLen:     binary.NativeEndian.Uint16(b[2:]),
		GSOSize:    binary.NativeEndian.Uint16(b[4:]),
		CsumStart:  binary.NativeEndian.Uint16(b[6:]),
		CsumOffset: binary.NativeEndian.Uint16(b[8:]),
	}
	return nil
}

// Encode writes the header to the first HeaderLen bytes of b.
func (h Header) Encode(b []byte) {
	b = b[:HeaderLen]
	b[0], b[1] = h.Flags, h.GSOType
	binary.NativeEndian.PutUint16(b[2:], h.HdrLen)
	binary.NativeEndian.PutUint16(b[4:], h.GSOSize)
	binary.NativeEndian.PutUint16(b[6:], h.CsumStart)
	binary.NativeEndian.PutUint16(b[8:], h.CsumOffset)
}
