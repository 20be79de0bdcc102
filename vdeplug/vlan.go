package vdeplug

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
)

func init() {
	Register("vlan", openVLAN)
	Describe("vlan", Usage{
		Form:  "vlan://[NUMBER][/OPTIONS]{NETWORK}",
		About: "a VLAN of another network, or several",
		Options: []Option{
			{Name: "untag", Aliases: []string{"u"}, Value: "N", About: "VLAN without a tag in the network, tagged at the plug"},
			{Name: "tag", Aliases: []string{"t"}, Value: "LIST", About: "VLANs tagged on both sides: N, or N-M for M in the network, with : between"},
			{Name: "trunk", Aliases: []string{"x"}, About: "all other VLANs pass"},
			{Name: "qinq", Aliases: []string{"ad", "q"}, About: "tags of 802.1ad"},
		},
	})
}

// openVLAN makes a VLAN of a network, or several, by IEEE 802.1Q:
//
//	vlan://[number][/untag=N][/tag=LIST][/trunk][/qinq]{network}
//
// The plug's frames without a tag are those of VLAN number in the network; by
// default, or with 0, they have no tag there either.
//
//   - untag, or u, is the VLAN whose frames have no tag in the network, and are
//     tagged with this number at the plug. By default there is none.
//   - tag, or t, is a list of VLANs whose frames are tagged on both sides: numbers,
//     or A-B for VLAN A at the plug and B in the network, separated by colons or
//     points.
//   - trunk, or x, lets all other VLANs pass as they are, but for 0, 1 and 4095.
//   - qinq, ad or q is for tags of IEEE 802.1ad. Frames with other tags count as
//     untagged: that is how one VLAN carries VLANs.
//
// All other frames are dropped. The priority in a tag is not kept. Frames with a
// tag are four bytes longer: a network that does not carry them needs an MTU of
// 1496 at the plug. vde_switch drops frames with a tag unless its ports are in the
// VLAN (vlan/create and vlan/addport of its console).
func openVLAN(ctx context.Context, l Locator, o *Options) (Conn, error) {
	v, vnl, err := parseVLAN(l)
	if err != nil {
		return nil, err
	}
	inner, err := openInner(ctx, vnl, o)
	if err != nil {
		return nil, err
	}
	return newNested(l, inner, v), nil
}

const (
	maxVLAN = 4094
	tagLen  = 4

	etherTypeVLAN = 0x8100
	etherTypeQinQ = 0x88a8
)

// What becomes of a frame, if not the number of its VLAN.
const (
	vlanUntagged = 1<<12 + iota
	vlanDrop
)

// A vlanWay says what becomes of frames in one direction.
type vlanWay struct {
	untagged uint16
	tagged   [1 << 12]uint16 // by number
}

// A vlan is a nesting that tags.
type vlan struct {
	etherType uint16
	out, in   vlanWay
}

func parseVLAN(l Locator) (_ *vlan, inner string, err error) {
	t, err := l.Slashed()
	if err != nil {
		return nil, "", err
	}
	inner, t.HasInner = t.Inner, false
	cfg := vlanConfig{etherType: etherTypeVLAN}
	if t.Addr != "" {
		if cfg.own, err = vlanNumber(t.Addr, maxVLAN+1); err != nil {
			if strings.Contains(t.Addr, "[") {
				err = errors.New("options are written vlan://NUMBER/option/option=value")
			}
			return nil, "", fmt.Errorf("VLAN %q: %w", t.Addr, err)
		}
	}
	untag := once(func(v string, _ bool) (err error) {
		cfg.untag, err = vlanNumber(v, maxVLAN)
		return err
	})
	tag := once(func(v string, _ bool) (err error) {
		cfg.list, err = vlanList(v)
		return err
	})
	trunk := once(flagOption(&cfg.trunk))
	var qinq bool
	ad := once(flagOption(&qinq))
	err = t.Options(map[string]func(string, bool) error{
		"untag": untag, "u": untag,
		"tag": tag, "t": tag,
		"trunk": trunk, "x": trunk,
		"qinq": ad, "ad": ad, "q": ad,
	})
	if err != nil {
		return nil, "", err
	}
	if qinq {
		cfg.etherType = etherTypeQinQ
	}
	return cfg.vlan(), inner, nil
}

// once is for an option that has several names.
func once(set func(string, bool) error) func(string, bool) error {
	done := false
	return func(value string, has bool) error {
		if done {
			return errors.New("it is set already by another name")
		}
		done = true
		return set(value, has)
	}
}

// vlanNumber reads a decimal number, or one that begins with 0x or 0.
func vlanNumber(s string, max uint64) (uint16, error) {
	n, err := strconv.ParseUint(s, 0, 16)
	if err != nil || n > max || strings.Contains(s, "_") {
		return 0, fmt.Errorf("must be a number from 0 to %d", max)
	}
	return uint16(n), nil
}

