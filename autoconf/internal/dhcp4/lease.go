package dhcp4

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vdestack/vdestack/autoconf/internal/source"
)

const (
	// infinite is a lease that does not end.
	infinite = math.MaxUint32 * time.Second
	// defaultTime is that of a lease of a server that does not say it, though it must.
	defaultTime = time.Hour
	// minTime and minRenew bound how often a server can have the client renew.
	minTime  = 10 * time.Second
	minRenew = 5 * time.Second
	// minMTU is the smallest that every host has to reassemble.
	minMTU = 576
	// maxSearch bounds the bytes of a search list: the time to read it grows with their cube.
	maxSearch = 512
)

// A lease is what a server has offered or acknowledged.
type lease struct {
	addr    netip.Prefix
	server  netip.Addr
	options source.Lease // without times

	t1, t2, time time.Duration // 0: it does not end

	renew, rebind, expires time.Time // from the time of the request on; zero: never
}

// parseOffer reads what matters of an OFFER. A malformed option is as if it was absent.
func parseOffer(m *dhcpv4.DHCPv4, server netip.Addr) (l lease, err error) {
	l.server = server
	if l.addr, err = parseAddr(m); err != nil {
		return l, err
	}
	if l.t1, l.t2, l.time, err = parseTimes(m); err != nil {
		return l, err
	}
	l.options = source.Lease{Routes: parseRoutes(m, l.addr), Server: server}
	return l, nil
}

// parseLease reads an ACK: an OFFER with more options. Only the first ACK to a REQUEST is
// read, for a search list can take milliseconds.
func parseLease(m *dhcpv4.DHCPv4, server netip.Addr) (lease, error) {
	l, err := parseOffer(m, server)
	if err != nil {
		return l, err
	}
	l.options.NTP = hosts(m.NTPServers())
	l.options.CaptivePortal = source.ParsePortal(string(m.Options.Get(optionCaptivePortal)))
	for _, a := range hosts(m.DNS()) {
		l.options.DNS = append(l.options.DNS, source.Server{Addr: a})
	}
	for _, name := range parseSearch(m) {
		l.options.Search = append(l.options.Search, source.Domain{Name: name})
	}
	if mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, m.Options); err == nil && mtu >= minMTU {
		l.options.MTU = int(mtu)
	}
	return l, nil
}

func parseAddr(m *dhcpv4.DHCPv4) (netip.Prefix, error) {
	a, _ := netip.AddrFromSlice(m.YourIPAddr)
	if !isHost(a) {
		return netip.Prefix{}, fmt.Errorf("%v is not the address of a host", a)
	}
	bits, _ := m.SubnetMask().Size() // 0 if it is not one
	if bits == 0 {
		bits, _ = net.IP(m.YourIPAddr).DefaultMask().Size() // that of the class
	}
	p := netip.PrefixFrom(a, bits)
	first := p.Masked().Addr().As4()
	last := first
	for i, b := range net.CIDRMask(bits, 32) {
		last[i] |= ^b
	}
	if bits < 31 && (a.As4() == first || a.As4() == last) {
		return netip.Prefix{}, fmt.Errorf("%v is not the address of a host", p)
	}
	return p, nil
}

// isHost reports whether an address can be that of a host on another link.
func isHost(a netip.Addr) bool {
	return a.Is4() && a.As4()[0] != 0 && !a.IsLoopback() && a.As4()[0] < 224
}

// hosts returns the addresses of a list that can be those of hosts.
func hosts(all []net.IP) []netip.Addr { return source.Hosts(all, isHost) }

// parseTimes returns T1, T2 and the time of the lease, and zeros if it does not end.
func parseTimes(m *dhcpv4.DHCPv4) (t1, t2, time time.Duration, err error) {
	time = m.IPAddressLeaseTime(defaultTime)
	switch {
	case time == infinite:
		return 0, 0, 0, nil
	case time < minTime:
		return 0, 0, 0, fmt.Errorf("a lease of %v is too short", time)
	}
	// Section 4.4.5 has the defaults. A multiple of 136 years would overflow.
	if t2 = m.IPAddressRebindingTime(0); t2 < 2*minRenew || t2 >= time {
		t2 = time - time/8
	}
	if t1 = m.IPAddressRenewalTime(0); t1 < minRenew || t1 >= t2 {
		t1 = min(time/2, t2/7*4)
	}
	return t1, t2, time, nil
}

