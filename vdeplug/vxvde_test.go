package vdeplug

import (
	"context"
	_ "embed"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vxlan"
)

func TestParseVXVDE(t *testing.T) {
	plain := vxlan.Config{
		Group: netip.MustParseAddrPort("239.0.0.1:14789"),
		VNI:   1, TTL: 1, Stations: 1024, Expire: 128 * time.Second,
	}
	group := func(s string) func(*vxlan.Config) {
		return func(c *vxlan.Config) { c.Group = netip.MustParseAddrPort(s) }
	}
	egid := uint32(os.Getegid())
	testParses(t, flat(func(l Locator) (vxlan.Config, error) { return parseVXVDE(t.Context(), l) }), plain, []parseTest[vxlan.Config]{
		{in: "vxvde://"},
		{in: "vxvde://239.1.2.3/port=5555/vni=12345/ttl=7", set: func(c *vxlan.Config) {
			group("239.1.2.3:5555")(c)
			c.VNI, c.TTL = 12345, 7
		}},
		{in: "vxvde:///v4"},
		{in: "vxvde:///v6", set: group("[ff05:56de::1]:14789")},
		{in: "vxvde:///v4/v6", set: group("[ff05:56de::1]:14789")},
		{in: "vxvde://ff05::7/v6", set: group("[ff05::7]:14789")},
		{in: "vxvde://::ffff:239.0.0.9", set: group("239.0.0.9:14789")},
		{in: "vxvde://ff02::7%test0", set: func(c *vxlan.Config) {
			group("[ff02::7]:14789")(c)
			c.Interface = "test0"
		}},
		{in: "vxvde:///port=domain", set: group("239.0.0.1:53")},
		{in: "vxvde:///grp=70000/vni=5", set: func(c *vxlan.Config) {
			group("239.1.17.112:14789")(c)
			c.VNI = 5
		}},
		{in: "vxvde:///grp=daemon"},
		{in: "vxvde://ff05:56de::1/grp=70000", set: func(c *vxlan.Config) {
			group("[ff05:56de::1:1170]:14789")(c)
			c.VNI = 70000
		}},
		{in: "vxvde:///vni=daemon"},
		{in: "vxvde:///vni", set: func(c *vxlan.Config) { c.VNI = egid }},
		{in: "vxvde:///vni=", set: func(c *vxlan.Config) { c.VNI = egid }},
		{in: "vxvde:///vni=0", set: func(c *vxlan.Config) { c.VNI = 0 }},
		{in: "vxvde:///vni=16777215", set: func(c *vxlan.Config) { c.VNI = 1<<24 - 1 }},
		{in: "vxvde:///rcvbuf=2M", set: func(c *vxlan.Config) { c.RecvBuffer = 2 << 20 }},
		{in: "vxvde:///rcvbuf=1kK", set: func(c *vxlan.Config) { c.RecvBuffer = 1 << 20 }},
		{in: "vxvde:///rcvbuf=65536", set: func(c *vxlan.Config) { c.RecvBuffer = 65536 }},
		{in: "vxvde:///hashsize=0/expiretime=2", set: func(c *vxlan.Config) { c.Stations, c.Expire = 0, 2*time.Second }},
		{in: "vxvde:///if=test0/bind=127.0.0.1", set: func(c *vxlan.Config) {
			c.Interface, c.Bind = "test0", netip.MustParseAddr("127.0.0.1")
		}},
		{in: "vxvde://ff05::1/bind=fe80::1%test0", set: func(c *vxlan.Config) {
			group("[ff05::1]:14789")(c)
			c.Interface, c.Bind = "test0", netip.MustParseAddr("fe80::1")
		}},

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
	})
}

// TestVXVDENameTimeout checks that looking up a name ends with the context.
func TestVXVDENameTimeout(t *testing.T) {
	testenv.NoLeaks(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, vnl := range []string{"vxvde://no-such-host.example", "vxvde:///grp=2147483648"} {
		l := testenv.Must(Parse(vnl))(t)
		if _, err := parseVXVDE(ctx, l); err == nil {
			t.Errorf("%s: no error", vnl)
		}
	}
}
