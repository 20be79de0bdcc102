package vdeplug

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vdestack/vdestack/internal/transform"
)

func init() {
	Register("agno", openAGNO)
	Describe("agno", Usage{
		Form:  "agno://[KEYFILE][[OPTIONS]]{NETWORK}",
		About: "another network, encrypted with a key that all have; by default in ~/.vde_agno_key",
		Options: []Option{
			{Name: "ethtype", Value: "TYPE", Default: "0xa6de", About: "type of the frames: a number, ipv4, ipv6, copy or rand"},
		},
	})
}

// openAGNO encrypts the frames of a network with a key that all its stations
// have:
//
//	agno://[keyfile][[ethtype=TYPE]]{network}
//
// The key file begins with "/" or "~"; by default it is ~/.vde_agno_key. Its
// hexadecimal digits, at least two, are the key, 32 of them at most; what is
// missing is zero. All other bytes of it mean nothing.
//
//   - ethtype is the type that frames have in the network: a6de by default; ipv4
//     or ipv6; copy, that of the frame inside; rand, another for each; or a number
//     from 0x600 to 0xfffe. Stations need not have the same.
//
// Addresses are sent in clear, the rest with AES-128. Nothing protects the payload
// from being changed, and what was recorded can be sent again for three seconds;
// so much may the clocks differ too. It keeps networks apart and curious readers
// out, and is no VPN.
//
// Frames become 16 to 31 bytes longer: an MTU of 1469 at the plug fits all into a
// network of Ethernet. The C program takes an upper-case A in a key file for
// another digit; write the key in lower case.
func openAGNO(ctx context.Context, l Locator, o *Options) (Conn, error) {
	cfg, vnl, err := parseAGNO(l)
	if err != nil {
		return nil, err
	}
	key, err := transform.ReadAGNOKey(cfg.keyfile)
	if err != nil {
		return nil, err
	}
	inner, err := openInner(ctx, vnl, o)
	if err != nil {
		return nil, err
	}
	return newNested(l, inner, transform.NewAGNO(key, cfg.ethType)), nil
}

const (
	agnoType    = 0xa6de
	agnoKeyFile = "~/.vde_agno_key"
	ethTypeIPv4 = 0x0800
	ethTypeIPv6 = 0x86dd
)

// agnoConfig is what an agno locator says.
type agnoConfig struct {
	keyfile string
	ethType uint16
}

func parseAGNO(l Locator) (cfg agnoConfig, inner string, err error) {
	t, err := l.Bracketed()
	if err != nil {
		return cfg, "", err
	}
	inner, t.HasInner = t.Inner, false
	cfg = agnoConfig{keyfile: t.Addr, ethType: agnoType}
	if cfg.keyfile == "" {
		cfg.keyfile = agnoKeyFile
	}
	if rest, ok := strings.CutPrefix(cfg.keyfile, "~"); ok && (rest == "" || rest[0] == '/') {
		home := os.Getenv("HOME")
		if home == "" {
			return cfg, "", fmt.Errorf("key file %q: HOME is not set", cfg.keyfile)
		}
		cfg.keyfile = filepath.Join(home, rest)
	} else if !filepath.IsAbs(cfg.keyfile) {
		return cfg, "", fmt.Errorf("key file %q: must begin with \"/\" or \"~/\"", cfg.keyfile)
	}
	err = t.Options(map[string]func(string, bool) error{
		"ethtype": func(v string, _ bool) error {
			switch v {
			case "copy":
				cfg.ethType = transform.AGNOCopy
			case "rand":
				cfg.ethType = transform.AGNORand
			case "ipv4":
				cfg.ethType = ethTypeIPv4
			case "ipv6":
				cfg.ethType = ethTypeIPv6
			default:
				n, err := strconv.ParseUint(v, 0, 16)
				if err != nil || n < transform.MinEtherType || n > transform.MaxEtherType {
					return fmt.Errorf("must be copy, ipv4, ipv6, rand or a number from %#x to %#x", transform.MinEtherType, transform.MaxEtherType)
				}
				cfg.ethType = uint16(n)
			}
			return nil
		},
	})
	return cfg, inner, err
}
