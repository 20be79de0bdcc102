package vdeplug

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/vxlan"
)

func init() {
	Register(Scheme{
		Name: "vxvde",
		Open: plugsOn(openVXVDE),
		Usage: Usage{
			Form:  "vxvde://[GROUP][/OPTIONS]",
			About: "a distributed switch over IP multicast; group 239.0.0.1, or ff05:56de::1 with v6",
			Options: append([]OptionUsage{
				{Name: "port", Value: "PORT", Default: "14789", About: "UDP port of the group"},
				{Name: "vni", Value: "N", Default: "1", About: "number of the network, or a group of users"},
				{Name: "grp", Value: "GROUP", About: "group of users with a network of its own"},
			}, vxvdeCommon...),
		},
	})
}

// vxvdePort is the port of vdeplug 4.
const vxvdePort = 14789

// openVXVDE opens a distributed switch over UDP multicast. All endpoints with the same
// group, port and VNI are on one network. Frames for unknown stations go to the group,
// others to the endpoint of the station.
func openVXVDE(ctx context.Context, l Locator, _ *Options) (packet.Transport, error) {
	cfg, err := parseVXVDE(ctx, l)
	if err != nil {
		return nil, err
	}
	return vxlan.Open(cfg)
}

// nameTimeout bounds the look-up of a name in a locator.
const nameTimeout = 5 * time.Second

func parseVXVDE(ctx context.Context, l Locator) (vxlan.Config, error) {
	ctx, cancel := context.WithTimeout(ctx, nameTimeout)
	defer cancel()
	t, err := l.ParseSlashed()
	if err != nil {
		return vxlan.Config{}, err
	}
	o := newVXVDEOptions(vxvdePort)
	grp, vni := -1, -1
	allowed := o.allowed(ctx)
	allowed["vni"] = gidOption(ctx, &vni)
	allowed["grp"] = gidOption(ctx, &grp)
	if err := t.Apply(allowed); err != nil {
		return vxlan.Config{}, err
	}
	switch {
	case vni >= 0:
		o.vni = vni
	case grp >= 0:
		o.vni = grp
	}
	addr, err := o.findGroup(ctx, t.Addr)
	if err != nil {
		return vxlan.Config{}, err
	}
	if grp >= 0 {
		addr = withGID(addr, grp)
	}
	o.Group = netip.AddrPortFrom(addr, o.port)
	return o.config(addr)
}

// vxvdeOptions are the options of vxvde and vxlan.
type vxvdeOptions struct {
	vxlan.Config
	port    uint16
	vni     int
	v4, v6  bool
	seconds int
}

func newVXVDEOptions(port uint16) *vxvdeOptions {
	return &vxvdeOptions{
		Config:  vxlan.Config{TTL: 1, Stations: 1024},
		port:    port,
		vni:     1,
		seconds: 128,
	}
}

// vxvdeCommon describes the options of allowed, except for port.
var vxvdeCommon = []OptionUsage{
	{Name: "ttl", Value: "N", Default: "1", About: "time to live of packets to the group"},
	{Name: "v4", About: "names stand for IPv4 addresses"},
	{Name: "v6", About: "names stand for IPv6 addresses"},
	{Name: "if", Value: "NAME", About: "interface of the group; by default the routing table decides"},
	{Name: "bind", Value: "ADDRESS", About: "local address"},
	{Name: "rcvbuf", Value: "BYTES", About: "receive buffer, with k, M or G for more"},
	{Name: "hashsize", Value: "N", Default: "1024", About: "stations that are remembered; 0 sends everything to all"},
	{Name: "expiretime", Value: "SECONDS", Default: "128", About: "for how long"},
}

func (o *vxvdeOptions) allowed(ctx context.Context) map[string]func(string, bool) error {
	return map[string]func(string, bool) error{
		"port": func(v string, _ bool) (err error) {
			o.port, err = lookupPort(ctx, v)
			return err
		},
		"ttl":        NumberOption(&o.TTL, 1, 255),
		"v4":         FlagOption(&o.v4),
		"v6":         FlagOption(&o.v6),
		"if":         TextOption(&o.Interface),
		"bind":       addressOption(&o.Bind),
		"rcvbuf":     sizeOption(&o.RecvBuffer),
		"hashsize":   NumberOption(&o.Stations, 0, 1<<20),
		"expiretime": NumberOption(&o.seconds, 1, 1<<31-1),
	}
}

// network returns the address families of names.
func (o *vxvdeOptions) network() string {
	switch {
	case o.v4 && !o.v6:
		return "ip4"
	case o.v6 && !o.v4:
		return "ip6"
	}
	return "ip"
}

