package transform

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/virtio"
)

// TestVLANQinQ tags tagged frames.
func TestVLANQinQ(t *testing.T) {
	v := NewVLAN(VLANConfig{Number: 3, QinQ: true})
	frame := plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60)
	customer := packettest.Tag(frame, etherTypeVLAN, 7, 5)
	for _, inside := range [][]byte{frame, customer} {
		outside := packettest.Tag(inside, etherTypeQinQ, 3, 0)
		b := new(Batch)
		v.Encap(b, &packet.Packet{Data: bytes.Clone(inside)})
		if len(b.Packets) != 1 || !bytes.Equal(b.Packets[0].Data, outside) {
			t.Errorf("out: got %x, want %x", b.Packets, outside)
		}
		p := packet.Packet{Data: bytes.Clone(outside)}
		if v.Decap(&p) != Pass || !bytes.Equal(p.Data, inside) {
			t.Errorf("in: got %x, want %x", p.Data, inside)
		}
		p = packet.Packet{Data: inside}
		if got := v.Decap(&p); got != Ignore {
			t.Errorf("in without the tag: %d", got)
		}
	}
}

// vlanTestConfigs are VLANs of the tests.
var vlanTestConfigs = []VLANConfig{
	{Number: 3}, {Number: 3, QinQ: true}, {Trunk: true},
	{Number: 3, Untagged: 4, Trunk: true, Tagged: []VLANPair{{11, 12}, {12, 11}}},
}

// TestVLANNumbers checks that no frame gets into VLAN 0 or 4095.
func TestVLANNumbers(t *testing.T) {
	for _, cfg := range vlanTestConfigs {
		v := NewVLAN(cfg).(*vlan)
		for i, to := range v.out.tagged {
			if to == 0 || to == MaxVLAN+1 || v.in.tagged[i] == 0 || v.in.tagged[i] == MaxVLAN+1 {
				t.Errorf("%+v: VLAN %d becomes %d, %d", cfg, i, to, v.in.tagged[i])
			}
		}
	}
}

// FuzzVLAN transforms any packet in both directions. A packet that comes back is the same.
func FuzzVLAN(f *testing.F) {
	var vlans []*vlan
	for _, cfg := range vlanTestConfigs {
		vlans = append(vlans, NewVLAN(cfg).(*vlan))
	}
	frame := plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60)
	for i := range vlans {
		f.Add(uint8(i), uint8(0), uint8(0), uint16(0), uint16(0), frame)
		f.Add(uint8(i), uint8(0), uint8(virtio.FlagNeedsCsum), uint16(34), uint16(54), packettest.Tag(frame, etherTypeVLAN, 12, 7))
		f.Add(uint8(i), uint8(14), uint8(virtio.FlagNeedsCsum), uint16(1), uint16(9), packettest.Tag(frame, etherTypeQinQ, 4, 7)[:17])
	}
	f.Fuzz(func(t *testing.T, which, room, flags uint8, start, head uint16, data []byte) {
		if len(data) < ether.HeaderLen {
			return
		}
		v := vlans[int(which)%len(vlans)]
		mem := append(make([]byte, room), data...)
		p := packet.Packet{Offload: virtio.Header{Flags: flags, CsumStart: start, HdrLen: head}, Data: mem[room:], Room: int(room)}
		b := new(Batch)
		if dropped := v.Encap(b, &p); dropped+len(b.Packets) != 1 {
			t.Fatalf("%d frames and %d dropped", len(b.Packets), dropped)
		}
		back := packet.Packet{Offload: p.Offload, Data: bytes.Clone(data)}
		if v.Decap(&back) == Pass && len(back.Data) < ether.HeaderLen {
			t.Fatalf("a frame of %d bytes", len(back.Data))
		}
		if len(b.Packets) == 0 {
			return
		}
		out := b.Packets[0]
		if n := len(out.Data) - len(data); n != 0 && n != tagLen && n != -tagLen {
			t.Fatalf("%d bytes became %d", len(data), len(out.Data))
		}
		if flags&virtio.FlagNeedsCsum != 0 && int(out.Offload.CsumStart)-int(start) != len(out.Data)-len(data) {
			t.Fatalf("%d bytes became %d, and the offset %d became %d", len(data), len(out.Data), start, out.Offload.CsumStart)
		}
		if binary.BigEndian.Uint16(data[ether.AddrsLen:]) == v.etherType || v.Decap(&out) != Pass {
			return // another number, or no priority
		}
		want := data
		if to := v.out.untagged; (to == vlanUntagged || v.in.tagged[to] == vlanUntagged) && !bytes.Equal(out.Data, want) {
			t.Fatalf("came back as %x, want %x", out.Data, want)
		}
	})
}
