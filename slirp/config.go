package slirp

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vdestack/vdestack/internal/argv"
	"github.com/vdestack/vdestack/vdeplug"
)

// The default addresses, those of the C library.
var (
	defaultHost  = netip.MustParsePrefix("10.0.2.2/24")
	defaultHost6 = netip.MustParsePrefix("fd00::2/64")
)

const (
	// The last bytes of the plug's addresses, and of the first guest's.
	dnsNumber  = 3
	fwdNumber  = 4 // of forwards to commands and unix sockets
	dhcpNumber = 15

	defaultMTU = 1500
	// minMTU is the smallest MTU for IPv4, minMTU6 that for IPv6 (RFC 8200).
	minMTU, minMTU6 = 576, 1280
	// maxForwards is the limit for each kind of forward.
	maxForwards = 256
)

// A config has the settings of a locator.
type config struct {
	restricted bool
	v4, v6     bool
	host       netip.Prefix // the address of the host, with the network
	host6      netip.Prefix
	dns, dns6  netip.Addr
	dhcp       netip.Addr // the first address for guests
	hostname   string
	tftpName   string
	tftpPath   string
	bootFile   string
	search     []string
	domain     string
	mtu, mru   int
	noLoopback bool
	metadata   bool // guests reach the metadata services of clouds
	tcp, udp   []forward
	services   []service
	verbose    bool
}

// A forward leads from a port of the host to one of a guest.
type forward struct{ host, guest netip.AddrPort }

func (f forward) String() string { return fmt.Sprintf("%s -> guest %s", f.host, f.guest) }

// A service leads from a port of the network to a unix socket of the host, or to a
// command that is started for each connection.
type service struct {
	at      netip.AddrPort
	path    string   // of the socket; empty for a command
	command []string // with its arguments
}

func (s service) String() string {
	if s.path != "" {
		return fmt.Sprintf("%s -> socket %s", s.at, s.path)
	}
	return fmt.Sprintf("%s -> command %q", s.at, s.command)
}

// parse reads the options of a locator.
func parse(l vdeplug.Locator) (*config, error) {
	t, err := l.ParseSlashed()
	if err != nil {
		return nil, err
	}
	if t.Addr != "" {
		return nil, fmt.Errorf("slirp address %q: there is no address (options are written slirp:///option/option=value)", t.Addr)
	}
	cfg := &config{host: defaultHost, host6: defaultHost6, hostname: "slirp"}
	var tcp, udp, unix, commands string
	err = t.Apply(map[string]func(string, bool) error{
		"restricted":            vdeplug.FlagOption(&cfg.restricted),
		"v4":                    vdeplug.FlagOption(&cfg.v4),
		"v6":                    vdeplug.FlagOption(&cfg.v6),
		"host,addr":             prefixOption(&cfg.host, netip.Addr.Is4, "an IPv4 address with its network, as 10.0.2.2%2f24", 30),
		"host6,addr6":           prefixOption(&cfg.host6, netip.Addr.Is6, "an IPv6 address with its network, as fd00::2%2f64", 120),
		"hostname":              nameOption(&cfg.hostname, maxName),
		"tftp_server_name":      nameOption(&cfg.tftpName, maxName),
		"tftp_path":             directoryOption(&cfg.tftpPath),
		"bootfile":              nameOption(&cfg.bootFile, dhcpFileLen-1),
		"dhcp":                  addressOption(&cfg.dhcp, netip.Addr.Is4, "an IPv4 address"),
		"vnameserver":           addressOption(&cfg.dns, netip.Addr.Is4, "an IPv4 address"),
		"vnameserver6":          addressOption(&cfg.dns6, netip.Addr.Is6, "an IPv6 address"),
		"vdnssearch":            searchOption(&cfg.search),
		"vdomainname":           nameOption(&cfg.domain, maxName),
		"mtu":                   sizeOption(&cfg.mtu),
		"mru":                   sizeOption(&cfg.mru),
		"disable_host_loopback": vdeplug.FlagOption(&cfg.noLoopback),
		"metadata":              vdeplug.FlagOption(&cfg.metadata),
		"tcpfwd":                vdeplug.TextOption(&tcp),
		"udpfwd":                vdeplug.TextOption(&udp),
		"unixfwd":               vdeplug.TextOption(&unix),
		"cmdfwd":                vdeplug.TextOption(&commands),
		"verbose":               vdeplug.FlagOption(&cfg.verbose),
	})
	if err != nil {
		return nil, err
	}
	if !cfg.v4 && !cfg.v6 {
		cfg.v4, cfg.v6 = true, true
	}
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	if cfg.tcp, err = cfg.forwards("tcpfwd", tcp); err != nil {
		return nil, err
	}
	if cfg.udp, err = cfg.forwards("udpfwd", udp); err != nil {
		return nil, err
	}
	if err := cfg.addServices("unixfwd", unix, socketTarget); err != nil {
		return nil, err
	}
	return cfg, cfg.addServices("cmdfwd", commands, commandTarget)
}

