package vdeplug

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/vdeproto"
)

func init() {
	Register(Scheme{
		Name: "vde",
		Open: plugsOn(openVDE),
		Usage: Usage{
			Form:  "vde://[DIRECTORY][[OPTIONS]]",
			About: "a switch of this host; by default that in /var/run/vde.ctl or /tmp/vde.ctl",
			Options: []OptionUsage{
				{Value: "N", About: "the same as port=N, and any other word as portgroup=NAME"},
				{Name: "port", Value: "N", About: "number of the port; any free one by default"},
				{Name: "portgroup", Value: "NAME", About: "a group of ports"},
				{Name: "group", Value: "GROUP", About: "users that get access to the socket of the connection"},
				{Name: "mode", Value: "OCTAL", Default: "700", About: "permissions of that socket"},
			},
		},
	})
}

// defaultSwitches are the directories that are tried if the locator names none: of the
// system's switch, and of an ordinary user's.
var defaultSwitches = []string{"/var/run/vde.ctl", "/tmp/vde.ctl"}

// openVDE connects to a switch on this host: vde_switch, or a plug of the schemes switch,
// hub, multi or bonding.
func openVDE(ctx context.Context, l Locator, o *Options) (packet.Transport, error) {
	cfg, err := parseVDE(l)
	if err != nil {
		return nil, err
	}
	cfg.Description = o.Description
	return vdeproto.Dial(ctx, cfg, defaultSwitches)
}

func parseVDE(l Locator) (vdeproto.Config, error) {
	t, err := l.ParseBracketed()
	if err != nil {
		return vdeproto.Config{}, err
	}
	cfg := vdeproto.Config{Dir: t.Addr, Port: vdeproto.AnyPort, Mode: -1}
	once := func(set func(string, bool) error) func(string, bool) error {
		return func(value string, has bool) error {
			if cfg.Port != vdeproto.AnyPort || cfg.PortGroup != "" {
				return errors.New("the port is set already")
			}
			return set(value, has)
		}
	}
	port := NumberOption(&cfg.Port, 0, vdeproto.MaxPort)
	portgroup := once(func(value string, has bool) error {
		switch _, err := strconv.Atoi(value); {
		case err == nil:
			return port(value, has)
		case value == "" || value == "." || value == ".." || strings.Contains(value, "/"):
			return errors.New("must be the number of a port or the name of a group of ports")
		}
		cfg.PortGroup = value
		return nil
	})
	err = t.Apply(map[string]func(string, bool) error{
		"":          portgroup,
		"port":      once(port),
		"portgroup": portgroup,
		"group":     TextOption(&cfg.Group),
		"mode":      modeOption(&cfg.Mode, 0o777),
	})
	return cfg, err
}
