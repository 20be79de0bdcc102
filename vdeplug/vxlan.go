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
				{Name: "remotes", Value: "file:PATH", About: "the same from a file, which may change"},
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
func openVXLAN(ctx context.Context, l Locator, opts *Options) (packet.Transport, error) {
	o, err := parseVXLAN(ctx, l)
	switch {
	case err != nil:
		return nil, err
	case o.source != nil:
		return o.follow(ctx, opts.Logger)
	}
	return vxlan.Open(o.Config)
}

// parseVXLAN reads a locator. The configuration has no remotes yet if there is a source.
func parseVXLAN(ctx context.Context, l Locator) (*vxlanOptions, error) {
	ctx, cancel := context.WithTimeout(ctx, nameTimeout)
	defer cancel()
	t, err := l.ParseSlashed()
	if err != nil {
		return nil, err
	}
	o := &vxlanOptions{vxvdeOptions: newVXVDEOptions(vxlanPort)}
	o.VXLAN = true
	var remotes string
	allowed := o.allowed(ctx)
	allowed["vni"] = NumberOption(&o.vni, 0, vxlan.MaxVNI)
	allowed["remote"] = TextOption(&remotes)
	allowed["remotes"] = o.sourceOption
	if err := t.Apply(allowed); err != nil {
		return nil, err
	}
	given := fmt.Sprintf("remote=%s", remotes)
	if o.source != nil {
		given = "remotes=" + o.sourceName
	}
	switch {
	case o.source != nil && remotes != "":
		return nil, fmt.Errorf("options \"remote=%s\" and %q: it is one or the other", remotes, given)
	case (o.source != nil || remotes != "") && t.Addr != "":
		return nil, fmt.Errorf("group %q and option %q: it is one or the other", t.Addr, given)
	case o.source != nil:
		o.Changing = true
		return o, nil
	case remotes != "":
		if err := o.findRemotes(ctx, remotes); err != nil {
			return nil, fmt.Errorf("option %q: %w", given, err)
		}
		return o, o.setFamily(o.Remotes[0].Addr())
	}
	addr, err := o.findGroup(ctx, t.Addr)
	if err != nil {
		return nil, err
	}
	o.Group = netip.AddrPortFrom(addr, o.port)
	o.Config, err = o.config(addr)
	return o, err
}

// vxlanOptions are the options of vxlan.
type vxlanOptions struct {
	*vxvdeOptions
	source     RemotesFunc // nil: there is none
	sourceName string      // with the argument
	sourceArg  string
	logged     string // the last error, which is logged once
}

// setFamily completes the configuration of a network without a group, for a remote of this
// address.
func (o *vxlanOptions) setFamily(remote netip.Addr) (err error) {
	any := netip.IPv4Unspecified()
	if remote.Is6() {
		any = netip.IPv6Unspecified()
	}
	o.Listen = netip.AddrPortFrom(any, o.port)
	o.Config, err = o.config(remote)
	return err
}

// findRemotes looks up a list of endpoints. All have the address family of the first.
func (o *vxlanOptions) findRemotes(ctx context.Context, list string) error {
	network := o.network()
	for host := range strings.SplitSeq(list, ",") {
		addr, err := lookupUnicast(ctx, network, host)
		if err != nil {
			return err
		}
		if addr, err = o.takeZone(addr, "remote"); err != nil {
			return err
		}
		if err := o.checkScope(addr); err != nil {
			return err
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

// checkScope wants to know the interface of a link-local address.
func (o *vxvdeOptions) checkScope(a netip.Addr) error {
	if a.Is6() && a.IsLinkLocalUnicast() && o.Interface == "" && o.Bind.Zone() == "" {
		return fmt.Errorf("%s is another one on each interface: say which with if=NAME", a)
	}
	return nil
}

// lookupUnicast returns the address of a host that host is or names.
func lookupUnicast(ctx context.Context, network, host string) (netip.Addr, error) {
	if host == "" {
		return netip.Addr{}, errors.New("must be addresses or names, separated by commas")
	}
	return lookupAddr(ctx, network, host, func(a netip.Addr) error { return checkUnicast(network, host, a) })
}

// checkUnicast refuses addresses that no host of the network can have. host is in the error.
func checkUnicast(network, host string, a netip.Addr) error {
	switch {
	case outside(network, a):
		return fmt.Errorf("%s is not of the family of the others, IPv%s", host, network[2:])
	case a.IsMulticast() || a.WithZone("").IsUnspecified() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%s is no address of a host", host)
	}
	return nil
}
