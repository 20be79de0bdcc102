// Package link opens the ports of sources in a stack.
package link

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"

	"github.com/vdestack/vdestack/autoconf/internal/source"
	"golang.org/x/net/bpf"
)

// maxPacket is the largest packet of an interface, and more than the messages of any
// source.
const maxPacket = 1 << 16

// maxARP is a packet of ARP in the smallest frame, and more. Its port is open as long as
// there is a lease, so its buffer is small.
const maxARP = 64

const (
	protoUDP  = 17
	sizeofIP4 = 20 // without options
	sizeofUDP = 8
	ttl       = 64
)

// udp4Filter passes UDP datagrams to a port, and no fragments. It runs in the kernel, which
// spares the program all other packets.
func udp4Filter(port uint16) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protoUDP, SkipTrue: 5},
		bpf.LoadAbsolute{Off: 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x3fff, SkipTrue: 3}, // more fragments, or not the first
		bpf.LoadMemShift{Off: 0},                                    // the length of the header
		bpf.LoadIndirect{Off: 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(port), SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: maxPacket},
	}
}

// arpFilter passes ARP packets from an address, and those that ask about it from 0.0.0.0. It
// runs in the kernel, so that a program which has an address sleeps until somebody else uses it.
func arpFilter(about netip.Addr) []bpf.Instruction {
	if !about.Is4() {
		return []bpf.Instruction{bpf.RetConstant{Val: maxPacket}}
	}
	a := about.As4()
	addr := binary.BigEndian.Uint32(a[:])
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 14, Size: 4}, // sender
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: addr, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 3},
		bpf.LoadAbsolute{Off: 24, Size: 4}, // target
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: addr, SkipTrue: 1},
		bpf.RetConstant{Val: maxPacket},
		bpf.RetConstant{Val: 0},
	}
}

// appendUDP4 appends a packet. Without an address, from is 0.0.0.0.
func appendUDP4(b []byte, from, to netip.AddrPort, data []byte) ([]byte, error) {
	if !from.Addr().IsValid() {
		from = netip.AddrPortFrom(netip.IPv4Unspecified(), from.Port())
	}
	for _, a := range []netip.Addr{from.Addr(), to.Addr()} {
		if !a.Is4() {
			return nil, fmt.Errorf("%v is not an IPv4 address", a)
		}
	}
	size := sizeofIP4 + sizeofUDP + len(data)
	if size > math.MaxUint16 {
		return nil, fmt.Errorf("%d bytes do not fit into a packet", len(data))
	}
	start := len(b)
	b = append(b, 0x45, 0x10) // low delay, as other clients
	b = binary.BigEndian.AppendUint16(b, uint16(size))
	b = append(b, 0, 0, 0, 0, ttl, protoUDP, 0, 0)
	src, dst := from.Addr().As4(), to.Addr().As4()
	b = append(append(b, src[:]...), dst[:]...)
	ip := b[start : start+sizeofIP4]
	binary.BigEndian.PutUint16(ip[10:], ^sum(0, ip))

	b = binary.BigEndian.AppendUint16(b, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(sizeofUDP+len(data)))
	b = append(append(b, 0, 0), data...)
	udp := b[start+sizeofIP4:]
	check := ^sum(pseudo(ip, len(udp)), udp)
	if check == 0 {
		check = 0xffff // 0 means that there is none
	}
	binary.BigEndian.PutUint16(udp[6:], check)
	return b, nil
}

// parseUDP4 returns the datagram in a packet, and false if it is malformed, a fragment, or
// not for the port. complete says that its UDP checksum was made.
func parseUDP4(b []byte, local uint16, complete bool) (source.Packet, bool) {
	if len(b) < sizeofIP4 || b[0]>>4 != 4 {
		return source.Packet{}, false
	}
	header, size := int(b[0]&0xf)*4, int(binary.BigEndian.Uint16(b[2:]))
	if header < sizeofIP4 || size < header+sizeofUDP || size > len(b) || b[9] != protoUDP ||
		binary.BigEndian.Uint16(b[6:])&0x3fff != 0 || sum(0, b[:header]) != 0xffff {
		return source.Packet{}, false
	}
	ip, udp := b[:header], b[header:size] // what follows fills the frame
	length := int(binary.BigEndian.Uint16(udp[4:]))
	if length < sizeofUDP || length > len(udp) || binary.BigEndian.Uint16(udp[2:]) != local {
		return source.Packet{}, false
	}
	udp = udp[:length]
	if complete && binary.BigEndian.Uint16(udp[6:]) != 0 && sum(pseudo(ip, length), udp) != 0xffff {
		return source.Packet{}, false
	}
	from := netip.AddrFrom4([4]byte(ip[12:]))
	return source.Packet{
		Data:  udp[sizeofUDP:],
		Peer:  netip.AddrPortFrom(from, binary.BigEndian.Uint16(udp)),
		Local: netip.AddrFrom4([4]byte(ip[16:])),
	}, true
}

// pseudo returns the sum of the pseudo header of UDP.
func pseudo(ip []byte, length int) uint32 {
	return uint32(sum(protoUDP+uint32(length), ip[12:20]))
}

// sum adds 16-bit words with end-around carry, RFC 1071.
func sum(s uint32, b []byte) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
