package vdeplug

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vdestack/vdestack/internal/vxlan"
)

func init() {
	Register(Scheme{
		Name: "vxlan",
		Open: openVXLAN,
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

// openVXLAN opens a VXLAN network (RFC 7348), such as those of the kernel's vxlan
// interfaces and of hardware switches:
//
//	vxlan://[group][/port=P][/vni=N][/remote=ADDR,ADDR…][/ttl=N][/v4][/v6]
//	        [/if=NAME][/bind=ADDR][/rcvbuf=BYTES][/hashsize=N][/expiretime=SECONDS]
//
// All endpoints with the same VNI, on the same port, are on one network. Frames
// for unknown stations go to the group or to all remotes, others to the endpoint
// of the station.
//
//   - group is a multicast address or the name of one, 239.0.0.1 by default,
//     ff05:56de::1 with v6.
//   - port is the UDP port of all endpoints, a number or the name of a service,
//     4789 by default. A host has one endpoint for each port and address.
//   - vni is the number of the network, 0 to 16777215, 1 by default.
//   - remote are the addresses or names of other endpoints, separated by commas,
//     in place of a group. The endpoint itself may be one of them, so that the
//     list can be the same on all hosts. Frames from other endpoints are
//     accepted, too, and answered.
//   - ttl is the time to live of packets to the group, 1 by default.
//   - v4 and v6 restrict names to IPv4 or IPv6 addresses.
//   - if is the network interface of the group; by default the routing table
//     decides.
//   - bind is the local address that packets leave from and are received at.
//   - rcvbuf is the size of the receive buffer for unicast, in bytes or with k,
//     M or G.
//   - hashsize is how many stations are remembered, 1024 by default; with 0,
//     everything goes to the group or to all remotes.
//   - expiretime is for how many seconds, 128 by default.
//
// Nothing is encrypted, and whoever can send to the port can send frames.
// Packets larger than the network's MTU are fragmented, which not every hardware
// endpoint accepts; on Ethernet, an MTU of 1450 (1430 with IPv6) in the virtual
// network avoids that.
//
// The plug of vdeplug 4.0.1 loses each frame for a station that it knows. With
// vxlan:///hashsize=0 there, it sends everything to the group.
func openVXLAN(ctx context.Context, l Locator, _ *Options) (Conn, error) {
	cfg, err := parseVXLAN(ctx, l)
	if err != nil {
		return nil, err
	}
	return newVXVDE(l, cfg)
}

func parseVXLAN(ctx context.Context, l Locator) (vxlan.Config, error) {
	ctx, cancel := context.WithTimeout(ctx, nameTimeout)
	defer cancel()
	t, err := l.Slashed()
	if err != nil {
		return vxlan.Config{}, err
	}
	o := newVXVDEOptions(vxlanPort)
	o.VXLAN = true
	var vni int
	vniOption := numberOption(&vni, 0, vxlan.MaxVNI)
	var remotes string
	allowed := o.allowed(ctx)
	allowed["vni"] = func(v string, has bool) error {
		err := vniOption(v, has)
		o.VNI = uint32(vni)
		return err
	}
	allowed["remote"] = textOption(&remotes)
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

// lookupUnicast returns an address that host is or names. network is "ip", "ip4"
// or "ip6".
func lookupUnicast(ctx context.Context, network, host string) (netip.Addr, error) {
	if host == "" {
		return netip.Addr{}, errors.New("must be addresses or names, separated by commas")
	}
	addrs := make([]netip.Addr, 1)
	var err error
	if addrs[0], err = netip.ParseAddr(host); err != nil {
		if addrs, err = net.DefaultResolver.LookupNetIP(ctx, network, host); err != nil {
			return netip.Addr{}, err
		}
	}
	for _, a := range addrs {
		a = a.Unmap()
		switch {
		case network == "ip4" && !a.Is4() || network == "ip6" && !a.Is6():
			err = fmt.Errorf("%s is not of the family of the others, IPv%s", host, network[2:])
		case a.IsMulticast() || a.IsUnspecified() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			err = fmt.Errorf("%s is no address of a host", host)
		default:
			return a, nil
		}
	}
	return netip.Addr{}, err
}
