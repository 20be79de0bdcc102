package serve

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vdestack/vdestack/internal/limit"
)

// Config says what is served. The zero Config serves what the interface has addresses for.
type Config struct {
	// Interface is the one whose network is served. Empty means vde0. It needs an address.
	Interface string
	// Domain is where the names of clients are. Empty means "internal", which no public
	// name is below.
	Domain string
	// Search is the search list that clients are told. Nil means Domain.
	Search []string
	// Nameservers are told to clients. Nil means this server, unless DNS.Off is set.
	Nameservers []netip.Addr
	// MTU is told to clients, in bytes; by router advertisements from 1280 on. 0 tells none.
	MTU int
	// Hosts are names that do not come from clients, which cannot have them: below Domain
	// unless they have a dot.
	Hosts map[string][]netip.Addr

	DHCP4 DHCP4
	DHCP6 DHCP6
	RA    RA
	DNS   DNS

	// Logger receives what happens, a few lines a client; in an attack 100 at once and then
	// one a second, with how many were left out. Nil discards them.
	Logger *slog.Logger
}

// DHCP4 is what DHCPv4 gives.
type DHCP4 struct {
	Off bool
	// Pools are the addresses for clients without a reservation, in one network of the
	// interface. Nil means those of its first IPv4 network, if it has one. Those of the interface, of
	// Routers, Hosts and Reservations are left out.
	Pools []Range
	// Reservations are for certain clients. Theirs need not be in Pools.
	Reservations []Reservation
	// LeaseTime of addresses, at least 10 s. 0 means an hour.
	LeaseTime time.Duration
	// Routers are default routers. Nil means the interface's address. An empty list that is
	// not nil tells none.
	Routers []netip.Addr
	// Routes are classless static routes. Clients that know them get the default route
	// there too.
	Routes []Route
	// NTP are servers of time.
	NTP []netip.Addr
}

// A Range has all addresses from First to Last.
type Range struct{ First, Last netip.Addr }

// A Route leads to a network by way of a gateway.
type Route struct {
	Dst     netip.Prefix
	Gateway netip.Addr
}

// A Reservation is for the client with the MAC, or with the ClientID; without both for that
// which says that Name is its own. None of these is a secret.
type Reservation struct {
	MAC net.HardwareAddr
	// ClientID is option 61 with its type, which is often 1 and the hardware address.
	ClientID []byte
	// Name is that of the client, below Domain. Empty means what it says itself.
	Name string
	// Addr is its address. The zero Addr means one of Pools.
	Addr netip.Addr
}

// DNS answers questions about names, at all addresses of the interface but link-local ones.
type DNS struct {
	Off bool
	// Upstream are asked, one after the other, for names that are not the lab's. Without
	// them, no other names exist.
	Upstream []netip.AddrPort
}

const (
	defaultInterface = "vde0"
	defaultDomain    = "internal"
	defaultLease     = time.Hour
	minLease         = 10 * time.Second
	maxLease         = (math.MaxUint32 - 1) * time.Second // more is a lease without end
)

// settings are a Config that was checked, with what was left out.
type settings struct {
	Config
	domain string
	hosts  map[string][]netip.Addr // by canonical names
	log    *slog.Logger
}

