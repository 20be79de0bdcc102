package vdeplug

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/vdestack/vdestack/internal/vxlan"
)

func init() {
	Register("vxvde", openVXVDE)
	Describe("vxvde", Usage{
		Form:  "vxvde://[GROUP][/OPTIONS]",
		About: "a distributed switch over IP multicast; group 239.0.0.1, or ff05:56de::1 with v6",
		Options: append([]Option{
			{Name: "port", Value: "PORT", Default: "14789", About: "UDP port of the group"},
			{Name: "vni", Value: "N", Default: "1", About: "number of the network, or a group of users"},
			{Name: "grp", Value: "GROUP", About: "group of users with a network of its own"},
		}, vxvdeCommon...),
	})
}

// vxvdePort is the port of vdeplug 4.
const vxvdePort = 14789

// openVXVDE opens a distributed switch over UDP multicast:
//
//	vxvde://[group][/port=P][/vni=N][/grp=G][/ttl=N][/v4][/v6][/if=NAME]
//	        [/bind=ADDR][/rcvbuf=BYTES][/hashsize=N][/expiretime=SECONDS]
//
// All endpoints with the same group, port and VNI are on one network. Frames
// to unknown stations go to the group, others to the endpoint that the station
// was heard from.
//
//   - group is a multicast address or the name of one, 239.0.0.1 by default,
//     ff05:56de::1 with v6.
//   - port is the UDP port of the group, a number or the name of a service,
//     14789 by default.
//   - vni is the number of the network in the packets, 0 to 16777215, or a
//     group of users that stands for its gid; without a value the effective
//     group. 1 by default, or the gid of grp.
//   - grp is a gid or a group of users (without a value the effective group)
//     that has a network of its own: the last three bytes of the group's
//     address and the VNI become the gid.
//   - ttl limits how many routers a packet passes, 1 by default. It counts for
//     all IPv4 packets and IPv6 multicast; IPv6 unicast has the system's limit.
//   - v4 and v6 restrict what a name may mean.
//   - if is the network interface of the group; by default the routing table
//     decides.
//   - bind is the local address that packets leave from.
//   - rcvbuf is the size of the receive buffer for unicast in bytes, with k, M
//     or G behind it for more.
//   - hashsize is how many stations are remembered, 1024 by default; 0 sends
//     everything to the group.
//   - expiretime is for how many seconds, 128 by default.
//
// Nothing is encrypted, and whoever can send to the group can send frames.
// Packets larger than the network's MTU travel in fragments; an MTU of 1450
// (1430 with IPv6) in the virtual network avoids them on Ethernet.
func openVXVDE(ctx context.Context, l Locator, _ *Options) (Conn, error) {
	cfg, err := parseVXVDE(ctx, l)
	if err != nil {
		return nil, err
	}
	return newVXVDE(l, cfg)
}

// newVXVDE joins a network of vxvde or vxlan.
func newVXVDE(l Locator, cfg vxlan.Config) (Conn, error) {
	e, err := vxlan.Open(cfg)
	if err != nil {
		return nil, err
	}
	return newPlug(l.String(), e), nil
}

// nameTimeout bounds the look-up of a name in a locator.
const nameTimeout = 5 * time.Second

func parseVXVDE(ctx context.Context, l Locator) (vxlan.Config, error) {
	ctx, cancel := context.WithTimeout(ctx, nameTimeout)
	defer cancel()
	t, err := l.Slashed()
	if err != nil {
		return vxlan.Config{}, err
	}
	o := newVXVDEOptions(vxvdePort)
	var grp, vni bool
	var gid int
	allowed := o.allowed(ctx)
	allowed["vni"] = func(v string, _ bool) error {
		id, err := lookupGID(ctx, v)
		o.VNI, vni = uint32(id), true
		return err
	}
	allowed["grp"] = func(v string, _ bool) (err error) {
		gid, err = lookupGID(ctx, v)
		grp = true
		return err
	}
	if err := t.Options(allowed); err != nil {
		return vxlan.Config{}, err
	}
	if grp && !vni {
		o.VNI = uint32(gid)
	}
	addr, err := o.findGroup(ctx, t.Addr)
	if err != nil {
		return vxlan.Config{}, err
	}
	if grp {
		addr = withGID(addr, gid)
	}
	o.Group = netip.AddrPortFrom(addr, o.port)
	return o.config(addr)
}

// vxvdeOptions are what vxvde and vxlan have in common.
type vxvdeOptions struct {
	vxlan.Config
	port    uint16
	v4, v6  bool
	seconds int
}

func newVXVDEOptions(port uint16) *vxvdeOptions {
	return &vxvdeOptions{
		Config:  vxlan.Config{VNI: 1, TTL: 1, Stations: 1024},
		port:    port,
		seconds: 128,
	}
}

// vxvdeCommon describes the options of allowed, but for port.
var vxvdeCommon = []Option{
	{Name: "ttl", Value: "N", Default: "1", About: "routers that a packet to the group passes, and one"},
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
		"ttl":        numberOption(&o.TTL, 1, 255),
		"v4":         flagOption(&o.v4),
		"v6":         flagOption(&o.v6),
		"if":         textOption(&o.Interface),
		"bind":       addressOption(&o.Bind),
		"rcvbuf":     sizeOption(&o.RecvBuffer),
		"hashsize":   numberOption(&o.Stations, 0, 1<<20),
		"expiretime": numberOption(&o.seconds, 1, 1<<31-1),
	}
}

// network returns the families that a name may stand for.
func (o *vxvdeOptions) network() string {
	switch {
	case o.v4 && !o.v6:
		return "ip4"
	case o.v6 && !o.v4:
		return "ip6"
	}
	return "ip"
}

// findGroup returns the address of the group that a locator gives as host.
func (o *vxvdeOptions) findGroup(ctx context.Context, host string) (netip.Addr, error) {
	if host == "" {
		if host = "239.0.0.1"; o.v6 {
			host = "ff05:56de::1"
		}
	}
	addr, err := lookupMulticast(ctx, o.network(), host)
	if err != nil {
		return addr, err
	}
	if addr, err = o.takeZone(addr, "group"); err != nil {
		return addr, err
	}
	if addr.Is6() && o.Interface == "" && o.Bind.Zone() == "" && (addr.IsLinkLocalMulticast() || addr.IsInterfaceLocalMulticast()) {
		return addr, fmt.Errorf("group %q is a different one on each interface: say which with if=NAME", host)
	}
	return addr, nil
}

// config returns what the options say for a network with the address.
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
	o.Expire = time.Duration(o.seconds) * time.Second
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

// withGID returns the address with a gid as its last three bytes.
func withGID(a netip.Addr, gid int) netip.Addr {
	b := a.AsSlice()
	n := len(b)
	b[n-3], b[n-2], b[n-1] = byte(gid>>16), byte(gid>>8), byte(gid)
	a, _ = netip.AddrFromSlice(b)
	return a
}
