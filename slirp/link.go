package slirp

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
	"github.com/vdestack/vdestack/vdeplug"
)

const (
	// linkQueue is how many packets wait to be received, at most 16 MiB in total.
	linkQueue = 256
	// linkBatch is how many packets are received at once.
	linkBatch = 64
)

// A link is the network interface of the stack. Its other side is the plug.
type link struct {
	*channel.Endpoint // packets to the plug
	filter            func(frame []byte) bool

	counters packet.Counters
}

var _ stack.GSOEndpoint = (*link)(nil)

// A linkTransport is a link as a [packet.Transport].
type linkTransport struct {
	*link
	end func()
}

// Close ends the network.
func (t linkTransport) Close() error {
	t.end()
	return nil
}

func newLink(mtu int, mac tcpip.LinkAddress, filter func([]byte) bool) *link {
	l := &link{
		Endpoint: channel.New(linkQueue, uint32(mtu+header.EthernetMinimumSize), mac),
		filter:   filter,
	}
	l.SupportedGSOKind = stack.HostGSOSupported
	return l
}

// GSOMaxSize lets the stack send packets as large as those of the kernel.
func (*link) GSOMaxSize() uint32 { return stack.GVisorGSOMaxSize }

// WritePackets counts packets for which the queue has no room.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	n, err := l.Endpoint.WritePackets(pkts)
	for _, pkt := range pkts.AsSlice()[n:] {
		l.counters.DroppedRecv.Add(uint64(framesOf(pkt)))
	}
	return n, err
}

func framesOf(pkt *stack.PacketBuffer) int {
	if o := pkt.GSOOptions; o.Type != stack.GSONone && o.MSS > 0 && pkt.Data().Size() > int(o.MSS) {
		return (pkt.Data().Size() + int(o.MSS) - 1) / int(o.MSS)
	}
	return 1
}

// RecvPackets implements [packet.Transport].
func (l *link) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	b.Release() // the wait may be long
	pkt := l.ReadContext(context.Background())
	if pkt == nil {
		return nil, net.ErrClosed
	}
	mem := b.Bytes()
	for pkt != nil {
		n := 0
		for _, part := range pkt.AsSlices() {
			n += copy(mem[n:], part)
		}
		b.Add(offload(pkt), mem[:n:n])
		mem = mem[n:]
		pkt.DecRef()
		if len(b.Packets) == linkBatch || len(mem) < virtio.MaxPacket {
			break
		}
		pkt = l.Read()
	}
	return b.Packets, nil
}

// offload returns what the stack leaves to the receiver.
func offload(pkt *stack.PacketBuffer) (h virtio.Header) {
	o := pkt.GSOOptions
	if o.Type == stack.GSONone {
		return h
	}
	h.HdrLen = uint16(pkt.HeaderSize())
	if o.NeedsCsum {
		h.Flags = virtio.FlagNeedsCsum
		h.CsumStart = header.EthernetMinimumSize + o.L3HdrLen
		h.CsumOffset = o.CsumOffset
	}
	if pkt.Data().Size() > int(o.MSS) {
		h.GSOType, h.GSOSize = virtio.GSOTCPv4, o.MSS
		if o.Type == stack.GSOTCPv6 {
			h.GSOType = virtio.GSOTCPv6
		}
	}
	return h
}

// SendPackets implements [packet.Transport].
func (l *link) SendPackets(packets []packet.Packet, _ bool) error {
	for _, p := range packets {
		switch p.Offload.GSOType &^ virtio.GSOECN {
		case virtio.GSONone:
			if len(p.Data) > vdeplug.MaxFrame {
				l.counters.DroppedSend.Add(1)
				continue
			}
		case virtio.GSOTCPv4, virtio.GSOTCPv6:
			// The stack takes a segment of any size, with its checksum.
			p.Offload.GSOType, p.Offload.GSOSize = virtio.GSONone, 0
		}
		l.counters.EachFrame([]packet.Packet{p}, l.inject)
	}
	return nil
}