// A vlanPair is a VLAN with the numbers that it has at the plug and in the network.
type vlanPair struct{ plug, network uint16 }

// vlanList reads a list of VLANs. A number that is there twice on one side is an
// error: the frames could be of both.
func vlanList(s string) (list []vlanPair, err error) {
	plug, network := make(map[uint16]bool), make(map[uint16]bool)
	for _, item := range strings.FieldsFunc(s, func(r rune) bool { return r == ':' || r == '.' }) {
		left, right, ok := strings.Cut(item, "-")
		if !ok {
			right = left
		}
		var p vlanPair
		if p.plug, err = vlanNumber(left, maxVLAN); err == nil {
			p.network, err = vlanNumber(right, maxVLAN)
		}
		switch {
		case err != nil || p.plug == 0 || p.network == 0:
			return nil, fmt.Errorf("%q must be a number from 1 to %d, or two with \"-\" between them", item, maxVLAN)
		case plug[p.plug] || network[p.network]:
			return nil, fmt.Errorf("%q: a number is on the list already", item)
		}
		plug[p.plug], network[p.network] = true, true
		list = append(list, p)
	}
	if len(list) == 0 {
		return nil, errors.New("must be numbers of VLANs, as 10:11-12")
	}
	return list, nil
}

// vlanConfig is what a vlan locator says.
type vlanConfig struct {
	etherType  uint16
	own, untag uint16
	list       []vlanPair
	trunk      bool
}

func (cfg *vlanConfig) vlan() *vlan {
	v := &vlan{etherType: cfg.etherType}
	out, in := &v.out, &v.in
	for i := range out.tagged {
		to := uint16(vlanDrop)
		if cfg.trunk && 1 < i && i <= maxVLAN {
			to = uint16(i)
		}
		out.tagged[i], in.tagged[i] = to, to
	}
	for _, p := range cfg.list {
		out.tagged[p.plug], in.tagged[p.network] = p.network, p.plug
	}
	out.tagged[cfg.untag] = vlanUntagged
	out.untagged, in.untagged = vlanDrop, vlanDrop
	switch {
	case 0 < cfg.own && cfg.own <= maxVLAN:
		out.untagged = cfg.own
	case cfg.own == 0 && cfg.untag == 0:
		out.untagged = vlanUntagged
	}
	if cfg.own <= maxVLAN {
		in.tagged[cfg.own] = vlanUntagged
	}
	switch {
	case cfg.untag != 0:
		in.untagged = cfg.untag
	case cfg.own == 0:
		in.untagged = vlanUntagged
	}
	return v
}

const (

	// vlanMinLen is the length of a frame that has a tag.
	vlanMinLen = ether.HeaderLen + tagLen
)

// route returns what becomes of a frame, and whether it has a tag.
func (v *vlan) route(way *vlanWay, frame []byte) (to uint16, tagged bool) {
	if binary.BigEndian.Uint16(frame[ether.AddrsLen:]) != v.etherType {
		return way.untagged, false
	}
	if len(frame) < vlanMinLen {
		return vlanDrop, true
	}
	return way.tagged[binary.BigEndian.Uint16(frame[ether.HeaderLen:])&0xfff], true
}

func (v *vlan) outward(w *nestedWork, p *packet.Packet) (dropped int) {
	to, tagged := v.route(&v.out, p.Data)
	if to == vlanDrop {
		frames, _ := virtio.Count(p.Offload, p.Data)
		return frames
	}
	out := *p
	if !tagged && to != vlanUntagged && out.Room < tagLen {
		w.move(&out)
	}
	if !v.change(&out, to, tagged) {
		return 1
	}
	w.pass(out)
	return 0
}

func (v *vlan) inward(p *packet.Packet) verdict {
	if len(p.Data) < ether.HeaderLen {
		return dropped
	}
	to, tagged := v.route(&v.in, p.Data)
	if to == vlanDrop {
		return ignored
	}
	if !tagged && to != vlanUntagged && p.Room < tagLen {
		mem := make([]byte, tagLen+len(p.Data))
		copy(mem[tagLen:], p.Data)
		p.Data, p.Room = mem[tagLen:], tagLen
	}
	if !v.change(p, to, tagged) {
		return dropped
	}
	return pass
}

// change gives a frame the tag that it should have. There is room for it.
func (v *vlan) change(p *packet.Packet, to uint16, tagged bool) (ok bool) {
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

// shift moves the offsets of a packet that has got n bytes more in its Ethernet
// header. It reports false if they were no offsets behind it.
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
