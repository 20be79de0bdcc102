package vdeplug

import (
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/fabric"
)

func TestParseSwitch(t *testing.T) {
	plain := switchConfig{kind: fabric.Switch, dir: "/run/sw", mode: 0o600, dirMode: 0o2700, stations: 4096, expire: 120 * time.Second}
	with := func(f func(*switchConfig)) switchConfig {
		cfg := plain
		f(&cfg)
		return cfg
	}
	tests := []struct {
		in   string
		want switchConfig
		err  string
	}{
		{in: "switch:///run/sw", want: with(func(c *switchConfig) { c.plain = true })},
		{in: "switch:///run/sw[]", want: with(func(c *switchConfig) { c.plain = true })},
		{in: "hub://", want: with(func(c *switchConfig) { c.kind, c.dir, c.plain = fabric.Hub, "", true })},
		{in: "multi:///run/sw[mode=0666]", want: with(func(c *switchConfig) { c.kind, c.mode, c.dirMode = fabric.Multi, 0o666, 0o2777 })},
		{in: "bonding:///run/sw[mode=640]", want: with(func(c *switchConfig) { c.kind, c.mode, c.dirMode = fabric.Bonding, 0o640, 0o2750 })},
		{in: "switch:///run/sw[mode=0777/grp=vde]", want: with(func(c *switchConfig) { c.mode, c.dirMode, c.group = 0o666, 0o2777, "vde" })},
		{in: "switch:///run/sw[dirmode=03755]", want: with(func(c *switchConfig) { c.dirMode = 0o3755 })},
		{in: "switch:///run/sw[dirmode=5]", want: with(func(c *switchConfig) { c.dirMode = 0o2705 })},
		{in: "switch:///run/sw[hashsize=0/expiretime=9/hashseed=7]", want: with(func(c *switchConfig) { c.stations, c.expire = 0, 9*time.Second })},

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
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			l, err := Parse(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			got, err := parseSwitch(l)
			if tt.err != "" {
				wantError(t, err, tt.err)
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("got %+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
}
