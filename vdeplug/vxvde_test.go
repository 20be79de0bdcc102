package vdeplug

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/hex"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/testenv"
)

//go:embed testdata/vxvde.txt
var vxvdeCapture string

func capturedVXVDE(t testing.TB) map[string][]byte {
	t.Helper()
	return captured(t, vxvdeCapture)
}

// captured returns the packets of another implementation by name.
func captured(t testing.TB, text string) map[string][]byte {
	t.Helper()
	packets := make(map[string][]byte)
	for line := range strings.Lines(text) {
		name, digits, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || name == "#" {
			continue
		}
		var err error
		if packets[name], err = hex.DecodeString(strings.ReplaceAll(digits, " ", "")); err != nil {
			t.Fatal(err)
		}
	}
	return packets
}

func TestVXVDEHeader(t *testing.T) {
	own := makeVXVDEHeader(0x123456)
	if want := (vxvdeHeader{8, 0, 0, 0, 0x12, 0x34, 0x56, 0}); own != want {
		t.Errorf("header % x, want % x", own, want)
	}
	for i := range own {
		got := own
		got[i] ^= 0x40
		if kind := classify(&own, &got, 100); kind != vxvdeForeign {
			t.Errorf("byte %d of the header differs: kind %d, want %d", i, kind, vxvdeForeign)
		}
	}
	for n, want := range map[int]vxvdeKind{
		0: vxvdeForeign, 7: vxvdeForeign, 8: vxvdeBye, 9: vxvdeShort, 12: vxvdeShort, 8 + 14: vxvdeShort,
		8 + 15: vxvdeFrame, 8 + 60: vxvdeFrame, 65507: vxvdeFrame,
	} {
		if got := classify(&own, &own, n); got != want {
			t.Errorf("%d bytes: kind %d, want %d", n, got, want)
		}
	}
}

// FuzzVXVDEPacket holds the decoder against the rule, said in another way.
func FuzzVXVDEPacket(f *testing.F) {
	for _, p := range capturedVXVDE(f) {
		f.Add(p)
	}
	f.Add([]byte{8, 0, 0, 0, 0, 0, 2, 0, 1})
	own := makeVXVDEHeader(1)
	f.Fuzz(func(t *testing.T, packet []byte) {
		var got vxvdeHeader
		n := copy(got[:], packet)
		kind := classify(&own, &got, len(packet))
		frame, ours := bytes.CutPrefix(packet, own[:])
		switch {
		case kind == vxvdeForeign && ours, kind != vxvdeForeign && !ours:
			t.Errorf("% x: kind %d", packet[:n], kind)
		case kind == vxvdeFrame && len(frame) <= ether.HeaderLen, kind == vxvdeBye && len(frame) > 0:
			t.Errorf("frame of %d bytes: kind %d", len(frame), kind)
		}
	})
}