// check checks what does not depend on the stack, and fills in what was left out.
func (c Config) check() (*settings, error) {
	s := &settings{Config: c, hosts: make(map[string][]netip.Addr), log: c.Logger}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.log = limit.Log(s.log)
	s.Interface = cmp.Or(s.Interface, defaultInterface)
	var ok bool
	if s.domain, ok = canonical(cmp.Or(s.Domain, defaultDomain)); !ok {
		return nil, fmt.Errorf("field Domain: %q is not a name of DNS", s.Domain)
	}
	s.Nameservers, s.Search = slices.Clone(s.Nameservers), slices.Clone(s.Search)
	if s.Search == nil {
		s.Search = []string{s.domain}
	}
	for i, d := range s.Search {
		if s.Search[i], ok = canonical(d); !ok {
			return nil, fmt.Errorf("field Search: %q is not a name of DNS", d)
		}
	}
	if c.MTU != 0 && (c.MTU < 68 || c.MTU > math.MaxUint16) {
		return nil, fmt.Errorf("field MTU: %d: want 68 to 65535", c.MTU)
	}
	for _, a := range s.Nameservers {
		if !isHost(a) {
			return nil, fmt.Errorf("field Nameservers: %v is not the address of a host", a)
		}
	}
	for name, addrs := range c.Hosts {
		full, ok := s.full(name)
		if !ok {
			return nil, fmt.Errorf("field Hosts: %q is not a name of DNS", name)
		}
		if _, ok := s.hosts[full]; ok {
			return nil, fmt.Errorf("field Hosts: two names for %s", full)
		}
		for _, a := range addrs {
			if !a.IsValid() || a.Zone() != "" {
				return nil, fmt.Errorf("field Hosts: address %v of %s: want one without a zone", a, name)
			}
			s.hosts[full] = append(s.hosts[full], a.Unmap())
		}
	}
	s.DNS.Upstream = slices.Clone(s.DNS.Upstream)
	for i, a := range s.DNS.Upstream {
		if !isHost(a.Addr().WithZone("")) {
			return nil, fmt.Errorf("DNS.Upstream: %v is not the address of a host", a)
		}
		if a.Port() == 0 {
			s.DNS.Upstream[i] = netip.AddrPortFrom(a.Addr(), dnsPort)
		}
	}
	if err := errors.Join(s.RA.check(), s.DHCP6.check()); err != nil {
		return nil, err
	}
	return s, s.DHCP4.check(s)
}

func (d *DHCP4) check(s *settings) error {
	if d.LeaseTime = cmp.Or(d.LeaseTime, defaultLease); d.LeaseTime < minLease || d.LeaseTime > maxLease {
		return fmt.Errorf("DHCP4.LeaseTime %v: want at least %v and at most 136 years", d.LeaseTime, minLease)
	}
	for _, list := range []struct {
		name  string
		addrs []netip.Addr
	}{{"Routers", d.Routers}, {"NTP", d.NTP}} {
		for _, a := range list.addrs {
			if !a.Is4() || !isHost(a) {
				return fmt.Errorf("DHCP4.%s: %v is not the IPv4 address of a host", list.name, a)
			}
		}
	}
	for _, r := range d.Routes {
		if !r.Dst.Addr().Is4() || !r.Gateway.Is4() {
			return fmt.Errorf("DHCP4.Routes: %v by way of %v: want IPv4", r.Dst, r.Gateway)
		}
	}
	d.Pools, d.Reservations = slices.Clone(d.Pools), slices.Clone(d.Reservations)
	d.Routers, d.Routes, d.NTP = slices.Clone(d.Routers), slices.Clone(d.Routes), slices.Clone(d.NTP)
	macs, ids, names, addrs := make(map[string]bool), make(map[string]bool), make(map[string]bool), make(map[netip.Addr]bool)
	for i := range d.Reservations {
		r := &d.Reservations[i]
		if r.MAC == nil && r.ClientID == nil && r.Name == "" {
			return errors.New("DHCP4.Reservations: one is for nobody: set MAC, ClientID or Name")
		}
		if r.MAC != nil && !isMAC(r.MAC) {
			return fmt.Errorf("DHCP4.Reservations: %v is not the Ethernet address of a client", r.MAC)
		}
		if r.Name != "" {
			full, ok := s.below(r.Name)
			if !ok {
				return fmt.Errorf("DHCP4.Reservations: %q is not a name below %s", r.Name, s.domain)
			}
			r.Name = full
		}
		if r.Name != "" && (names[r.Name] || s.hosts[r.Name] != nil) || macs[string(r.MAC)] || ids[string(r.ClientID)] || addrs[r.Addr] {
			return fmt.Errorf("DHCP4.Reservations: MAC %v, ClientID %x, Name %q or Addr %v is in two of them, or in Hosts", r.MAC, r.ClientID, r.Name, r.Addr)
		}
		macs[string(r.MAC)], ids[string(r.ClientID)], names[r.Name], addrs[r.Addr] = r.MAC != nil, r.ClientID != nil, true, r.Addr.IsValid()
	}
	return nil
}

