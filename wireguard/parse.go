package wireguard

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// ParseConfig parses a file of wg-quick(8), such as
//
//	[Interface]
//	PrivateKey = …
//	Address = 10.0.0.2/32, fd00::2/128
//	DNS = 10.0.0.1
//	[Peer]
//	PublicKey = …
//	AllowedIPs = 0.0.0.0/0, ::/0
//	Endpoint = vpn.example.org:51820
//
// It takes what wg-quick takes, with two exceptions: what would act on the host (PreUp, PostUp,
// PreDown, PostDown, FwMark, and Table but for auto) is refused with the reason, and of two peers
// with one PublicKey the second is. SaveConfig has no effect, for nothing but the program changes
// the tunnel. Errors have the number of the line and the name of the item, and never quote
// what may be a key.
func ParseConfig(text string) (Config, error) {
	var p parser
	for line := range strings.SplitSeq(strings.TrimPrefix(text, "\ufeff"), "\n") {
		p.line++
		if err := p.parseLine(line); err != nil {
			return Config{}, fmt.Errorf("line %d: %w", p.line, err)
		}
	}
	if err := p.endPeer(); err != nil {
		return Config{}, err
	}
	if p.c.PrivateKey.IsZero() {
		return Config{}, errors.New("the file has no PrivateKey in [Interface]")
	}
	return p.c, nil
}

// A parser has read some lines of a file.
type parser struct {
	c        Config
	line     int
	section  string            // "interface" or "peer", empty before the first
	peer     Peer              // of the section
	peerLine int               // where it begins, 0 if there is none
	seen     map[PublicKey]int // lines where peers begin
}

func (p *parser) parseLine(line string) error {
	line, _, _ = strings.Cut(line, "#")
	line = strings.TrimSpace(line)
	if line == "" {
		return nil
	}
	if strings.HasPrefix(line, "[") {
		return p.parseSection(strings.ToLower(strings.Join(strings.Fields(line), "")))
	}
	name, value, ok := strings.Cut(line, "=")
	name, value = strings.TrimSpace(name), strings.TrimSpace(value)
	if !ok {
		return fmt.Errorf("%s has no value: want NAME = VALUE", quote(name))
	}
	var err error
	switch key := strings.ToLower(name); p.section {
	case "":
		err = errors.New("it is before the first section: want [Interface] or [Peer]")
	case "interface":
		err = p.c.parseItem(key, value)
	default:
		err = p.peer.parseItem(key, value)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", quote(name), err)
	}
	return nil
}

func (p *parser) parseSection(name string) error {
	if err := p.endPeer(); err != nil {
		return err
	}
	switch name {
	case "[interface]":
		p.section = "interface"
	case "[peer]":
		p.section, p.peerLine = "peer", p.line
	default:
		return fmt.Errorf("%s is no section: want [Interface] or [Peer]", quote(name))
	}
	return nil
}

// endPeer adds the peer of the section, if there is one.
func (p *parser) endPeer() error {
	if p.peerLine == 0 {
		return nil
	}
	at := p.peerLine
	if (p.peer.PublicKey == PublicKey{}) {
		return fmt.Errorf("[Peer] of line %d has no PublicKey", at)
	}
	if first := p.seen[p.peer.PublicKey]; first != 0 {
		return fmt.Errorf("[Peer] of line %d has the PublicKey of that of line %d: put both into one section", at, first)
	}
	if p.seen == nil {
		p.seen = make(map[PublicKey]int)
	}
	p.seen[p.peer.PublicKey] = at
	p.c.Peers = append(p.c.Peers, p.peer)
	p.peer, p.peerLine = Peer{}, 0
	return nil
}

// The reasons why items are refused.
var (
	errHook   = errors.New("wg-quick runs this as root on the host; a tunnel of this package changes its stack only: remove the line, and let the program do what it is for")
	errMark   = errors.New("it is for routes of the host that keep encrypted packets out of the tunnel; here their socket is in another network: remove the line")
	errTable  = errors.New("routes of a tunnel are in the main table of its stack: remove the line")
	errNoItem = errors.New("there is no such item in this section")
)

func (c *Config) parseItem(key, value string) (err error) {
	switch key {
	case "privatekey":
		c.PrivateKey, err = ParseKey(value)
	case "listenport":
		var n uint64
		n, err = parseNumber(value, 65535)
		c.ListenPort = uint16(n)
	case "address":
		return parsePrefixes(&c.Addrs, value)
	case "dns":
		for _, s := range list(value) {
			if a, err := netip.ParseAddr(s); err == nil {
				c.DNS.Servers = append(c.DNS.Servers, netip.AddrPortFrom(a, 0))
			} else if isName(s) && strings.Trim(s, "0123456789.") != "" {
				c.DNS.Search = append(c.DNS.Search, s)
			} else {
				return fmt.Errorf("%s is neither an address nor a domain", quote(s))
			}
		}
	case "mtu":
		var n uint64
		if value != "" { // which wg-quick takes for its default
			n, err = parseNumber(value, maxMTU)
		}
		c.MTU = int(n)
	case "fwmark":
		if n, err := strconv.ParseUint(value, 0, 32); !strings.EqualFold(value, "off") && (err != nil || n != 0) {
			return errMark
		}
	case "table":
		if value != "" && !strings.EqualFold(value, "auto") {
			return errTable
		}
	case "preup", "postup", "predown", "postdown":
		return errHook
	case "saveconfig":
		if !strings.EqualFold(value, "true") && !strings.EqualFold(value, "false") {
			return fmt.Errorf("%s is neither true nor false", quote(value))
		}
	case "publickey", "presharedkey", "allowedips", "endpoint", "persistentkeepalive":
		return errors.New("it belongs into a section [Peer]")
	default:
		return errNoItem
	}
	return err
}

func (p *Peer) parseItem(key, value string) (err error) {
	switch key {
	case "publickey":
		p.PublicKey, err = ParsePublicKey(value)
		if err == nil && p.PublicKey == (PublicKey{}) {
			return errKey
		}
	case "presharedkey":
		p.PresharedKey, err = ParseKey(value)
	case "allowedips":
		return parsePrefixes(&p.AllowedIPs, value)
	case "endpoint":
		if _, _, err := splitEndpoint(value); err != nil {
			return err
		}
		p.Endpoint = value
	case "persistentkeepalive":
		var n uint64
		if !strings.EqualFold(value, "off") {
			n, err = parseNumber(value, 65535)
		}
		p.PersistentKeepalive = time.Duration(n) * time.Second
	case "privatekey", "listenport", "fwmark", "address", "dns", "mtu", "table", "preup", "postup", "predown", "postdown", "saveconfig":
		return errors.New("it belongs into the section [Interface]")
	default:
		return errNoItem
	}
	return err
}

func parseNumber(text string, limit uint64) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n > limit {
		return 0, fmt.Errorf("%s is not a number from 0 to %d", quote(text), limit)
	}
	return n, nil
}

// list splits a text at commas and blanks.
func list(text string) []string {
	return strings.FieldsFunc(text, func(c rune) bool { return strings.ContainsRune(", \t\r", c) })
}

// parsePrefixes adds addresses; one without a length is a prefix of its own.
func parsePrefixes(all *[]netip.Prefix, text string) error {
	for _, s := range list(text) {
		p, err := netip.ParsePrefix(s)
		if a, aerr := netip.ParseAddr(s); aerr == nil && a.Zone() == "" {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return fmt.Errorf("%s is not ADDRESS/LENGTH, such as 10.0.0.2/32 or fd00::2/128", quote(s))
		}
		*all = append(*all, p)
	}
	return nil
}