func TestParseVXVDE(t *testing.T) {
	plain := vxvdeConfig{
		group: netip.MustParseAddrPort("239.0.0.1:14789"),
		vni:   1, ttl: 1, table: 1024, expire: 128 * time.Second,
	}
	with := func(f func(*vxvdeConfig)) vxvdeConfig {
		cfg := plain
		f(&cfg)
		return cfg
	}
	group := func(s string) func(*vxvdeConfig) {
		return func(c *vxvdeConfig) { c.group = netip.MustParseAddrPort(s) }
	}
	egid := uint32(os.Getegid())
	tests := []struct {
		in   string
		want vxvdeConfig
		err  string
	}{
		{in: "vxvde://", want: plain},
		{in: "vxvde://239.1.2.3/port=5555/vni=12345/ttl=7", want: with(func(c *vxvdeConfig) {
			group("239.1.2.3:5555")(c)
			c.vni, c.ttl = 12345, 7
		})},
		{in: "vxvde:///v4", want: plain},
		{in: "vxvde:///v6", want: with(group("[ff05:56de::1]:14789"))},
		{in: "vxvde:///v4/v6", want: with(group("[ff05:56de::1]:14789"))},
		{in: "vxvde://ff05::7/v6", want: with(group("[ff05::7]:14789"))},
		{in: "vxvde://::ffff:239.0.0.9", want: with(group("239.0.0.9:14789"))},
		{in: "vxvde://ff02::7%test0", want: with(func(c *vxvdeConfig) {
			group("[ff02::7]:14789")(c)
			c.ifname = "test0"
		})},
		{in: "vxvde:///port=domain", want: with(group("239.0.0.1:53"))},
		{in: "vxvde:///grp=70000/vni=5", want: with(func(c *vxvdeConfig) {
			group("239.1.17.112:14789")(c)
			c.vni = 5
		})},
		{in: "vxvde:///grp=daemon", want: plain},
		{in: "vxvde://ff05:56de::1/grp=70000", want: with(func(c *vxvdeConfig) {
			group("[ff05:56de::1:1170]:14789")(c)
			c.vni = 70000
		})},
		{in: "vxvde:///vni=daemon", want: plain},
		{in: "vxvde:///vni", want: with(func(c *vxvdeConfig) { c.vni = egid })},
		{in: "vxvde:///vni=", want: with(func(c *vxvdeConfig) { c.vni = egid })},
		{in: "vxvde:///vni=0", want: with(func(c *vxvdeConfig) { c.vni = 0 })},
		{in: "vxvde:///vni=16777215", want: with(func(c *vxvdeConfig) { c.vni = 1<<24 - 1 })},
		{in: "vxvde:///rcvbuf=2M", want: with(func(c *vxvdeConfig) { c.rcvbuf = 2 << 20 })},
		{in: "vxvde:///rcvbuf=1kK", want: with(func(c *vxvdeConfig) { c.rcvbuf = 1 << 20 })},
		{in: "vxvde:///rcvbuf=65536", want: with(func(c *vxvdeConfig) { c.rcvbuf = 65536 })},
		{in: "vxvde:///hashsize=0/expiretime=2", want: with(func(c *vxvdeConfig) { c.table, c.expire = 0, 2*time.Second })},
		{in: "vxvde:///if=test0/bind=127.0.0.1", want: with(func(c *vxvdeConfig) {
			c.ifname, c.bind = "test0", netip.MustParseAddr("127.0.0.1")
		})},
		{in: "vxvde://ff05::1/bind=fe80::1%test0", want: with(func(c *vxvdeConfig) {
			group("[ff05::1]:14789")(c)
			c.ifname, c.bind = "test0", netip.MustParseAddr("fe80::1")
		})},

		{in: "vxvde:///nosuch=1", err: `"nosuch=1": unknown (have bind, expiretime, grp, hashsize, if, port, rcvbuf, ttl, v4, v6, vni)`},
		{in: "vxvde:///vni=0x10", err: `"vni=0x10": must be a gid or a group of users`},
		{in: "vxvde:///vni=16777216", err: `"vni=16777216": 16777216 does not fit in 24 bits`},
		{in: "vxvde:///vni=-1", err: `"vni=-1"`},
		{in: "vxvde:///grp=no-such-group", err: `"grp=no-such-group": must be a gid or a group`},
		{in: "vxvde:///grp=16777217", err: "24 bits"},
		{in: "vxvde:///ttl=0", err: `"ttl=0": must be a number from 1 to 255`},
		{in: "vxvde:///ttl=256", err: "from 1 to 255"},
		{in: "vxvde:///ttl=x", err: "from 1 to 255"},
		{in: "vxvde:///port=0", err: `"port=0": must be a port`},
		{in: "vxvde:///port=65536", err: "must be a port"},
		{in: "vxvde:///port=no-such-service", err: "must be a port"},
		{in: "vxvde:///port=", err: "must be a port"},
		{in: "vxvde:///hashsize=-1", err: "must be a number"},
		{in: "vxvde:///expiretime=0", err: "must be a number"},
		{in: "vxvde:///expiretime=garbage", err: "must be a number"},
		{in: "vxvde:///rcvbuf=0", err: "must be a number of bytes"},
		{in: "vxvde:///rcvbuf=2x", err: "must be a number of bytes"},
		{in: "vxvde:///rcvbuf=k", err: "must be a number of bytes"},
		{in: "vxvde:///rcvbuf=9T", err: "must be a number of bytes"},
		{in: "vxvde:///v4=1", err: `"v4=1": takes no value`},
		{in: "vxvde:///if=", err: `"if=": needs a value`},
		{in: "vxvde:///bind=localhost", err: "must be an IP address"},
		{in: "vxvde:///bind=239.0.0.1", err: "must be an IP address"},
		{in: "vxvde:///bind=::1", err: `option "bind=::1" and the group 239.0.0.1 are of different families`},
		{in: "vxvde://10.0.0.1", err: `group "10.0.0.1": 10.0.0.1 is no multicast address`},
		{in: "vxvde://ff05::1/v4", err: `is not of the family that option "v4" says`},
		{in: "vxvde://239.0.0.1/v6", err: `is not of the family that option "v6" says`},
		{in: "vxvde://ff02::1", err: "say which with if=NAME"},
		{in: "vxvde://ff02::1%a/if=b", err: "another interface"},
		{in: "vxvde://localhost", err: "is no multicast address"},
		{in: "vxvde://{vde://}", err: "no inner network"},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			l, err := Parse(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			got, err := parseVXVDE(t.Context(), l)
			if tt.err != "" {
				wantError(t, err, tt.err)
				return
			}
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
}

// TestVXVDENameTimeout gives up on a name when the caller does.
func TestVXVDENameTimeout(t *testing.T) {
	testenv.NoLeaks(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, vnl := range []string{"vxvde://no-such-host.example", "vxvde:///grp=2147483648"} {
		l, err := Parse(vnl)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseVXVDE(ctx, l); err == nil {
			t.Errorf("%s: no error", vnl)
		}
	}
}
