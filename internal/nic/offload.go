// Package nic moves packets through the descriptor of an Ethernet interface:
// that of a TAP, or a packet socket on the other end of a veth pair. Packets are
// those of the kernel's TCP where there is a virtio header, else single frames.
package nic

// An Offload is a set of kinds of work that an interface leaves to the reader of
// its descriptor, or the other way round.
type Offload uint8

const (
	// Header is IFF_VNET_HDR or PACKET_VNET_HDR: a header before each packet says
	// what was left to do. Without it there is no other offload.
	Header Offload = 1 << iota
	// Checksum lets the kernel send TCP and UDP packets without checksum.
	// Without it there is no TSO and USO.
	Checksum
	// TSO4 and TSO6 let the kernel send TCP packets larger than frames.
	TSO4
	TSO6
	// USO does that with datagrams of UDP, as programs send them with
	// UDP_SEGMENT. Linux has it since 6.2.
	USO
	// GRO joins received segments of a TCP flow.
	GRO
	// UDPGRO joins received datagrams of a UDP flow, where there is USO.
	UDPGRO

	// All are all.
	All Offload = 1<<iota - 1
)

// Usable returns the offloads of o that make sense together.
func (o Offload) Usable() Offload {
	if o&Header == 0 {
		return 0
	}
	if o&Checksum == 0 {
		o &^= TSO4 | TSO6 | USO
	}
	return o
}