// complete sets defaults, which depend on the networks, and checks that all addresses are
// in them and differ.
func (cfg *config) complete() error {
	if cfg.mtu == 0 {
		cfg.mtu = defaultMTU
	}
	if cfg.mru == 0 {
		cfg.mru = defaultMTU
	}
	least := minMTU
	if cfg.v6 {
		least = minMTU6
	}
	for _, o := range []struct {
		name  string
		value int
	}{{"mtu", cfg.mtu}, {"mru", cfg.mru}} {
		if o.value < least || o.value > vdeplug.MaxMTU {
			return fmt.Errorf("slirp option \"%s=%d\": must be a number from %d to %d, or 0 for %d", o.name, o.value, least, vdeplug.MaxMTU, defaultMTU)
		}
	}
	for _, a := range []struct {
		option string
		addr   *netip.Addr
		host   netip.Prefix
		number byte
	}{
		{"vnameserver", &cfg.dns, cfg.host, dnsNumber},
		{"dhcp", &cfg.dhcp, cfg.host, dhcpNumber},
		{"vnameserver6", &cfg.dns6, cfg.host6, dnsNumber},
	} {
		if *a.addr == (netip.Addr{}) {
			*a.addr = numbered(a.host, a.number)
		}
		if !usable(a.host, *a.addr) || *a.addr == a.host.Addr() {
			return fmt.Errorf("slirp option \"%s=%s\": must be an address in the network %s other than the host's (%[1]s=ADDRESS sets another)", a.option, *a.addr, a.host)
		}
	}
	if len(cfg.appendOptions(nil, true)) > dhcpRoom {
		return fmt.Errorf("slirp options hostname, vdomainname, tftp_server_name and vdnssearch: together they do not fit into a DHCP message")
	}
	if cfg.dhcp == cfg.dns {
		return fmt.Errorf("slirp option \"dhcp=%s\": that is the name server (set another dhcp=ADDRESS or vnameserver=ADDRESS)", cfg.dhcp)
	}
	return nil
}