// findGroup returns the address of the group with the name or address host.
func (o *vxvdeOptions) findGroup(ctx context.Context, host string) (netip.Addr, error) {
	if host == "" {
		if host = "239.0.0.1"; o.v6 {
			host = "ff05:56de::1"
		}
	}
	network := o.network()
	addr, err := lookupAddr(ctx, network, host, func(a netip.Addr) error {
		switch {
		case outside(network, a):
			return fmt.Errorf("%s is not of the family that option \"v%s\" says", a, network[2:])
		case !a.IsMulticast():
			return fmt.Errorf("%s is no multicast address (224.0.0.0 to 239.255.255.255, or ff00::/8)", a)
		}
		return nil
	})
	if err != nil {
		return addr, fmt.Errorf("group %q: %w", host, err)
	}
	if addr, err = o.takeZone(addr, "group"); err != nil {
		return addr, err
	}
	if addr.Is6() && o.Interface == "" && o.Bind.Zone() == "" && (addr.IsLinkLocalMulticast() || addr.IsInterfaceLocalMulticast()) {
		return addr, fmt.Errorf("group %q is a different one on each interface: say which with if=NAME", host)
	}
	return addr, nil
}

// config returns the configuration for a network with a group or remote of this address.
func (o *vxvdeOptions) config(addr netip.Addr) (_ vxlan.Config, err error) {
	if o.Bind, err = o.takeZone(o.Bind, "bind"); err != nil {
		return vxlan.Config{}, err
	}
	if o.Bind.IsValid() && o.Bind.Is4() != addr.Is4() {
		what := "group"
		if !o.Group.IsValid() {
			what = "remote"
		}
		return vxlan.Config{}, fmt.Errorf("option \"bind=%s\" and the %s %s are of different families", o.Bind, what, addr)
	}
	o.VNI, o.Expire = uint32(o.vni), time.Duration(o.seconds)*time.Second
	return o.Config, nil
}

// takeZone moves the zone of an address to the interface of the network.
func (o *vxvdeOptions) takeZone(a netip.Addr, what string) (netip.Addr, error) {
	zone := a.Zone()
	switch {
	case zone == "":
		return a, nil
	case o.Interface != "" && o.Interface != zone:
		return a, fmt.Errorf("%s %s is on another interface than the option \"if=%s\" or the group says", what, a, o.Interface)
	}
	o.Interface = zone
	return a.WithZone(""), nil
}

// withGID returns the address with its last three bytes replaced by a gid.
func withGID(a netip.Addr, gid int) netip.Addr {
	b := a.AsSlice()
	n := len(b)
	b[n-3], b[n-2], b[n-1] = byte(gid>>16), byte(gid>>8), byte(gid)
	a, _ = netip.AddrFromSlice(b)
	return a
}

// lookupAddr returns the first address that host is or names, and that check accepts. network
// is "ip", "ip4" or "ip6".
func lookupAddr(ctx context.Context, network, host string, check func(netip.Addr) error) (netip.Addr, error) {
	addrs := make([]netip.Addr, 1)
	var err error
	if addrs[0], err = netip.ParseAddr(host); err != nil {
		if addrs, err = net.DefaultResolver.LookupNetIP(ctx, network, host); err != nil {
			return netip.Addr{}, err
		}
	}
	for _, a := range addrs {
		a = a.Unmap()
		if err = check(a); err == nil {
			return a, nil
		}
	}
	return netip.Addr{}, err
}

// outside reports whether an address is not of the families of a network.
func outside(network string, a netip.Addr) bool {
	return network == "ip4" && !a.Is4() || network == "ip6" && !a.Is6()
}

func lookupPort(ctx context.Context, name string) (uint16, error) {
	port, err := strconv.Atoi(name)
	if err != nil && name != "" {
		port, err = net.DefaultResolver.LookupPort(ctx, "udp", name)
	}
	if err != nil || port < 1 || port > 65535 {
		return 0, errors.New("must be a port from 1 to 65535 or the name of a UDP service")
	}
	return uint16(port), nil
}

// gidOption sets p to the number of a network that belongs to a group of users: a decimal
// number or a group's name. Empty is the effective group.
func gidOption(ctx context.Context, p *int) func(string, bool) error {
	return func(name string, _ bool) error {
		gid := os.Getegid()
		if name != "" {
			var err error
			if gid, err = sockio.GroupID(ctx, name); err != nil {
				return err
			}
		}
		if gid < 0 || gid > vxlan.MaxVNI {
			return fmt.Errorf("%d does not fit in 24 bits (at most %d)", gid, vxlan.MaxVNI)
		}
		*p = gid
		return nil
	}
}
