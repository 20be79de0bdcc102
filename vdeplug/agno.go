package vdeplug

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/transform"
)

func init() {
	Register(Scheme{
		Name: "agno",
		Open: plugsOn(openAGNO),
		Usage: Usage{
			Form:  "agno://[KEYFILE][[OPTIONS]]{NETWORK}",
			About: "another network, encrypted with a key that all have; by default in ~/.vde_agno_key",
			Options: []OptionUsage{
				{Name: "ethtype", Value: "TYPE", Default: "0xa6de", About: "type of the frames: a number, ipv4, ipv6, copy or rand"},
			},
		},
	})
}

// openAGNO encrypts the frames of a network with a key that its stations share.
func openAGNO(ctx context.Context, l Locator, o *Options) (packet.Transport, error) {
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
	return transform.New(inner, transform.NewAGNO(key, cfg.ethType)), nil
}

const (
	agnoType    = 0xa6de
	agnoKeyFile = "~/.vde_agno_key"
)

// agnoTypes are the types of frames that have names.
var agnoTypes = map[string]uint16{"copy": transform.AGNOCopy, "rand": transform.AGNORand, "ipv4": 0x0800, "ipv6": 0x86dd}

// agnoConfig is what an agno locator says.
type agnoConfig struct {
	keyfile string
	ethType uint16
}

func parseAGNO(l Locator) (cfg agnoConfig, inner string, err error) {
	t, err := l.ParseBracketed()
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
	err = t.Apply(map[string]func(string, bool) error{
		"ethtype": func(v string, _ bool) error {
			if named, ok := agnoTypes[v]; ok {
				cfg.ethType = named
				return nil
			}
			n, err := strconv.ParseUint(v, 0, 16)
			if err != nil || n < transform.MinEtherType || n > transform.MaxEtherType {
				return fmt.Errorf("must be copy, ipv4, ipv6, rand or a number from %#x to %#x", transform.MinEtherType, transform.MaxEtherType)
			}
			cfg.ethType = uint16(n)
			return nil
		},
	})
	return cfg, inner, err
}
