package autoconf

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
)

// Config says how one interface of a stack is configured. [Parse] makes it from text.
type Config struct {
	// VNL is the locator of the network of a stack that is to be made, by [Open].
	VNL string
	// Iface is the name of the interface, or Index its number. Empty and 0 mean vde0.
	Iface string
	Index int
	// FQDN is the name of the interface: for the hash addresses, and for DHCP to tell the
	// server.
	FQDN string
	// MAC is the hardware address that Eth sets. Nil means that of the Hash of FQDN or,
	// without one, that the interface keeps its own.
	MAC net.HardwareAddr

	Eth   bool // set the hardware address, and set the interface up
	DHCP4 bool
	DHCP6 bool
	RD    bool // follow router advertisements
	// SLAAC is how RD makes an address in each prefix that routers announce.
	SLAAC SLAAC
	// Temporary has SLAAC make temporary addresses besides, RFC 8981.
	Temporary bool
	// Release gives leases back at the end, so that others can get the addresses.
	Release bool

	// Addrs, Gateways (of default routes), DNS servers and search Domains are static.
	Addrs    []netip.Prefix
	Gateways []netip.Addr
	DNS      []netip.Addr
	Domains  []string

	// Debug logs what is known when all is done.
	Debug bool
	// Remove takes from a client what it has got, before the rest is added.
	Remove Remove

	// Store keeps leases for the next time. Nil keeps none. It has no text.
	Store Store
	// Logger receives what changes and, on the level Debug, attempts without a result; in an
	// attack 100 lines at once and then one a second, with how many were left out. Nil
	// discards them or, with Debug, is the standard error. It has no text.
	Logger *slog.Logger
}

// Remove says what a client is to give up.
type Remove struct {
	Static bool // all that is static
	Eth    bool // set the interface down
	DHCP4  bool
	DHCP6  bool
	RD     bool

	Addrs    []netip.Prefix
	Gateways []netip.Addr
	DNS      []netip.Addr
	Domains  []string
}

// SLAAC is how addresses are made from a prefix.
type SLAAC string

// The ways to make addresses.
const (
	SLAACNone    SLAAC = ""
	SLAACDefault SLAAC = "default" // SLAACHash with an FQDN, else SLAACEUI64
	// SLAACHash is the Hash of FQDN. It takes prefixes without the flag for autonomous
	// configuration too.
	SLAACHash  SLAAC = "hash"
	SLAACEUI64 SLAAC = "eui64" // from the hardware address
	// SLAACStable makes an address that stays the same on a network, and tells nothing
	// on another, RFC 7217. Its secret is lost with the client, and when RD is taken back,
	// unless leases are stored.
	SLAACStable SLAAC = "stable"
)

// The default lengths of prefixes.
const (
	bits4 = 24
	bits6 = 64
)

// A tag has what an item does: flag without an argument, value with one. Both are there if
// the argument may be left out.
type tag struct {
	flag  func(c *Config)
	value func(c *Config, arg string) error
	want  string // the argument, for errors
}

