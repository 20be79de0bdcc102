package vdeplug

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/vdestack/vdestack/internal/fabric"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/vdeproto"
)

func init() {
	about := map[fabric.Kind]string{
		fabric.Switch:  "a switch of this program for others of the host",
		fabric.Hub:     "a hub of this program for others of the host: every frame goes to all",
		fabric.Multi:   "a switch of this program whose clients reach the program only",
		fabric.Bonding: "multi:// that sends each frame to one client, in turn",
	}
	for kind, text := range about {
		Register(Scheme{
			Name: string(kind),
			Open: plugsOn(openSwitch),
			Usage: Usage{
				Form:  string(kind) + "://[PATH][[OPTIONS]]",
				About: text,
				Options: []OptionUsage{
					{Name: "mode", Value: "MODE", Default: "0600", About: "permissions of the sockets"},
					{Name: "dirmode", Value: "MODE", About: "those of the directory, as mode says"},
					{Name: "grp", Value: "GROUP", About: "group of users that owns them"},
					{Name: "hashsize", Value: "N", Default: "4096", About: "stations that are remembered"},
					{Name: "expiretime", Value: "SECONDS", Default: "120", About: "for how long"},
					{Name: "hashseed", Value: "N", About: "changes nothing; libvdeplug has it"},
				},
			},
		})
	}
}

func openSwitch(ctx context.Context, l Locator, _ *Options) (packet.Transport, error) {
	cfg, err := parseSwitch(l)
	if err != nil {
		return nil, err
	}
	return vdeproto.OpenSwitch(ctx, cfg)
}

// parseSwitch reads the locator of a switch, to which clients connect as vde://directory.
func parseSwitch(l Locator) (vdeproto.SwitchConfig, error) {
	t, err := l.ParseBracketed()
	if err != nil {
		return vdeproto.SwitchConfig{}, err
	}
	cfg := vdeproto.SwitchConfig{
		Kind:     fabric.Kind(l.Scheme()),
		Dir:      t.Addr,
		Mode:     0o600,
		DirMode:  -1,
		Stations: fabric.DefaultStations,
		Plain:    len(t.Options) == 0,
	}
	seconds, seed := int(fabric.DefaultExpire/time.Second), 0
	err = t.Apply(map[string]func(string, bool) error{
		"mode":       modeOption(&cfg.Mode, 0o777),
		"dirmode":    modeOption(&cfg.DirMode, 0o7777),
		"grp":        TextOption(&cfg.Group),
		"hashsize":   NumberOption(&cfg.Stations, 0, 1<<20),
		"expiretime": NumberOption(&seconds, 1, 1<<31-1),
		"hashseed":   NumberOption(&seed, 0, 1<<31-1),
	})
	cfg.Expire = time.Duration(seconds) * time.Second
	cfg.Mode &^= 0o111
	if cfg.DirMode < 0 {
		cfg.DirMode = cfg.Mode | cfg.Mode>>1&0o111 | cfg.Mode>>2&0o111
	}
	cfg.DirMode |= 0o2700 // the switch itself must get in
	return cfg, err
}

func modeOption(p *int, max uint64) func(string, bool) error {
	return func(value string, _ bool) error {
		mode, err := strconv.ParseUint(value, 8, 16)
		if err != nil || mode > max {
			return fmt.Errorf("must be an octal number from 0 to %o", max)
		}
		*p = int(mode)
		return nil
	}
}
