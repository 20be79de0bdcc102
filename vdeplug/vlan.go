package vdeplug

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/transform"
)

func init() {
	Register(Scheme{
		Name: "vlan",
		Open: plugsOn(openVLAN),
		Usage: Usage{
			Form:  "vlan://[NUMBER][/OPTIONS]{NETWORK}",
			About: "a VLAN of another network, or several",
			Options: []OptionUsage{
				{Name: "untag", Aliases: []string{"u"}, Value: "N", About: "VLAN without a tag in the network, tagged at the plug"},
				{Name: "tag", Aliases: []string{"t"}, Value: "LIST", About: "VLANs tagged on both sides: N, or N-M for M in the network, with : between"},
				{Name: "trunk", Aliases: []string{"x"}, About: "all other VLANs pass"},
				{Name: "qinq", Aliases: []string{"ad", "q"}, About: "tags of 802.1ad"},
			},
		},
	})
}

// openVLAN makes a VLAN of a network, or several, by IEEE 802.1Q.
func openVLAN(ctx context.Context, l Locator, o *Options) (packet.Transport, error) {
	cfg, vnl, err := parseVLAN(l)
	if err != nil {
		return nil, err
	}
	inner, err := openInner(ctx, vnl, o)
	if err != nil {
		return nil, err
	}
	return transform.New(inner, transform.NewVLAN(cfg)), nil
}

func parseVLAN(l Locator) (cfg transform.VLANConfig, inner string, err error) {
	t, err := l.ParseSlashed()
	if err != nil {
		return cfg, "", err
	}
	inner, t.HasInner = t.Inner, false
	if t.Addr != "" {
		if cfg.Number, err = vlanNumber(t.Addr, transform.MaxVLAN+1); err != nil {
			if strings.Contains(t.Addr, "[") {
				err = errors.New("options are written vlan://NUMBER/option/option=value")
			}
			return cfg, "", fmt.Errorf("VLAN %q: %w", t.Addr, err)
		}
	}
	err = t.Apply(map[string]func(string, bool) error{
		"untag,u": func(v string, _ bool) (err error) {
			cfg.Untagged, err = vlanNumber(v, transform.MaxVLAN)
			return err
		},
		"tag,t": func(v string, _ bool) (err error) {
			cfg.Tagged, err = vlanList(v)
			return err
		},
		"trunk,x":   FlagOption(&cfg.Trunk),
		"qinq,ad,q": FlagOption(&cfg.QinQ),
	})
	return cfg, inner, err
}

// vlanNumber reads a decimal number, or one that begins with 0x or 0.
func vlanNumber(s string, max uint64) (uint16, error) {
	n, err := strconv.ParseUint(s, 0, 16)
	if err != nil || n > max || strings.Contains(s, "_") {
		return 0, fmt.Errorf("must be a number from 0 to %d", max)
	}
	return uint16(n), nil
}

// vlanList reads a list of VLANs. It rejects a number that is on one side twice, since
// frames could belong to either.
func vlanList(s string) (list []transform.VLANPair, err error) {
	plug, network := make(map[uint16]bool), make(map[uint16]bool)
	for _, item := range strings.FieldsFunc(s, func(r rune) bool { return r == ':' || r == '.' }) {
		left, right, ok := strings.Cut(item, "-")
		if !ok {
			right = left
		}
		var p transform.VLANPair
		if p.Plug, err = vlanNumber(left, transform.MaxVLAN); err == nil {
			p.Network, err = vlanNumber(right, transform.MaxVLAN)
		}
		switch {
		case err != nil || p.Plug == 0 || p.Network == 0:
			return nil, fmt.Errorf("%q must be a number from 1 to %d, or two with \"-\" between them", item, transform.MaxVLAN)
		case plug[p.Plug] || network[p.Network]:
			return nil, fmt.Errorf("%q: a number is on the list already", item)
		}
		plug[p.Plug], network[p.Network] = true, true
		list = append(list, p)
	}
	if len(list) == 0 {
		return nil, errors.New("must be numbers of VLANs, as 10:11-12")
	}
	return list, nil
}