// tags are those of iothconf, and release, temporary and the argument of slaac.
var tags = func() map[string]tag {
	all := map[string]tag{
		"thread": {flag: func(*Config) {}}, // in iothconf it asks for renewal, which always happens here
		"debug":  {flag: func(c *Config) { c.Debug = true }},

		"stack":   {value: parseStack, want: "vdestack"},
		"vnl":     {value: func(c *Config, arg string) error { c.VNL = arg; return nil }, want: "the locator of a network"},
		"iface":   {value: parseIface, want: "the name of an interface"},
		"ifindex": {value: parseIndex, want: "the number of an interface"},
		"fqdn":    {value: parseFQDN, want: "a name such as host.example.org"},
		"mac":     {value: parseMAC, want: "an Ethernet address such as 02:00:00:00:00:01"},

		"eth":       {flag: func(c *Config) { c.Eth = true }},
		"dhcp":      {flag: func(c *Config) { c.DHCP4 = true }},
		"dhcp6":     {flag: func(c *Config) { c.DHCP6 = true }},
		"rd":        {flag: func(c *Config) { c.RD = true }},
		"auto":      {flag: func(c *Config) { c.Eth, c.DHCP4, c.DHCP6, c.RD = true, true, true, true }},
		"auto4":     {flag: func(c *Config) { c.Eth, c.DHCP4 = true, true }},
		"auto6":     {flag: func(c *Config) { c.Eth, c.DHCP6, c.RD = true, true, true }},
		"slaac":     {flag: func(c *Config) { c.SLAAC = SLAACDefault }, value: parseSLAAC, want: "default, hash, eui64 or stable"},
		"temporary": {flag: func(c *Config) { c.Temporary = true }},
		"release":   {flag: func(c *Config) { c.Release = true }},

		"-static": {flag: func(c *Config) { c.Remove.Static = true }},
		"-eth":    {flag: func(c *Config) { c.Remove.Eth = true }},
		"-dhcp":   {flag: func(c *Config) { c.Remove.DHCP4 = true }},
		"-dhcp6":  {flag: func(c *Config) { c.Remove.DHCP6 = true }},
		"-rd":     {flag: func(c *Config) { c.Remove.RD = true }},
		"-auto": {flag: func(c *Config) {
			c.Remove.Eth, c.Remove.DHCP4, c.Remove.DHCP6, c.Remove.RD = true, true, true, true
		}},
		"-auto4": {flag: func(c *Config) { c.Remove.Eth, c.Remove.DHCP4 = true, true }},
		"-auto6": {flag: func(c *Config) { c.Remove.Eth, c.Remove.DHCP6, c.Remove.RD = true, true, true }},
	}
	lists := func(sign string, addrs func(*Config) *[]netip.Prefix, gateways, dns func(*Config) *[]netip.Addr, domains func(*Config) *[]string) {
		all[sign+"ip"] = tag{value: list(addrs, parsePrefix), want: "an address such as 10.0.0.1/24"}
		all[sign+"gw"] = tag{value: list(gateways, parseHost), want: "the address of a router"}
		all[sign+"dns"] = tag{value: list(dns, parseHost), want: "the address of a server"}
		all[sign+"domain"] = tag{value: list(domains, parseName), want: "a domain such as example.org"}
	}
	lists("", func(c *Config) *[]netip.Prefix { return &c.Addrs }, func(c *Config) *[]netip.Addr { return &c.Gateways },
		func(c *Config) *[]netip.Addr { return &c.DNS }, func(c *Config) *[]string { return &c.Domains })
	lists("-", func(c *Config) *[]netip.Prefix { return &c.Remove.Addrs }, func(c *Config) *[]netip.Addr { return &c.Remove.Gateways },
		func(c *Config) *[]netip.Addr { return &c.Remove.DNS }, func(c *Config) *[]string { return &c.Remove.Domains })
	for alias, name := range map[string]string{
		"macaddr": "mac", "dhcp4": "dhcp", "dhcpv4": "dhcp", "dhcpv6": "dhcp6", "rd6": "rd", "autov4": "auto4", "autov6": "auto6",
		"-dhcp4": "-dhcp", "-dhcpv4": "-dhcp", "-dhcpv6": "-dhcp6", "-rd6": "-rd", "-all": "-auto", "-autov4": "-auto4", "-autov6": "-auto6",
	} {
		all[alias] = all[name]
	}
	return all
}()

// Parse reads a configuration in the language of iothconf: see the package comment. An error
// quotes the item that is wrong.
func Parse(text string) (Config, error) {
	var c Config
	items, err := split(text)
	if err != nil {
		return Config{}, fmt.Errorf("autoconf: %w", err)
	}
	for _, i := range items {
		if err := i.apply(&c); err != nil {
			return Config{}, fmt.Errorf("autoconf: item %s: %w", quoted(i.text), err)
		}
	}
	return c, nil
}

// quoted shortens and quotes a text.
func quoted(s string) string {
	const shown = 80
	if len(s) <= shown {
		return strconv.Quote(s)
	}
	return strconv.Quote(s[:shown]) + "…"
}

func (i item) apply(c *Config) error {
	t, ok := tags[i.tag]
	switch {
	case !ok:
		if _, ok := tags[strings.ToLower(i.tag)]; ok {
			return fmt.Errorf("items are lower case: write %q", strings.ToLower(i.tag))
		}
		return fmt.Errorf("there is no item %s", quoted(i.tag))
	case !i.hasArg && t.flag != nil:
		t.flag(c)
	case t.value == nil:
		return fmt.Errorf("%s has no argument", i.tag)
	case i.arg == "":
		return fmt.Errorf("it needs an argument: write %s=ARGUMENT, %s", i.tag, t.want)
	default:
		if err := t.value(c, i.arg); err != nil {
			return fmt.Errorf("%w: want %s", err, t.want)
		}
	}
	return nil
}

// list appends what parse reads to a field.
func list[T any](field func(*Config) *[]T, parse func(string) (T, error)) func(*Config, string) error {
	return func(c *Config, arg string) error {
		v, err := parse(arg)
		if err == nil {
			*field(c) = append(*field(c), v)
		}
		return err
	}
}

// parseStack takes the one implementation of stacks that there is.
func parseStack(_ *Config, arg string) error {
	if arg != "vdestack" {
		return fmt.Errorf("there is no stack %s here", quoted(arg))
	}
	return nil
}

func parseIface(c *Config, arg string) error {
	if len(arg) > 15 || strings.ContainsAny(arg, "/:\x00") || strings.ContainsFunc(arg, unicode.IsSpace) {
		return errors.New("no interface can have this name")
	}
	c.Iface, c.Index = arg, 0
	return nil
}

func parseIndex(c *Config, arg string) error {
	n, err := strconv.ParseInt(arg, 10, 32)
	if err != nil || n <= 0 {
		return fmt.Errorf("%s is not a number from 1 on", quoted(arg))
	}
	c.Iface, c.Index = "", int(n)
	return nil
}