// parseRoutes returns the classless routes or, without any, those of the routers. Those on
// the link come first, as the kernel needs them. It wants a route to each gateway: some
// clouds give addresses of 32 bits with a router outside.
func parseRoutes(m *dhcpv4.DHCPv4, addr netip.Prefix) []source.Route {
	var direct, via []source.Route
	add := func(dst netip.Prefix, gw netip.Addr) {
		r := source.Route{Dst: dst, Gateway: gw}
		switch {
		case len(direct)+len(via) >= source.MaxItems, slices.Contains(direct, r), slices.Contains(via, r):
		case gw.IsValid():
			via = append(via, r)
		default:
			direct = append(direct, r)
		}
	}
	for _, r := range m.ClasslessStaticRoute() {
		bits, _ := r.Dest.Mask.Size()
		a, _ := netip.AddrFromSlice(r.Dest.IP)
		dst := netip.PrefixFrom(a, bits).Masked()
		gw, _ := netip.AddrFromSlice(r.Router)
		switch {
		case bits > 0 && !isHost(dst.Addr()) && dst.Addr() != netip.IPv4Unspecified():
		case gw == netip.IPv4Unspecified():
			add(dst, netip.Addr{})
		case isHost(gw) && gw != addr.Addr():
			add(dst, gw)
		}
	}
	if len(direct)+len(via) == 0 {
		for _, gw := range hosts(m.Router()) {
			if gw != addr.Addr() {
				add(netip.PrefixFrom(netip.IPv4Unspecified(), 0), gw)
			}
		}
	}
	for _, r := range slices.Clone(via) {
		near := func(d source.Route) bool { return d.Dst.Contains(r.Gateway) }
		if !addr.Contains(r.Gateway) && !slices.ContainsFunc(direct, near) {
			direct = append(direct, source.Route{Dst: netip.PrefixFrom(r.Gateway, 32)})
		}
	}
	all := append(direct, via...)
	return all[:min(len(all), source.MaxItems)]
}

// parseSearch returns the search list or, without one, the domain.
func parseSearch(m *dhcpv4.DHCPv4) (list []string) {
	var names []string
	if len(m.Options.Get(dhcpv4.OptionDNSDomainSearchList)) <= maxSearch {
		if labels := m.DomainSearch(); labels != nil {
			names = labels.Labels
		}
	}
	if len(names) == 0 {
		// Some servers have a list of domains here.
		names = strings.Fields(strings.TrimRight(m.DomainName(), "\x00"))
	}
	for _, name := range names {
		name = strings.TrimSuffix(name, ".")
		if source.IsName(name) && !slices.Contains(list, name) && len(list) < source.MaxItems {
			list = append(list, name)
		}
	}
	return list
}

// start sets the instants of a lease that was asked for at a time. T1 is up to a 32nd
// earlier, so that clients that began together do not stay together.
func (l *lease) start(asked time.Time) {
	if l.time == 0 {
		return
	}
	l.renew = asked.Add(l.t1 - rand.N(l.t1/32))
	l.rebind = asked.Add(l.t2)
	l.expires = asked.Add(l.time)
}

// source returns the lease for the sink.
func (l *lease) source() source.Lease {
	s := l.options
	s.Addrs = []source.Addr{{Prefix: l.addr, Preferred: l.expires, Valid: l.expires}}
	s.Routes, s.DNS, s.Search = slices.Clone(s.Routes), slices.Clone(s.DNS), slices.Clone(s.Search)
	for i := range s.Routes {
		s.Routes[i].Expires = l.expires
	}
	for i := range s.DNS {
		s.DNS[i].Expires = l.expires
	}
	for i := range s.Search {
		s.Search[i].Expires = l.expires
	}
	s.Renew, s.Rebind, s.Expires = l.renew, l.rebind, l.expires
	return s
}

// A storedLease is what is kept of a lease: enough for INIT-REBOOT, where the server says
// all the rest again.
type storedLease struct {
	HardwareAddr string     `json:"hardware_address"`
	Address      netip.Addr `json:"address"`
	// Expires is of the wall clock; the zero Time means never.
	Expires time.Time `json:"expires,omitzero"`
}

// stored encodes a lease with the time that is left of it. An infinite one ignores left,
// unless it was given back: then left is 0.
func (l *lease) stored(mac net.HardwareAddr, left time.Duration) json.RawMessage {
	s := storedLease{HardwareAddr: mac.String(), Address: l.addr.Addr()}
	if !l.expires.IsZero() || left == 0 {
		s.Expires = time.Now().Round(0).Add(left).UTC().Truncate(time.Second)
	}
	b, err := json.Marshal(s)
	if err != nil {
		return nil // a year of five digits
	}
	return b
}

// loadStored returns the address that was stored, and whether its lease is valid. The
// address of a lease that has ended can still be asked for.
func loadStored(b json.RawMessage, mac net.HardwareAddr) (addr netip.Addr, valid bool) {
	var s storedLease
	if json.Unmarshal(b, &s) != nil || s.HardwareAddr != mac.String() || !isHost(s.Address) {
		return netip.Addr{}, false
	}
	return s.Address, s.Expires.IsZero() || time.Now().Before(s.Expires)
}
