package rd

import (
	"encoding/binary"
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/vdestack/vdestack/autoconf/internal/source"
)

// Options of advertisements.
const (
	optionPrefix = 3  // RFC 4861, section 4.6.2
	optionMTU    = 5  // RFC 4861, section 4.6.4
	optionRoute  = 24 // RFC 4191, section 2.3
	optionRDNSS  = 25 // RFC 8106, section 5.1
	optionDNSSL  = 31 // RFC 8106, section 5.2
	optionPortal = 37 // RFC 8910, section 2.3
)

const (
	sizeofAdvertisement = 16 // without options
	minMTU              = 1280
)

// An advertisement is what a router says. A lifetime of 0 takes something back,
// [ndp.Infinity] is without end. Each list is bounded by source.MaxItems.
type advertisement struct {
	router         netip.Addr
	managed, other bool // DHCPv6 has addresses, or other configuration
	lifetime       time.Duration
	preference     int
	mtu            int    // 0 if it is not said
	portal         string // empty if it is not said, or there is none
	prefixes       []prefixOption
	routes         []routeOption
	dns            []expiring[netip.Addr]
	search         []expiring[string]
}

type prefixOption struct {
	prefix             netip.Prefix
	onLink, autonomous bool
	preferred, valid   time.Duration
}

type routeOption struct {
	dst        netip.Prefix
	preference int
	lifetime   time.Duration
}

type expiring[T any] struct {
	v        T
	lifetime time.Duration
}

// parse checks a packet as RFC 4861, section 6.1.2, says. The kernel has checked the
// checksum, the port the type. An option with malformed contents is as if it was absent: the
// message is valid. So the codec, which refuses the message then, gets one option at a time.
func parse(p source.Packet) (a advertisement, ok bool) {
	b := p.Data
	a.router = p.Peer.Addr()
	if p.HopLimit != 255 || !isHost(a.router) || !a.router.IsLinkLocalUnicast() ||
		len(b) < sizeofAdvertisement || b[0] != typeAdvertisement || b[1] != 0 {
		return a, false
	}
	header := b[:sizeofAdvertisement:sizeofAdvertisement]
	m, err := ndp.ParseMessage(header)
	if err != nil {
		return a, false
	}
	ra := m.(*ndp.RouterAdvertisement)
	a.managed, a.other, a.lifetime = ra.ManagedConfiguration, ra.OtherConfiguration, ra.RouterLifetime
	a.preference = preference(ra.RouterSelectionPreference)
	for b = b[sizeofAdvertisement:]; len(b) > 0; {
		if len(b) < 8 || b[1] == 0 || int(b[1])*8 > len(b) {
			return a, false
		}
		o := b[:int(b[1])*8]
		b = b[len(o):]
		switch o[0] {
		case optionPrefix, optionMTU, optionRDNSS:
			if m, err := ndp.ParseMessage(append(header, o...)); err == nil {
				a.option(m.(*ndp.RouterAdvertisement).Options[0])
			}
		case optionRoute:
			a.routeOption(o)
		case optionDNSSL:
			a.searchOption(o)
		case optionPortal:
			// The codec refuses options of 256 bytes and more.
			if s := source.ParsePortal(string(o[2:])); s != "" {
				a.portal = s
			}
		}
	}
	return a, true
}

// preference returns -1, 0 or 1.
func preference(p ndp.Preference) int {
	switch p {
	case ndp.High:
		return 1
	case ndp.Low:
		return -1
	}
	return 0
}

// option takes an option that the codec knows.
func (a *advertisement) option(o ndp.Option) {
	switch o := o.(type) {
	case *ndp.MTU:
		if o.MTU >= minMTU && o.MTU <= math.MaxUint16 {
			a.mtu = int(o.MTU)
		}
	case *ndp.PrefixInformation:
		p := netip.PrefixFrom(o.Prefix, int(o.PrefixLength))
		if p.IsValid() && p.Bits() > 0 && isHost(p.Addr()) && !p.Addr().IsLinkLocalUnicast() {
			appendItem(&a.prefixes, prefixOption{p, o.OnLink, o.AutonomousAddressConfiguration, o.PreferredLifetime, o.ValidLifetime})
		}
	case *ndp.RecursiveDNSServer:
		for _, s := range o.Servers {
			if isHost(s) {
				appendItem(&a.dns, expiring[netip.Addr]{s, o.Lifetime})
			}
		}
	}
}

// isHost reports whether an address can be that of one host on a network.
func isHost(a netip.Addr) bool {
	return a.Is6() && !a.Is4In6() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast()
}

func appendItem[T any](all *[]T, v T) {
	if len(*all) < source.MaxItems {
		*all = append(*all, v)
	}
}

// routeOption takes a route. The codec leaves out the last bits of prefixes whose length is
// not a multiple of eight.
func (a *advertisement) routeOption(o []byte) {
	bits, flags := int(o[2]), o[3]
	var addr [16]byte
	copy(addr[:], o[8:])
	if bits > 128 || len(o) < 8+(bits+63)/64*8 {
		return
	}
	prf := ndp.Preference(flags >> 3 & 3)
	dst := netip.PrefixFrom(netip.AddrFrom16(addr), bits).Masked()
	if prf == 2 || bits > 0 && (dst.Addr().Is4In6() || dst.Addr().IsLoopback() || dst.Addr().IsMulticast() || dst.Addr().IsLinkLocalUnicast()) {
		return // 2 is reserved: such an option is ignored
	}
	appendItem(&a.routes, routeOption{dst, preference(prf), lifetime(o)})
}

// lifetime returns that of an option which has it in its bytes 4 to 7.
func lifetime(o []byte) time.Duration {
	return time.Duration(binary.BigEndian.Uint32(o[4:])) * time.Second
}

// searchOption takes a search list: names of RFC 1035 without compression, then zeros. The
// codec returns names in Unicode.
func (a *advertisement) searchOption(o []byte) {
	var names, labels []string
	for b := o[8:]; len(b) > 0 && (b[0] != 0 || len(labels) > 0); {
		n := int(b[0])
		if n > 63 || n >= len(b) {
			return
		}
		label := string(b[1 : 1+n])
		b = b[1+n:]
		switch {
		case strings.Contains(label, "."):
			return
		case n > 0:
			labels = append(labels, label)
			continue
		}
		if name := strings.Join(labels, "."); source.IsName(name) {
			names = append(names, name)
		}
		labels = nil
	}
	if len(labels) > 0 {
		return // the last name has no end
	}
	for _, name := range names {
		appendItem(&a.search, expiring[string]{name, lifetime(o)})
	}
}