// network finds the network of the interface that is served, and checks what has to be in
// it. It returns the server's address there.
func (d *DHCP4) network(own []netip.Prefix) (netip.Prefix, error) {
	var network netip.Prefix
	for _, p := range own {
		if p.Addr().Is4() && p.Bits() < 31 && (len(d.Pools) == 0 || p.Contains(d.Pools[0].First)) {
			network = p
			break
		}
	}
	if !network.IsValid() {
		if len(d.Pools) > 0 {
			return network, fmt.Errorf("DHCP4.Pools: %v is in no network of the interface, which has %v", d.Pools[0].First, own)
		}
		return network, fmt.Errorf("the interface has no IPv4 network, only %v: give it an address, or set DHCP4.Off", own)
	}
	for _, r := range d.Pools {
		if !network.Contains(r.First) || !network.Contains(r.Last) || r.Last.Less(r.First) {
			return network, fmt.Errorf("DHCP4.Pools: %v to %v is not a range in %v", r.First, r.Last, network.Masked())
		}
	}
	for _, r := range d.Reservations {
		if r.Addr.IsValid() && (!usable(network, r.Addr) || containsAddr(own, r.Addr)) {
			return network, fmt.Errorf("DHCP4.Reservations: %v is not for a client in %v", r.Addr, network.Masked())
		}
	}
	if len(d.Pools) == 0 {
		d.Pools = []Range{{network.Masked().Addr().Next(), broadcastOf(network)}}
	}
	if d.Routers == nil {
		d.Routers = []netip.Addr{network.Addr()}
	}
	return network, nil
}

func containsAddr(own []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(own, func(p netip.Prefix) bool { return p.Addr() == a })
}

// usable reports whether an address in a network can be that of a host.
func usable(network netip.Prefix, a netip.Addr) bool {
	return network.Contains(a) && a != network.Masked().Addr() && a != broadcastOf(network)
}

// broadcastOf returns the last address of an IPv4 network.
func broadcastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

// isHost reports whether an address can be that of a host which others reach.
func isHost(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && !a.Is4In6() && a.Zone() == "" &&
		(a.Is6() || a.As4()[0] != 0 && a.As4()[0] < 224)
}

// isMAC reports whether an Ethernet address can be that of an interface.
func isMAC(mac net.HardwareAddr) bool {
	return len(mac) == 6 && mac[0]&1 == 0 && !bytes.Equal(mac, make([]byte, 6))
}

// full returns the canonical form of a name of Hosts.
func (s *settings) full(name string) (string, bool) {
	if !strings.Contains(name, ".") {
		name += "." + s.domain
	}
	return canonical(name)
}

// below returns the canonical form of a name that a client says, which is below the domain, by
// at most maxLabels.
func (s *settings) below(name string) (string, bool) {
	full, ok := s.full(name)
	own, below := strings.CutSuffix(full, "."+s.domain)
	return full, ok && below && strings.Count(own, ".") < maxLabels
}

// canonical returns a name in lower case without a trailing dot, and false for what is not
// the name of a host: letters, digits, hyphens within labels, and underscores.
func canonical(name string) (string, bool) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if len(name) > 253 {
		return "", false
	}
	for label := range strings.SplitSeq(name, ".") {
		if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return "", false
		}
	}
	return name, !strings.ContainsFunc(name, func(r rune) bool {
		return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.')
	})
}

// notNames are what programs look for in every domain, and trust: a proxy's configuration, a
// tunnel's end, the settings of a mail program with its password.
var notNames = []string{"wpad", "isatap", "autodiscover", "autoconfig", "localhost"}

// mayName reports whether a client may have a name, as far as other clients do not matter.
func (s *settings) mayName(name string, own *Reservation) bool {
	if own != nil && own.Name == name {
		return true
	}
	if _, ok := s.hosts[name]; ok {
		return false
	}
	first, _, _ := strings.Cut(name, ".")
	return !slices.Contains(notNames, first) &&
		!slices.ContainsFunc(s.DHCP4.Reservations, func(r Reservation) bool { return r.Name == name })
}
