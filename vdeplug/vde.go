package vdeplug

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/vdestack/vdestack/internal/vdeproto"
)

func init() {
	Register(Scheme{
		Name: "vde",
		Open: openVDE,
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
func openVDE(ctx context.Context, l Locator, o *Options) (Conn, error) {
	cfg, err := parseVDE(l)
	if err != nil {
		return nil, err
	}
	cfg.Description = o.Description
	c, err := vdeproto.Dial(ctx, cfg, defaultSwitches)
	if err != nil {
		return nil, err
	}
	return newPlug(l.String(), c), nil
}

func parseVDE(l Locator) (vdeproto.Config, error) {
	t, err := l.ParseBracketed()
	if err != nil {
		return vdeproto.Config{}, err
	}
	cfg := vdeproto.Config{Dir: t.Addr, Port: vdeproto.AnyPort, Mode: -1}
	ports := 0
	port := func(value string, _ bool) error {
		if ports++; ports > 1 {
			return errors.New("the port is set already")
		}
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 || n > vdeproto.MaxPort {
			return fmt.Errorf("must be a number from 0 to %d", vdeproto.MaxPort)
		}
		cfg.Port = n
		return nil
	}
	portgroup := func(value string, has bool) error {
		switch _, err := strconv.Atoi(value); {
		case err == nil:
			return port(value, has)
		case value == "" || value == "." || value == ".." || strings.Contains(value, "/"):
			return errors.New("must be the number of a port or the name of a group of ports")
		}
		cfg.PortGroup = value
		if ports++; ports > 1 {
			return errors.New("the port is set already")
		}
		return nil
	}
	err = t.Apply(map[string]func(string, bool) error{
		"":          portgroup,
		"port":      port,
		"portgroup": portgroup,
		"group":     TextOption(&cfg.Group),
		"mode":      modeOption(&cfg.Mode, 0o777),
	})
	return cfg, err
}
