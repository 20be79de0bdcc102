package vdeplug

import (
	"testing"

	"github.com/vdestack/vdestack/internal/vdeproto"
)

func TestParseVDE(t *testing.T) {
	plain := vdeproto.Config{Dir: "/run/sw", Port: vdeproto.AnyPort, Mode: -1}
	testParses(t, flat(parseVDE), plain, []parseTest[vdeproto.Config]{
		{in: "/run/sw"},
		{in: "vde:///run/sw"},
		{in: "vde://", set: func(c *vdeproto.Config) { c.Dir = "" }},
		{in: "vde:///run/sw[]"},
		{in: "/run/sw[3]", set: func(c *vdeproto.Config) { c.Port = 3 }},
		{in: "/run/sw[0]", set: func(c *vdeproto.Config) { c.Port = 0 }},
		{in: "/run/sw[port=12]", set: func(c *vdeproto.Config) { c.Port = 12 }},
		{in: "/run/sw[portgroup=12]", set: func(c *vdeproto.Config) { c.Port = 12 }},
		{in: "/run/sw[portgroup=lab]", set: func(c *vdeproto.Config) { c.PortGroup = "lab" }},
		{in: "/run/sw[lab/mode=0660/group=vde]", set: func(c *vdeproto.Config) {
			c.PortGroup, c.Mode, c.Group = "lab", 0o660, "vde"
		}},
		{in: "/run/sw[mode=0]", set: func(c *vdeproto.Config) { c.Mode = 0 }},

		{in: "/run/sw[nosuch=1]", err: `"nosuch=1": unknown (have group, mode, port, portgroup)`},
		{in: "/run/sw[port=x]", err: `"port=x": must be a number from 0`},
		{in: "/run/sw[port=]", err: "must be a number from 0"},
		{in: "/run/sw[port]", err: "must be a number from 0"},
		{in: "/run/sw[-1]", err: "must be a number from 0"},
		{in: "/run/sw[16777216]", err: "must be a number from 0 to 16777215"},
		{in: "/run/sw[portgroup=]", err: "must be the number of a port or the name"},
		{in: "/run/sw[..]", err: "must be the number of a port or the name"},
		{in: "/run/sw[a%2fb]", err: "must be the number of a port or the name"},
		{in: "/run/sw[3/port=4]", err: "the port is set already"},
		{in: "/run/sw[lab/4]", err: "already set"},
		{in: "/run/sw[lab/portgroup=4]", err: "the port is set already"},
		{in: "/run/sw[mode=0888]", err: `"mode=0888": must be an octal number from 0 to 777`},
		{in: "/run/sw[mode=7777]", err: "octal"},
		{in: "/run/sw[mode]", err: "octal"},
		{in: "/run/sw[group]", err: "needs a value"},
		{in: "vde:///run/sw{tap://}", err: "no inner network"},
	})
}