// inject passes a frame, in two pieces, to the stack, unless a network card would not
// receive it or the filter rejects it. It returns no error.
func (l *link) inject(head, data []byte) error {
	if len(head)+len(data) < header.EthernetMinimumSize {
		l.counters.DroppedSend.Add(1)
		return nil
	}
	v := buffer.NewView(len(head) + len(data))
	v.Write(head)
	v.Write(data)
	if !l.filter(v.AsSlice()) {
		v.Release()
		return nil
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(v)})
	defer pkt.DecRef()
	l.InjectInbound(0, pkt) // the protocol is in the frame
	return nil
}

// Dropped returns how many frames were dropped so far.
func (l *link) Dropped() (recv, send uint64) { return l.counters.Dropped() }

// accepts is the filter of the link. The stack accepts all addresses as its own, so
// questions about the addresses of others must not reach it.
func (n *nat) accepts(frame []byte) bool {
	eth := header.Ethernet(frame)
	if dst := eth.DestinationAddress(); dst != n.mac && dst[0]&1 == 0 {
		return false // another guest's
	}
	data := frame[header.EthernetMinimumSize:]
	switch eth.Type() {
	case header.ARPProtocolNumber:
		arp := header.ARP(data)
		if len(arp) < header.ARPSize || !arp.IsValid() || !n.cfg.v4 {
			return false
		}
		target, _ := netip.AddrFromSlice(arp.ProtocolAddressTarget())
		sender, _ := netip.AddrFromSlice(arp.ProtocolAddressSender())
		return (arp.Op() == header.ARPReply || n.cfg.own(target)) && !n.cfg.own(sender)
	case header.IPv4ProtocolNumber:
		ip := header.IPv4(data)
		if len(ip) < header.IPv4MinimumSize || !n.cfg.v4 {
			return false
		}
		src := netip.AddrFrom4([4]byte(data[12:16]))
		return src.IsUnspecified() || usable(n.cfg.host, src) && !n.cfg.own(src)
	case header.IPv6ProtocolNumber:
		ip := header.IPv6(data)
		if len(ip) < header.IPv6MinimumSize || !n.cfg.v6 {
			return false
		}
		src := netip.AddrFrom16([16]byte(data[8:24]))
		if n.cfg.own(src) || !src.IsUnspecified() && !src.IsLinkLocalUnicast() && !usable(n.cfg.host6, src) {
			return false
		}
		if ip.NextHeader() == uint8(header.ICMPv6ProtocolNumber) {
			return n.acceptsICMPv6(src, header.ICMPv6(data[header.IPv6MinimumSize:]))
		}
		return true
	}
	return false
}

// acceptsICMPv6 answers router solicitations, and passes messages on that the stack
// needs.
func (n *nat) acceptsICMPv6(src netip.Addr, m header.ICMPv6) bool {
	if len(m) < header.ICMPv6MinimumSize {
		return false
	}
	switch m.Type() {
	case header.ICMPv6RouterSolicit:
		n.advertise()
	case header.ICMPv6NeighborSolicit:
		if len(m) >= header.ICMPv6NeighborSolicitMinimumSize {
			return n.cfg.own(netip.AddrFrom16([16]byte(m[8:24])))
		}
	case header.ICMPv6NeighborAdvert, header.ICMPv6EchoRequest, header.ICMPv6DstUnreachable,
		header.ICMPv6PacketTooBig, header.ICMPv6TimeExceeded, header.ICMPv6ParamProblem:
		return true
	}
	return false
}

// macOf returns the MAC address of the router, made of its IPv4 address as in the C
// library.
func macOf(host netip.Addr) tcpip.LinkAddress {
	b := host.As4()
	return tcpip.LinkAddress(binary.BigEndian.AppendUint32([]byte{0x52, 0x55}, binary.BigEndian.Uint32(b[:])))
}