func parseFQDN(c *Config, arg string) (err error) {
	c.FQDN, err = parseName(arg)
	return err
}

func parseMAC(c *Config, arg string) error {
	mac, err := net.ParseMAC(arg)
	if err == nil {
		err = checkMAC(mac)
	}
	if err != nil {
		return fmt.Errorf("%s is not the address of an interface", quoted(arg))
	}
	c.MAC = mac
	return nil
}

// checkMAC refuses what is no Ethernet address, the zero address and groups.
func checkMAC(mac net.HardwareAddr) error {
	if len(mac) != 6 || mac[0]&1 != 0 || mac.String() == "00:00:00:00:00:00" {
		return fmt.Errorf("%q is not the Ethernet address of an interface", mac)
	}
	return nil
}

func parseSLAAC(c *Config, arg string) error {
	switch s := SLAAC(arg); s {
	case SLAACDefault, SLAACHash, SLAACEUI64, SLAACStable:
		c.SLAAC = s
		return nil
	}
	return fmt.Errorf("%s is not a way to make addresses", quoted(arg))
}

// parsePrefix reads ADDRESS or ADDRESS/LENGTH.
func parsePrefix(arg string) (netip.Prefix, error) {
	addr, length, ok := strings.Cut(arg, "/")
	a, err := parseHost(addr)
	if err != nil {
		return netip.Prefix{}, err
	}
	bits := bits6
	if a.Is4() {
		bits = bits4
	}
	if ok {
		p, err := netip.ParsePrefix(arg)
		if err != nil || p.Bits() == 0 {
			return netip.Prefix{}, fmt.Errorf("the length %s is not within 1 and %d", quoted(length), a.BitLen())
		}
		bits = p.Bits()
	}
	return netip.PrefixFrom(a, bits), nil
}

// parseHost reads the address of a host, without a zone: that is the interface.
func parseHost(arg string) (netip.Addr, error) {
	a, err := netip.ParseAddr(arg)
	switch {
	case err != nil:
		return netip.Addr{}, fmt.Errorf("%s is not an address", quoted(arg))
	case a.Zone() != "":
		return netip.Addr{}, fmt.Errorf("%s has a zone, which is always the interface", quoted(arg))
	case a.Is4In6():
		return netip.Addr{}, fmt.Errorf("%s is IPv4 written as IPv6: write %v", quoted(arg), a.Unmap())
	case a.IsUnspecified(), a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return netip.Addr{}, fmt.Errorf("%s is not the address of a single host", quoted(arg))
	}
	return a, nil
}

// parseName reads a name of DNS, and removes a trailing dot.
func parseName(arg string) (string, error) {
	name := strings.TrimSuffix(arg, ".")
	if len(name) > 253 || strings.ContainsFunc(name, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
		return "", fmt.Errorf("%s is not a name", quoted(arg))
	}
	for label := range strings.SplitSeq(name, ".") {
		if len(label) == 0 || len(label) > 63 {
			return "", fmt.Errorf("%s is not a name: its parts have 1 to 63 bytes", quoted(arg))
		}
	}
	return name, nil
}

// String returns the configuration as text, which Parse reads as the same.
func (c Config) String() string {
	var items []string
	flag := func(set bool, tag string) {
		if set {
			items = append(items, tag)
		}
	}
	value := func(tag, arg string) {
		if arg != "" {
			items = append(items, tag+"="+quote(arg))
		}
	}
	value("vnl", c.VNL)
	value("iface", c.Iface)
	if c.Index != 0 {
		value("ifindex", strconv.Itoa(c.Index))
	}
	value("fqdn", c.FQDN)
	value("mac", c.MAC.String())

	r := c.Remove
	flag(r.Static, "-static")
	flag(r.RD, "-rd")
	flag(r.DHCP6, "-dhcp6")
	flag(r.DHCP4, "-dhcp")
	flag(r.Eth, "-eth")
	flag(c.Eth, "eth")
	flag(c.RD, "rd")
	flag(c.SLAAC == SLAACDefault, "slaac")
	if c.SLAAC != SLAACDefault {
		value("slaac", string(c.SLAAC))
	}
	flag(c.Temporary, "temporary")
	flag(c.DHCP6, "dhcp6")
	flag(c.DHCP4, "dhcp")
	flag(c.Release, "release")
	static := func(sign string, addrs []netip.Prefix, gateways, dns []netip.Addr, domains []string) {
		for _, p := range addrs {
			value(sign+"ip", p.String())
		}
		for _, a := range gateways {
			value(sign+"gw", a.String())
		}
		for _, a := range dns {
			value(sign+"dns", a.String())
		}
		for _, d := range domains {
			value(sign+"domain", d)
		}
	}
	static("-", r.Addrs, r.Gateways, r.DNS, r.Domains)
	static("", c.Addrs, c.Gateways, c.DNS, c.Domains)
	flag(c.Debug, "debug")
	return strings.Join(items, ",")
}
