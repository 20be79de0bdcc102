package wireguard

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vdestack/vdestack"
)

// Config describes a tunnel. [ParseConfig] makes one from a wg-quick file. PrivateKey is needed.
type Config struct {
	// Name of the interface. Empty means wg0.
	Name string
	// PrivateKey is this end's.
	PrivateKey Key
	// ListenPort is the UDP port of the encrypted socket. 0 means any that is free.
	ListenPort uint16
	// Addrs are the addresses in the tunnel, Address in the file.
	Addrs []netip.Prefix
	// DNS resolves the stack's names while the tunnel is up. [Up] leaves the stack's own if
	// there are neither Servers nor Search.
	DNS vdestack.DNS
	// MTU of the interface, in bytes. 0 means 1420 or, if the way to an endpoint is known to
	// carry less, 80 less than that: so much larger is a packet outside. What is too
	// large there is sent in fragments. The least is 1280 with IPv6 in Addrs or AllowedIPs, else
	// 576.
	MTU   int
	Peers []Peer

	// Underlay is the stack that has the encrypted socket and resolves the names of
	// endpoints. Nil means the host.
	Underlay *vdestack.Stack
	// Logger receives what WireGuard and the tunnel report, never keys: errors at most once a
	// minute each, and on the level Debug all that happens. Its handler must not call the
	// tunnel, which waits for it. Nil discards it.
	Logger *slog.Logger
}

// A Peer is another end of a tunnel.
type Peer struct {
	PublicKey    PublicKey // which must be another for each
	PresharedKey Key       // none if it is zero
	// AllowedIPs are the networks behind the peer: where its packets may come from, and what
	// is sent to it. 0.0.0.0/0 and ::/0 are everything. If two peers have one, the last gets
	// it.
	AllowedIPs []netip.Prefix
	// Endpoint is where the peer is, host:port, until it sends from elsewhere. Empty waits for
	// the peer. A name is looked up at the beginning, and again while the peer is silent: of several
	// addresses the first is taken by RFC 6724, and none that is unspecified or multicast.
	Endpoint string
	// PersistentKeepalive is how long the tunnel may be quiet before a packet tells the peer,
	// and routers between, that it is there; in whole seconds, 18 hours at most. 0 is for ever.
	PersistentKeepalive time.Duration
}

const (
	defaultName = "wg0"
	overhead    = 40 + 8 + 32 // IPv6, UDP, and WireGuard's header and tag
	defaultMTU  = 1500 - overhead
	maxMTU      = 65535 - overhead
)

// minMTU returns the least MTU for the addresses and routes: RFC 791, RFC 8200.
func (c Config) minMTU() int {
	is6 := func(p netip.Prefix) bool { return p.Addr().Is6() }
	if slices.ContainsFunc(c.Addrs, is6) || slices.ContainsFunc(c.Peers, func(p Peer) bool { return slices.ContainsFunc(p.AllowedIPs, is6) }) {
		return 1280
	}
	return 576
}

// complete returns the configuration with its defaults, or says what is wrong with it.
func (c Config) complete() (Config, error) {
	if c.Name == "" {
		c.Name = defaultName
	}
	for _, p := range c.Addrs {
		if !p.IsValid() {
			return c, errors.New("an address in Addrs is not valid")
		}
	}
	low := c.minMTU()
	switch {
	case c.PrivateKey.IsZero():
		return c, errors.New("there is no PrivateKey")
	case c.MTU != 0 && (c.MTU < low || c.MTU > maxMTU):
		return c, fmt.Errorf("the MTU is %d: want %d to %d", c.MTU, low, maxMTU)
	}
	c.Peers = slices.Clone(c.Peers)
	seen := make(map[PublicKey]bool)
	for i := range c.Peers {
		p := &c.Peers[i]
		if err := p.complete(c.PrivateKey.Public()); err != nil {
			return c, fmt.Errorf("%s (peer %d): %w", p.PublicKey.short(), i+1, err)
		}
		if seen[p.PublicKey] {
			return c, fmt.Errorf("%s (peer %d): an earlier peer has the same PublicKey", p.PublicKey.short(), i+1)
		}
		seen[p.PublicKey] = true
	}
	return c, nil
}

// complete checks a peer, and writes its values in the usual way.
func (p *Peer) complete(own PublicKey) error {
	switch k := p.PersistentKeepalive; {
	case p.PublicKey == PublicKey{}:
		return errors.New("there is no PublicKey")
	case p.PublicKey == own:
		return errors.New("the PublicKey is that of this end's PrivateKey")
	case k < 0 || k > 65535*time.Second || k%time.Second != 0:
		return fmt.Errorf("a PersistentKeepalive of %v: want whole seconds, 0 to 65535", k)
	}
	p.AllowedIPs = slices.Clone(p.AllowedIPs)
	for i, a := range p.AllowedIPs {
		if !a.IsValid() {
			return errors.New("a network in AllowedIPs is not valid")
		}
		p.AllowedIPs[i] = a.Masked()
	}
	if p.Endpoint == "" {
		return nil
	}
	host, port, err := splitEndpoint(p.Endpoint)
	if err != nil {
		return fmt.Errorf("the Endpoint: %w", err)
	}
	p.Endpoint = net.JoinHostPort(host, strconv.Itoa(int(port)))
	return nil
}

var errEndpoint = errors.New("want HOST:PORT, with an IPv6 address in brackets")

// splitEndpoint splits host:port. As in wg, brackets may be left out.
func splitEndpoint(text string) (host string, port uint16, err error) {
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return "", 0, fmt.Errorf("%s has no port: %w", quote(text), errEndpoint)
	}
	host = text[:i]
	n, err := strconv.ParseUint(text[i+1:], 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("the port of %s is none: %w", quote(text), errEndpoint)
	}
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
		if a, err := netip.ParseAddr(host); err != nil || !a.Is6() {
			return "", 0, fmt.Errorf("there is no IPv6 address in the brackets of %s: %w", quote(text), errEndpoint)
		}
	} else if _, err := netip.ParseAddr(host); err != nil && !isName(host) {
		return "", 0, fmt.Errorf("the host of %s is neither an address nor a name: %w", quote(text), errEndpoint)
	}
	if a, err := netip.ParseAddr(host); err == nil && len(a.Zone()) > maxZone {
		return "", 0, fmt.Errorf("the zone of %s is no interface: its name has %d characters at most", quote(text), maxZone)
	}
	return host, uint16(n), nil
}

// maxZone is IFNAMSIZ of linux/if.h, less the zero at the end.
const maxZone = 15

// maxLabel is how long the parts of a name are (RFC 1035, section 2.3.4). A key in hexadecimal
// is longer: it must reach no name server.
const maxLabel = 63

// isName reports whether a text may be a name of a host or a domain.
func isName(text string) bool {
	label := 0
	for _, c := range text {
		switch {
		case c == '.':
			label = 0
			continue
		case '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || c == '-' || c == '_':
			label++
		default:
			return false
		}
		if label > maxLabel {
			return false
		}
	}
	return text != "" && len(text) <= 254
}
