// Package nic moves packets through the descriptor of an interface: a TAP, a TUN, or a
// packet socket on the other end of a veth pair. With a virtio header, packets are as large
// as the kernel's TCP makes them; without, they are single frames.
package nic

// An Offload is a set of kinds of work that an interface leaves to the reader of its
// descriptor, or the reader to the interface.
type Offload uint8

const (
	// Header is IFF_VNET_HDR or PACKET_VNET_HDR: a header before each packet says what is
	// left to do. All other offloads need it.
	Header Offload = 1 << iota
	// Checksum lets the kernel send TCP and UDP packets without checksum. TSO and USO need
	// it.
	Checksum
	// TSO4 and TSO6 let the kernel send TCP packets larger than frames.
	TSO4
	TSO6
	// USO does that with UDP datagrams that programs send with UDP_SEGMENT. Linux has it
	// since 6.2.
	USO
	// GRO joins received segments of a TCP flow.
	GRO
	// UDPGRO joins received datagrams of a UDP flow, if the kernel has USO.
	UDPGRO

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
