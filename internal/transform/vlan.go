package transform

import (
	"encoding/binary"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
)

// MaxVLAN is the largest number of a VLAN.
const MaxVLAN = 4094

const (
	tagLen       = 4
	minTaggedLen = ether.HeaderLen + tagLen

	etherTypeVLAN = 0x8100
	etherTypeQinQ = 0x88a8
)

// A VLANConfig selects the VLANs of a plug.
type VLANConfig struct {
	// QinQ uses tags of IEEE 802.1ad. Frames with other tags count as untagged.
	QinQ bool
	// Number is the VLAN of the plug's untagged frames. With 0 they are untagged in the
	// network, too, unless Untagged is set; with MaxVLAN+1 they are dropped.
	Number uint16
	// Untagged is the plug's VLAN for the network's untagged frames, or 0.
	Untagged uint16
	// Tagged are VLANs that are tagged on both sides.
	Tagged []VLANPair
	// Trunk passes all other VLANs but 0, 1 and 4095.
	Trunk bool
}

// A VLANPair has the numbers of a VLAN at the plug and in the network.
type VLANPair struct{ Plug, Network uint16 }

// Values of a vlanMap that are not the number of a VLAN.
const (
	vlanUntagged = 1<<12 + iota
	vlanDrop
)

// A vlanMap maps the VLANs of frames in one direction.
type vlanMap struct {
	untagged uint16
	tagged   [1 << 12]uint16 // by number
}

// A vlan changes the tags of frames.
type vlan struct {
	etherType uint16
	out, in   vlanMap
}

// NewVLAN returns the transform that tags frames.
func NewVLAN(cfg VLANConfig) Transform {
	v := &vlan{etherType: etherTypeVLAN}
	if cfg.QinQ {
		v.etherType = etherTypeQinQ
	}
	out, in := &v.out, &v.in
	for i := range out.tagged {
		to := uint16(vlanDrop)
		if cfg.Trunk && 1 < i && i <= MaxVLAN {
			to = uint16(i)
		}
		out.tagged[i], in.tagged[i] = to, to
	}
	for _, p := range cfg.Tagged {
		out.tagged[p.Plug], in.tagged[p.Network] = p.Network, p.Plug
	}
	out.tagged[cfg.Untagged] = vlanUntagged
	out.untagged, in.untagged = vlanDrop, vlanDrop
	switch {
	case 0 < cfg.Number && cfg.Number <= MaxVLAN:
		out.untagged = cfg.Number
	case cfg.Number == 0 && cfg.Untagged == 0:
		out.untagged = vlanUntagged
	}
	if cfg.Number <= MaxVLAN {
		in.tagged[cfg.Number] = vlanUntagged
	}
	switch {
	case cfg.Untagged != 0:
		in.untagged = cfg.Untagged
	case cfg.Number == 0:
		in.untagged = vlanUntagged
	}
	return v
}

// lookup returns the new VLAN of a frame, and whether the frame has a tag.
func (v *vlan) lookup(m *vlanMap, frame []byte) (to uint16, tagged bool) {
	if binary.BigEndian.Uint16(frame[ether.AddrsLen:]) != v.etherType {
		return m.untagged, false
	}
	if len(frame) < minTaggedLen {
		return vlanDrop, true
	}
	return m.tagged[binary.BigEndian.Uint16(frame[ether.HeaderLen:])&0xfff], true
}

// Encap implements [Transform].
func (v *vlan) Encap(b *Batch, p *packet.Packet) (dropped int) {
	to, tagged := v.lookup(&v.out, p.Data)
	if to == vlanDrop {
		frames, _ := virtio.Count(p.Offload, p.Data)
		return frames
	}
	out := *p
	if !tagged && to != vlanUntagged && out.Room < tagLen {
		b.copyOut(&out)
	}
	if !v.retag(&out, to, tagged) {
		return 1
	}
	b.add(out)
	return 0
}

// Decap implements [Transform].
func (v *vlan) Decap(p *packet.Packet) Action {
	if len(p.Data) < ether.HeaderLen {
		return Drop
	}
	to, tagged := v.lookup(&v.in, p.Data)
	if to == vlanDrop {
		return Ignore
	}
	if !tagged && to != vlanUntagged && p.Room < tagLen {
		mem := make([]byte, tagLen+len(p.Data))
		copy(mem[tagLen:], p.Data)
		p.Data, p.Room = mem[tagLen:], tagLen
	}
	if !v.retag(p, to, tagged) {
		return Drop
	}
	return Pass
}

// retag adds, changes or removes the tag of a frame, which has room for it.
func (v *vlan) retag(p *packet.Packet, to uint16, tagged bool) (ok bool) {
	switch {
	case tagged && to != vlanUntagged:
		binary.BigEndian.PutUint16(p.Data[ether.HeaderLen:], to)
	case tagged:
		copy(p.Data[tagLen:], p.Data[:ether.AddrsLen])
		p.Data = p.Data[tagLen:]
		p.Room += tagLen
		return shift(&p.Offload, -tagLen)
	case to != vlanUntagged:
		if !p.Prepend(tagLen) {
			return false
		}
		copy(p.Data, p.Data[tagLen:tagLen+ether.AddrsLen])
		binary.BigEndian.PutUint16(p.Data[ether.AddrsLen:], v.etherType)
		binary.BigEndian.PutUint16(p.Data[ether.HeaderLen:], to)
		return shift(&p.Offload, tagLen)
	}
	return true
}

// shift moves the offsets of a packet whose Ethernet header has grown by n bytes. It reports
// false if they point into that header.
func shift(h *virtio.Header, n int) bool {
	move := func(v *uint16) bool {
		moved := int(*v) + n
		*v = uint16(moved)
		return ether.HeaderLen <= moved && moved <= 0xffff
	}
	if h.HdrLen != 0 && !move(&h.HdrLen) {
		h.HdrLen = 0 // a hint
	}
	return h.Flags&virtio.FlagNeedsCsum == 0 || move(&h.CsumStart)
}
