package vdeplug

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
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

// The packets of vxvde: a header as VXLAN has it (RFC 7348 section 5), and
// a frame. The header alone is the farewell of an endpoint.
const (
	vxvdeHeaderLen = 8
	vxvdeFlags     = 0x08 // the VNI is valid
	vxvdePort      = 14789
	maxVNI         = 1<<24 - 1
)

type vxvdeHeader = [vxvdeHeaderLen]byte

func makeVXVDEHeader(vni uint32) vxvdeHeader {
	return vxvdeHeader{vxvdeFlags, 0, 0, 0, byte(vni >> 16), byte(vni >> 8), byte(vni), 0}
}

// vxvdeKind says what a packet is.
type vxvdeKind int

const (
	vxvdeForeign vxvdeKind = iota // of another network, or no packet of vxvde
	vxvdeBye
	vxvdeShort // no Ethernet frame with a payload
	vxvdeFrame
)

// classify looks at the header of a packet of n bytes in all. All bytes count,
// the reserved ones too: as the other implementation does it.
func classify(own, got *vxvdeHeader, n int) vxvdeKind {
	switch {
	case n < vxvdeHeaderLen || *own != *got:
		return vxvdeForeign
	case n == vxvdeHeaderLen:
		return vxvdeBye
	case n <= vxvdeHeaderLen+ether.HeaderLen:
		return vxvdeShort
	}
	return vxvdeFrame
}

// vxvdeConfig is what a locator of vxvde or vxlan says.
type vxvdeConfig struct {
	vxlan   bool           // the packets are those of VXLAN, and all endpoints have the same port
	group   netip.AddrPort // invalid: there are remotes in its place
	remotes []netip.AddrPort
	vni     uint32
	ttl     int
	ifname  string     // interface of the group; empty: the routing table decides
	bind    netip.Addr // local address of what is sent; invalid: any
	rcvbuf  int        // bytes; 0: more than the kernel's default
	table   int        // stations that are remembered; 0: learn nothing
	expire  time.Duration
}

// to returns the group, or one of the remotes: the family and the port are those
// of all.
func (cfg *vxvdeConfig) to() netip.AddrPort {
	if len(cfg.remotes) > 0 {
		return cfg.remotes[0]
	}
	return cfg.group
}

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

// nameTimeout bounds the look-up of a name in a locator.
const nameTimeout = 5 * time.Second

func parseVXVDE(ctx context.Context, l Locator) (vxvdeConfig, error) {
	ctx, cancel := context.WithTimeout(ctx, nameTimeout)
	defer cancel()
	t, err := l.Slashed()
	if err != nil {
		return vxvdeConfig{}, err
	}
	o := newVXVDEOptions(vxvdePort)
	var grp, vni bool
	var gid int
	allowed := o.allowed(ctx)
	allowed["vni"] = func(v string, _ bool) error {
		id, err := lookupGID(ctx, v)
		o.vni, vni = uint32(id), true
		return err
	}
	allowed["grp"] = func(v string, _ bool) (err error) {
		gid, err = lookupGID(ctx, v)
		grp = true
		return err
	}
	if err := t.Options(allowed); err != nil {
		return vxvdeConfig{}, err
	}
	if grp && !vni {
		o.vni = uint32(gid)
	}
	addr, err := o.findGroup(ctx, t.Addr)
	if err != nil {
		return vxvdeConfig{}, err
	}
	if grp {
		addr = withGID(addr, gid)
	}
	o.group = netip.AddrPortFrom(addr, o.port)
	return o.config(addr)
}

// vxvdeOptions are what vxvde and vxlan have in common.
type vxvdeOptions struct {
	vxvdeConfig
	port    uint16
	v4, v6  bool
	seconds int
}

func newVXVDEOptions(port uint16) *vxvdeOptions {
	return &vxvdeOptions{
		vxvdeConfig: vxvdeConfig{vni: 1, ttl: 1, table: 1024},
		port:        port,
		seconds:     128,
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
		"ttl":        numberOption(&o.ttl, 1, 255),
		"v4":         flagOption(&o.v4),
		"v6":         flagOption(&o.v6),
		"if":         textOption(&o.ifname),
		"bind":       addressOption(&o.bind),
		"rcvbuf":     sizeOption(&o.rcvbuf),
		"hashsize":   numberOption(&o.table, 0, 1<<20),
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
	if addr.Is6() && o.ifname == "" && o.bind.Zone() == "" && (addr.IsLinkLocalMulticast() || addr.IsInterfaceLocalMulticast()) {
		return addr, fmt.Errorf("group %q is a different one on each interface: say which with if=NAME", host)
	}
	return addr, nil
}

// config returns what the options say for a network with the address.
func (o *vxvdeOptions) config(addr netip.Addr) (_ vxvdeConfig, err error) {
	if o.bind, err = o.takeZone(o.bind, "bind"); err != nil {
		return vxvdeConfig{}, err
	}
	if o.bind.IsValid() && o.bind.Is4() != addr.Is4() {
		what := "group"
		if !o.group.IsValid() {
			what = "remote"
		}
		return vxvdeConfig{}, fmt.Errorf("option \"bind=%s\" and the %s %s are of different families", o.bind, what, addr)
	}
	o.expire = time.Duration(o.seconds) * time.Second
	return o.vxvdeConfig, nil
}

// takeZone moves the zone of an address to the interface of the network.
func (cfg *vxvdeConfig) takeZone(a netip.Addr, what string) (netip.Addr, error) {
	zone := a.Zone()
	switch {
	case zone == "":
		return a, nil
	case cfg.ifname != "" && cfg.ifname != zone:
		return a, fmt.Errorf("%s %s is on another interface than the option \"if=%s\" or the group says", what, a, cfg.ifname)
	}
	cfg.ifname = zone
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
