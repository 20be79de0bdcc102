package vdeplug

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/transform"
	"github.com/vdestack/vdestack/internal/virtio"
)

// In tables of VLANs, untagged means a frame without tag, and nothing that it is dropped.
const (
	untagged = -1
	nothing  = -2

	etherTypeVLAN = 0x8100
	etherTypeQinQ = 0x88a8
)

// vlanTests say which VLAN becomes which, out of the plug and into it. The plug in C does
// the same (TestVLANC).
var vlanTests = []struct {
	vnl     string
	out, in map[int]int
}{
	{"vlan://", map[int]int{untagged: untagged, 0: untagged, 10: nothing}, map[int]int{untagged: untagged, 0: untagged, 10: nothing}},
	{"vlan://3/trunk/tag=11-12:13",
		map[int]int{untagged: 3, 3: 3, 11: 12, 12: 12, 13: 13, 14: 14, 1: nothing, 0: untagged, 4095: nothing},
		map[int]int{untagged: nothing, 3: untagged, 11: 11, 12: 11, 13: 13, 14: 14, 1: nothing, 0: nothing, 4095: nothing}},
	{"vlan://3/untag=4/trunk/tag=11-12:12-11",
		map[int]int{untagged: 3, 3: 3, 4: untagged, 11: 12, 12: 11, 13: 13, 1: nothing, 0: nothing},
		map[int]int{untagged: 4, 3: untagged, 4: 4, 11: 12, 12: 11, 13: 13, 1: nothing, 0: nothing}},
	{"vlan://3/tag=11-12:13-14",
		map[int]int{untagged: 3, 3: nothing, 11: 12, 12: nothing, 13: 14, 14: nothing},
		map[int]int{untagged: nothing, 3: untagged, 11: nothing, 12: 11, 13: nothing, 14: 13, 0: nothing}},
	{"vlan://0/t=10.11",
		map[int]int{untagged: untagged, 0: untagged, 10: 10, 11: 11, 12: nothing},
		map[int]int{untagged: untagged, 0: untagged, 10: 10, 11: 11, 12: nothing}},
	{"vlan://0x3/u=3/tag=03-15", map[int]int{untagged: 3, 3: untagged, 15: nothing}, map[int]int{untagged: 3, 3: untagged, 15: 3}},
	{"vlan://4/untag=5/tag=4-17:5-18",
		map[int]int{untagged: 4, 4: 17, 5: untagged},
		map[int]int{untagged: 5, 4: untagged, 5: nothing, 17: 4, 18: 5}},
	{"vlan:///untag=5", map[int]int{untagged: nothing, 5: untagged, 0: nothing}, map[int]int{untagged: 5, 0: untagged, 5: nothing}},
	{"vlan://4095/x", map[int]int{untagged: nothing, 7: 7, 0: untagged}, map[int]int{untagged: nothing, 7: 7, 0: nothing}},
}

// tagFrame puts a tag into a frame, unless number is untagged.
func tagFrame(frame []byte, etherType uint16, number, priority int) []byte {
	if number == untagged {
		return frame
	}
	return packettest.Tag(frame, etherType, number, priority)
}

// parseTransform returns the transform of a vlan locator.
func parseTransform(l Locator) (transform.Transform, string, error) {
	cfg, inner, err := parseVLAN(l)
	return transform.NewVLAN(cfg), inner, err
}

func newTestVLAN(t testing.TB, vnl string) transform.Transform {
	t.Helper()
	l := testenv.Must(Parse(vnl))(t)
	v, _, err := parseTransform(l)
	testenv.Check(t, err)
	return v
}

func TestVLANFrames(t *testing.T) {
	for _, tt := range vlanTests {
		v := newTestVLAN(t, tt.vnl)
		w := new(transform.Batch)
		check := func(way string, from, to, priority int, got []packet.Packet, frame []byte) {
			t.Helper()
			switch want := tagFrame(frame, etherTypeVLAN, to, 0); {
			case to == nothing && len(got) > 0:
				t.Errorf("%s: %s %d: passed as %x, want it dropped", tt.vnl, way, from, got[0].Data[:20])
			case to != nothing && (len(got) != 1 || !bytes.Equal(got[0].Data, want)):
				t.Errorf("%s: %s %d: got %x, want %x", tt.vnl, way, from, got, want)
			}
		}
		for _, priority := range []int{0, 5} {
			for from, to := range tt.out {
				w.Packets = nil
				frame := plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60)
				tagged := tagFrame(frame, etherTypeVLAN, from, priority)
				dropped := v.Encap(w, &packet.Packet{Data: bytes.Clone(tagged)})
				check("out", from, to, priority, w.Packets, frame)
				if dropped != 1-len(w.Packets) {
					t.Errorf("%s: out %d: %d dropped", tt.vnl, from, dropped)
				}
			}
			for from, to := range tt.in {
				frame := plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60)
				p := []packet.Packet{{Data: tagFrame(bytes.Clone(frame), etherTypeVLAN, from, priority)}}
				if v.Decap(&p[0]) != transform.Pass {
					p = nil
				}
				check("in", from, to, priority, p, frame)
			}
		}
	}
}

