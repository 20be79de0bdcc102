package vdeplug

import (
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

// TestLinuxConn is TestConn for the schemes that only Linux has.
func TestLinuxConn(t *testing.T) {
	testenv.Long(t)
	for _, vnl := range []string{
		"cmd://cat", "cmd://sleep 1000", vxlanTest(2), "vxlan:///if=lo", "vxlan:///v6/if=test0",
		vxvdeFamilies[0].vnl, vxvdeFamilies[1].vnl,
	} {
		t.Run(vnl, func(t *testing.T) {
			testConn(t, func(t *testing.T) Conn { return openPlug(t, vnl) })
		})
	}
	t.Run("pcap", func(t *testing.T) {
		wirePCAP(t)
		testConn(t, func(t *testing.T) Conn { return openPlug(t, "pcap://here0") })
	})
	t.Run("tap", func(t *testing.T) {
		needTAP(t)
		testConn(t, func(t *testing.T) Conn {
			c := openTAPTest(t, "")
			ip(t, "link set "+c.on.name+" up")
			return c
		})
	})
	t.Run("vdesl", func(t *testing.T) {
		testConn(t, func(t *testing.T) Conn {
			_, name := testenv.PTY(t)
			return openPlug(t, "vdesl://"+name+"[speed=115200]")
		})
	})
	for _, kind := range []string{"switch", "hub", "multi", "bonding"} {
		t.Run(kind+", and a client", func(t *testing.T) {
			testConn(t, func(t *testing.T) Conn {
				c, dir := serve(t, kind, "")
				openInbox(t, dir)
				return c
			})
		})
	}
	eachSwitch(t, func(t *testing.T, kind switchKind) {
		testConn(t, func(t *testing.T) Conn { return openPlug(t, kind.start(t).Dir) })
	})
}
