package vdeplug

import (
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/fabric"
	"github.com/vdestack/vdestack/internal/vdeproto"
)

func TestParseSwitch(t *testing.T) {
	plain := vdeproto.SwitchConfig{Kind: fabric.Switch, Dir: "/run/sw", Mode: 0o600, DirMode: 0o2700, Stations: 4096, Expire: 120 * time.Second}
	testParses(t, flat(parseSwitch), plain, []parseTest[vdeproto.SwitchConfig]{
		{in: "switch:///run/sw", set: func(c *vdeproto.SwitchConfig) { c.Plain = true }},
		{in: "switch:///run/sw[]", set: func(c *vdeproto.SwitchConfig) { c.Plain = true }},
		{in: "hub://", set: func(c *vdeproto.SwitchConfig) { c.Kind, c.Dir, c.Plain = fabric.Hub, "", true }},
		{in: "multi:///run/sw[mode=0666]", set: func(c *vdeproto.SwitchConfig) { c.Kind, c.Mode, c.DirMode = fabric.Multi, 0o666, 0o2777 }},
		{in: "bonding:///run/sw[mode=640]", set: func(c *vdeproto.SwitchConfig) { c.Kind, c.Mode, c.DirMode = fabric.Bonding, 0o640, 0o2750 }},
		{in: "switch:///run/sw[mode=0777/grp=vde]", set: func(c *vdeproto.SwitchConfig) { c.Mode, c.DirMode, c.Group = 0o666, 0o2777, "vde" }},
		{in: "switch:///run/sw[dirmode=03755]", set: func(c *vdeproto.SwitchConfig) { c.DirMode = 0o3755 }},
		{in: "switch:///run/sw[dirmode=5]", set: func(c *vdeproto.SwitchConfig) { c.DirMode = 0o2705 }},
		{in: "switch:///run/sw[hashsize=0/expiretime=9/hashseed=7]", set: func(c *vdeproto.SwitchConfig) { c.Stations, c.Expire = 0, 9*time.Second }},

		{in: "switch:///run/sw[port=1]", err: `"port=1": unknown (have dirmode, expiretime, grp, hashseed, hashsize, mode)`},
		{in: "switch:///run/sw[3]", err: `"3": unknown`},
		{in: "switch:///run/sw[mode=8]", err: `"mode=8": must be an octal number from 0 to 777`},
		{in: "switch:///run/sw[mode]", err: "must be an octal number"},
		{in: "switch:///run/sw[dirmode=10000]", err: "must be an octal number from 0 to 7777"},
		{in: "switch:///run/sw[grp=]", err: "needs a value"},
		{in: "switch:///run/sw[hashsize=1048577]", err: "hashsize=1048577"},
		{in: "switch:///run/sw[expiretime=0]", err: "expiretime=0"},
		{in: "switch:///run/sw[hashseed=x]", err: "hashseed=x"},
		{in: "switch:///run/sw{null://}", err: "no inner network"},
	})
}