func TestParseVLAN(t *testing.T) {
	same := func(vnl string) func(*transform.Transform) { return is(newTestVLAN(t, vnl)) }
	testParses(t, parseTransform, nil, []parseTest[transform.Transform]{
		{in: "vlan://3{vde:///run/sw}", inner: "vde:///run/sw", set: same("vlan://3")},
		{in: "vlan://4{vlan://5/qinq{vxvde://234.0.0.1}}", inner: "vlan://5/qinq{vxvde://234.0.0.1}", set: same("vlan://4")},
		{in: "vlan://", set: same("vlan://0")},
		{in: "vlan://3/untag=4/trunk/tag=10:11-12:12-11", set: same("vlan://3/x/t=12-11.11-12.10/u=4")},
		{in: "vlan://3/tag=7", set: same("vlan://3/tag=7-7")},
		{in: "vlan://010/q", set: same("vlan://8/ad")},
		{in: "vlan://0x10/qinq", set: same("vlan://16/qinq")},

		{in: "vlan://4096", err: `VLAN "4096": must be a number from 0 to 4095`},
		{in: "vlan://1_0", err: `VLAN "1_0": must be a number`},
		{in: "vlan://-1", err: `VLAN "-1": must be a number`},
		{in: "vlan://3[untag=4]", err: `VLAN "3[untag=4]": options are written vlan://NUMBER/option/option=value`},
		{in: "vlan://3/untag=4095", err: `vlan option "untag=4095": must be a number from 0 to 4094`},
		{in: "vlan://3/untag", err: `vlan option "untag": must be a number`},
		{in: "vlan://3/tag=", err: `must be numbers of VLANs, as 10:11-12`},
		{in: "vlan://3/tag=10:0", err: `"0" must be a number from 1 to 4094, or two with "-" between them`},
		{in: "vlan://3/tag=10:11-", err: `"11-" must be a number`},
		{in: "vlan://3/tag=10:11-4095", err: `"11-4095" must be a number`},
		{in: "vlan://3/tag=10-11-12", err: `"10-11-12" must be a number`},
		{in: "vlan://3/tag=10:10-12", err: `"10-12": a number is on the list already`},
		{in: "vlan://3/tag=10-12:11-12", err: `"11-12": a number is on the list already`},
		{in: "vlan://3/untag=4/u=5", err: `vlan option "u=5": already set by "untag=4"`},
		{in: "vlan://3/qinq/q", err: `vlan option "q": already set by "qinq"`},
		{in: "vlan://3/trunk=1", err: `vlan option "trunk=1": takes no value`},
		{in: "vlan://3/tru", err: `vlan option "tru": unknown (have ad, q, qinq, t, tag, trunk, u, untag, x)`},
		{in: "vlan://3{a}b", err: `text after "}"`},
		{in: "vlan://3{a", err: `no "}" after this "{"`},
	})
}

// TestNested opens a network in three others, and exchanges frames with the innermost.
func TestNested(t *testing.T) {
	testenv.NoLeaks(t)
	const vnl = "vlan://4{vlan://5/qinq{vlan://6{mem://nested}}}"
	a, b, c := openInbox(t, vnl), openInbox(t, vnl), openInbox(t, "mem://nested")
	frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)
	tagged := tagFrame(tagFrame(tagFrame(frame, etherTypeVLAN, 4, 0), etherTypeQinQ, 5, 0), etherTypeVLAN, 6, 0)
	plugtest.Send(t, a, frame)
	b.WantNext(t, frame)
	c.WantNext(t, tagged)
	// Frames of other VLANs are ignored, and do not count as drops.
	plugtest.Send(t, c, frame)
	plugtest.Send(t, c, tagFrame(frame, etherTypeVLAN, 6, 0))
	plugtest.Send(t, c, tagged)
	a.WantNext(t, frame)
	// The innermost has no room for its tag.
	plugtest.Send(t, a, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), ether.MaxFrame-4))
	wantDrops(t, a, Drops{Send: 1})
	wantDrops(t, b, Drops{})
}

// TestNestedFrames has a VLAN of a network whose plugs carry single frames.
func TestNestedFrames(t *testing.T) {
	testenv.NoLeaks(t)
	registerFrames(t)
	c := openPlug(t, "vlan://4{nestedtest://}")
	a, b := plugtest.NewInbox(t, c), openInbox(t, "vlan://4{mem://nestedtest}")
	bad := packet.Packet{Data: make([]byte, 100), Offload: virtio.Header{GSOType: 77}}
	frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)
	testenv.Check(t, c.(packet.Transport).SendPackets([]packet.Packet{{Data: bytes.Clone(frame)}, bad, {}}, true))
	b.Want(t, frame)
	plugtest.Deliver(t, b, a, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(2), 60))
	wantDrops(t, c, Drops{Send: 2})
}

// TestNestedErrors checks that errors name the network that they come from.
func TestNestedErrors(t *testing.T) {
	testenv.NoLeaks(t)
	file := filepath.Join(t.TempDir(), "net.vnl")
	testenv.Check(t, os.WriteFile(file, []byte("vlan://4{"+file+"}\n"), 0o600))
	for vnl, text := range map[string]string{
		"vlan://4{vxvde:///nosuch}": `open "vlan://4{vxvde:///nosuch}": inner network "vxvde:///nosuch": vxvde option "nosuch": unknown`,
		"vlan://4{nosuch://}":       `inner network "nosuch://": unknown scheme "nosuch" (have `,
		"vlan://4/n{mem://}":        `vlan option "n": unknown`,
		file:                        "more than 32 networks are nested; does a file name itself?",
	} {
		wantOpenError(t, vnl, text)
	}
	openPlug(t, "mem://{null://}")
	// The end of the inner network ends the outer one.
	peer := registerStream(t)
	in := openInbox(t, "vlan://4{nestedtest://}")
	peer.Close()
	err := in.WantEnd(t)
	plugtest.WantError(t, err, `vdeplug: recv "vlan://4{nestedtest://}": the peer has ended the stream`, io.EOF)
}