// numbered returns the address with a number in a network: the bits of the network,
// followed by those of the default network's address with this last byte.
func numbered(p netip.Prefix, number byte) netip.Addr {
	base := defaultHost6.Addr()
	if p.Addr().Is4() {
		base = defaultHost.Addr()
	}
	host, b := base.AsSlice(), p.Masked().Addr().AsSlice()
	host[len(host)-1] = number
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= host[i/8] & (0x80 >> (i % 8))
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// usable reports whether a host in a network can have an address.
func usable(p netip.Prefix, a netip.Addr) bool {
	if !p.Contains(a) || a == p.Masked().Addr() {
		return false
	}
	return !a.Is4() || a != broadcast(p)
}

// broadcast returns the last address of an IPv4 network.
func broadcast(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

// forwards reads a list of [HOSTIP:]HOSTPORT:GUESTIP:GUESTPORT, with IPv6 addresses in
// brackets.
func (cfg *config) forwards(option, list string) (fwds []forward, err error) {
	if list == "" {
		return nil, nil
	}
	guests, hosts := make(map[netip.AddrPort]bool), make(map[netip.AddrPort]bool)
	for item := range strings.SplitSeq(list, ",") {
		f, err := cfg.forward(item)
		switch {
		case err != nil:
		case hosts[f.host]:
			err = errors.New("this port of the host is forwarded already")
		case option == "udpfwd" && guests[f.guest]:
			// Two forwards could not tell whose answer a packet is.
			err = errors.New("another port is forwarded to this port of the guest")
		case len(fwds) == maxForwards:
			err = fmt.Errorf("more than %d", maxForwards)
		}
		if err != nil {
			return nil, fmt.Errorf("slirp option \"%s=%s\": %q: %w", option, list, item, err)
		}
		hosts[f.host], guests[f.guest] = true, true
		fwds = append(fwds, f)
	}
	return fwds, nil
}

func (cfg *config) forward(item string) (f forward, err error) {
	fields := splitFields(item)
	hostIP := netip.IPv4Unspecified()
	if len(fields) == 4 {
		if hostIP, err = netip.ParseAddr(fields[0]); err != nil {
			return f, fmt.Errorf("%q is not an IP address of the host", fields[0])
		}
		fields = fields[1:]
	}
	if len(fields) != 3 {
		return f, errors.New("must be [HOSTIP:]HOSTPORT:GUESTIP:GUESTPORT, IPv6 addresses in brackets")
	}
	hostPort, err := port(fields[0])
	if err != nil {
		return f, err
	}
	guestIP, err := netip.ParseAddr(fields[1])
	if err != nil || !usable(cfg.network(guestIP), guestIP) || cfg.own(guestIP) {
		return f, fmt.Errorf("%q is not an IP address of a guest in %s", fields[1], cfg.networks())
	}
	guestPort, err := port(fields[2])
	return forward{netip.AddrPortFrom(hostIP, hostPort), netip.AddrPortFrom(guestIP, guestPort)}, err
}

// addServices reads a list of [IP:]PORT:TARGET. read sets the target.
func (cfg *config) addServices(option, list string, read func(s *service, target string) error) error {
	if list == "" {
		return nil
	}
	for item := range strings.SplitSeq(list, ",") {
		s, err := cfg.service(item, read)
		if err == nil && len(cfg.services) == maxForwards {
			err = fmt.Errorf("more than %d", maxForwards)
		}
		for _, other := range cfg.services {
			if err == nil && other.at == s.at {
				err = fmt.Errorf("this port is used already (%s)", other)
			}
		}
		if err != nil {
			return fmt.Errorf("slirp option \"%s=%s\": %q: %w", option, list, item, err)
		}
		cfg.services = append(cfg.services, s)
	}
	return nil
}

func (cfg *config) service(item string, read func(s *service, target string) error) (s service, err error) {
	var first, rest string
	if strings.HasPrefix(item, "[") {
		first, rest, _ = strings.Cut(item[1:], "]:")
	} else if first, rest, _ = strings.Cut(item, ":"); !strings.Contains(first, ".") {
		first, rest = "", item
	}
	ip := numbered(cfg.host, fwdNumber)
	if !cfg.v4 {
		ip = numbered(cfg.host6, fwdNumber)
	}
	if first != "" {
		if ip, err = netip.ParseAddr(first); err != nil {
			return s, fmt.Errorf("%q is not an IP address", first)
		}
	}
	if !usable(cfg.network(ip), ip) || ip == cfg.dns || ip == cfg.dns6 {
		return s, fmt.Errorf("%s is not a free IP address in %s", ip, cfg.networks())
	}
	p, target, ok := strings.Cut(rest, ":")
	if !ok || target == "" {
		return s, errors.New("must be [IP:]PORT:TARGET")
	}
	n, err := port(p)
	if err != nil {
		return s, err
	}
	s.at = netip.AddrPortFrom(ip, n)
	return s, read(&s, target)
}

func socketTarget(s *service, target string) error {
	s.path = target
	return nil
}

func commandTarget(s *service, target string) error {
	commands, err := argv.Split(target, nil)
	switch {
	case err != nil:
		return err
	case len(commands) != 1:
		return errors.New("must be one command (with more: sh -c '…')")
	}
	s.command = commands[0]
	return nil
}

// own reports whether the plug itself has an address.
func (cfg *config) own(a netip.Addr) bool {
	switch a {
	case cfg.host.Addr(), cfg.dns:
		return cfg.v4
	case cfg.host6.Addr(), cfg.dns6, routerAddr:
		return cfg.v6
	}
	for _, s := range cfg.services {
		if s.at.Addr() == a {
			return true
		}
	}
	return false
}

// network returns the host's address and network in the family of a; the zero Prefix if
// the family is off.
func (cfg *config) network(a netip.Addr) netip.Prefix {
	switch {
	case a.Is4() && cfg.v4:
		return cfg.host
	case a.Is6() && cfg.v6:
		return cfg.host6
	}
	return netip.Prefix{}
}

func (cfg *config) networks() string {
	var s []string
	if cfg.v4 {
		s = append(s, cfg.host.Masked().String())
	}
	if cfg.v6 {
		s = append(s, cfg.host6.Masked().String())
	}
	return strings.Join(s, " or ")
}

// print writes the settings for the option verbose.
func (cfg *config) print(w io.Writer) {
	line := func(name string, value any) { fmt.Fprintf(w, "%-14s%v\n", name, value) }
	fmt.Fprintln(w, "SLIRP configuration")
	line("restricted", cfg.restricted)
	if cfg.v4 {
		line("ipv4-network", cfg.host.Masked())
		line("ipv4-host", cfg.host.Addr())
		line("ipv4-vDNS", cfg.dns)
		line("dhcp-start", cfg.dhcp)
	}
	if cfg.v6 {
		line("ipv6-network", cfg.host6.Masked())
		line("ipv6-host", cfg.host6.Addr())
		line("ipv6-vDNS", cfg.dns6)
	}
	line("hostname", cfg.hostname)
	line("tftp-servname", cfg.tftpName)
	line("tftp-path", cfg.tftpPath)
	line("bootfile", cfg.bootFile)
	line("vDNS-search", strings.Join(cfg.search, " "))
	line("vdomainname", cfg.domain)
	line("MTU", cfg.mtu)
	line("MRU", cfg.mru)
	line("disable-lback", cfg.noLoopback)
	for _, f := range cfg.tcp {
		line("tcpfwd", f)
	}
	for _, f := range cfg.udp {
		line("udpfwd", f)
	}
	for _, s := range cfg.services {
		line("service", s)
	}
}

// splitFields splits at colons outside brackets, and removes the brackets.
func splitFields(s string) (fields []string) {
	for s != "" {
		if strings.HasPrefix(s, "[") {
			in, rest, ok := strings.Cut(s[1:], "]")
			if !ok || rest != "" && rest[0] != ':' {
				return nil
			}
			fields, s = append(fields, in), strings.TrimPrefix(rest, ":")
			continue
		}
		field, rest, more := strings.Cut(s, ":")
		fields, s = append(fields, field), rest
		if more && rest == "" {
			fields = append(fields, "")
		}
	}
	return fields
}

func port(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a port (1 to 65535)", s)
	}
	return uint16(n), nil
}

func prefixOption(p *netip.Prefix, family func(netip.Addr) bool, want string, maxBits int) func(string, bool) error {
	return func(value string, _ bool) error {
		v, err := netip.ParsePrefix(value)
		if err != nil || !family(v.Addr()) || v.Addr().Is4In6() || v.Bits() < 1 || v.Bits() > maxBits ||
			!usable(v, v.Addr()) || v.Addr().IsMulticast() || v.Addr().IsLoopback() || v.Addr().IsLinkLocalUnicast() {
			return fmt.Errorf("must be %s (a slash is written %%2f or quoted)", want)
		}
		*p = v
		return nil
	}
}

func addressOption(p *netip.Addr, family func(netip.Addr) bool, want string) func(string, bool) error {
	return func(value string, _ bool) error {
		a, err := netip.ParseAddr(value)
		if err != nil || !family(a) || a.Zone() != "" {
			return errors.New("must be " + want)
		}
		*p = a
		return nil
	}
}

// sizeOption reads a number of bytes. What it may be depends on other options.
func sizeOption(p *int) func(string, bool) error {
	return func(value string, _ bool) error {
		n, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			return errors.New("must be a number of bytes")
		}
		*p = int(n)
		return nil
	}
}

// nameOption reads a text for DHCP.
func nameOption(p *string, max int) func(string, bool) error {
	return func(value string, _ bool) error {
		if value == "" || len(value) > max {
			return fmt.Errorf("must have 1 to %d bytes", max)
		}
		*p = value
		return nil
	}
}

func directoryOption(p *string) func(string, bool) error {
	return func(value string, _ bool) error {
		info, err := os.Stat(value)
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return errors.New("must be a directory")
		}
		*p = value
		return nil
	}
}

func searchOption(p *[]string) func(string, bool) error {
	return func(value string, _ bool) error {
		list := strings.Split(value, ",")
		if _, err := encodeSearch(list); err != nil {
			return err
		}
		*p = list
		return nil
	}
}
