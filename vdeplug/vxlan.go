package vdeplug

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/vxlan"
)

func init() {
	Register(Scheme{
		Name: "vxlan",
		Open: plugsOn(openVXLAN),
		Usage: Usage{
			Form:  "vxlan://[GROUP][/OPTIONS]",
			About: "VXLAN, RFC 7348; group 239.0.0.1, or ff05:56de::1 with v6",
			Options: append([]OptionUsage{
				{Name: "port", Value: "PORT", Default: "4789", About: "UDP port of all endpoints"},
				{Name: "vni", Value: "N", Default: "1", About: "number of the network"},
				{Name: "remote", Value: "HOST,HOST...", About: "other endpoints, in place of a group"},
			}, vxvdeCommon...),
		},
	})
}

const (
	// vxlanPort is the port of RFC 7348.
	vxlanPort = 4789
	// maxRemotes bounds how often a frame for all is sent.
	maxRemotes = 1024
)

// openVXLAN opens a VXLAN network (RFC 7348), such as those of the kernel's vxlan interfaces
// and of hardware switches. All endpoints with the same VNI and port are on one network.
// Frames for unknown stations go to the group or to all remotes, others to the endpoint of
// the station.
func openVXLAN(ctx context.Context, l Locator, _ *Options) (packet.Transport, error) {
	cfg, err := parseVXLAN(ctx, l)
	if err != nil {
		return nil, err
	}
	return vxlan.Open(cfg)
}

func parseVXLAN(ctx context.Context, l Locator) (vxlan.Config, error) {
	ctx, cancel := context.WithTimeout(ctx, nameTimeout)
	defer cancel()
	t, err := l.ParseSlashed()
	if err != nil {
		return vxlan.Config{}, err
	}
	o := newVXVDEOptions(vxlanPort)
	o.VXLAN = true
	var remotes string
	allowed := o.allowed(ctx)
	allowed["vni"] = NumberOption(&o.vni, 0, vxlan.MaxVNI)
	allowed["remote"] = TextOption(&remotes)
	if err := t.Apply(allowed); err != nil {
		return vxlan.Config{}, err
	}
	if remotes == "" {
		addr, err := o.findGroup(ctx, t.Addr)
		if err != nil {
			return vxlan.Config{}, err
		}
		o.Group = netip.AddrPortFrom(addr, o.port)
		return o.config(addr)
	}
	if t.Addr != "" {
		return vxlan.Config{}, fmt.Errorf("group %q and option \"remote=%s\": it is one or the other", t.Addr, remotes)
	}
	if err := o.findRemotes(ctx, remotes); err != nil {
		return vxlan.Config{}, fmt.Errorf("option \"remote=%s\": %w", remotes, err)
	}
	return o.config(o.Remotes[0].Addr())
}

// findRemotes looks up a list of endpoints. All have the address family of the first.
func (o *vxvdeOptions) findRemotes(ctx context.Context, list string) error {
	network := o.network()
	for host := range strings.SplitSeq(list, ",") {
		addr, err := lookupUnicast(ctx, network, host)
		if err != nil {
			return err
		}
		if addr, err = o.takeZone(addr, "remote"); err != nil {
			return err
		}
		if addr.Is6() && addr.IsLinkLocalUnicast() && o.Interface == "" && o.Bind.Zone() == "" {
			return fmt.Errorf("%s is another one on each interface: say which with if=NAME", addr)
		}
		remote := netip.AddrPortFrom(addr, o.port)
		if slices.Contains(o.Remotes, remote) {
			return fmt.Errorf("%s is there twice", host)
		}
		o.Remotes = append(o.Remotes, remote)
		if len(o.Remotes) > maxRemotes {
			return fmt.Errorf("more than %d remotes", maxRemotes)
		}
		if network = "ip6"; addr.Is4() {
			network = "ip4"
		}
	}
	return nil
}

// lookupUnicast returns the address of a host that host is or names.
func lookupUnicast(ctx context.Context, network, host string) (netip.Addr, error) {
	if host == "" {
		return netip.Addr{}, errors.New("must be addresses or names, separated by commas")
	}
	return lookupAddr(ctx, network, host, func(a netip.Addr) error {
		switch {
		case outside(network, a):
			return fmt.Errorf("%s is not of the family of the others, IPv%s", host, network[2:])
		case a.IsMulticast() || a.IsUnspecified() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			return fmt.Errorf("%s is no address of a host", host)
		}
		return nil
	})
}
