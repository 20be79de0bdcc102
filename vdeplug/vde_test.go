package vdeplug

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestParseVDE(t *testing.T) {
	plain := vdeConfig{dir: "/run/sw", port: anyPort, mode: -1}
	with := func(f func(*vdeConfig)) vdeConfig {
		cfg := plain
		f(&cfg)
		return cfg
	}
	tests := []struct {
		in   string
		want vdeConfig
		err  string
	}{
		{in: "/run/sw", want: plain},
		{in: "vde:///run/sw", want: plain},
		{in: "vde://", want: vdeConfig{port: anyPort, mode: -1}},
		{in: "vde:///run/sw[]", want: plain},
		{in: "/run/sw[3]", want: with(func(c *vdeConfig) { c.port = 3 })},
		{in: "/run/sw[0]", want: with(func(c *vdeConfig) { c.port = 0 })},
		{in: "/run/sw[port=12]", want: with(func(c *vdeConfig) { c.port = 12 })},
		{in: "/run/sw[portgroup=12]", want: with(func(c *vdeConfig) { c.port = 12 })},
		{in: "/run/sw[portgroup=lab]", want: with(func(c *vdeConfig) { c.portgroup = "lab" })},
		{in: "/run/sw[lab/mode=0660/group=vde]", want: with(func(c *vdeConfig) {
			c.portgroup, c.mode, c.group = "lab", 0o660, "vde"
		})},
		{in: "/run/sw[mode=0]", want: with(func(c *vdeConfig) { c.mode = 0 })},

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
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			l, err := Parse(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			got, err := parseVDE(l)
			if tt.err != "" {
				wantError(t, err, tt.err)
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("got %+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
}

func TestVDERequest(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the bytes are those of a little-endian host")
	}
	for _, tt := range []struct {
		port int
		kind string
	}{{anyPort, "00000000"}, {0, "01000000"}, {3, "00030000"}, {maxPort, "00ffffff"}} {
		got := makeVDERequest(tt.port, "/tmp/sw/.11961-00000", "hello user=root pid=11961")
		want, err := hex.DecodeString("cefaedfe" + "03000000" + tt.kind + "0100" +
			"2f746d702f73772f2e31313936312d3030303030" + strings.Repeat("00", 88) +
			"68656c6c6f20757365723d726f6f74207069643d3131393631")
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 147 || !bytes.Equal(got, want) {
			t.Errorf("port %d: got % x, want % x", tt.port, got, want)
		}
	}
}

// vdeReply makes the answer of a switch.
func vdeReply(family uint16, path string) []byte {
	b := make([]byte, unixAddrLen)
	binary.NativeEndian.PutUint16(b, family)
	copy(b[2:], path)
	return b
}

func TestVDEReply(t *testing.T) {
	long := "/" + strings.Repeat("x", 106)
	tests := []struct {
		name, path, err string
		reply           []byte
	}{
		{name: "path", reply: vdeReply(1, "/run/sw/003.6"), path: "/run/sw/003.6"},
		{name: "longest path", reply: vdeReply(1, long), path: long},
		{name: "bytes after the path", reply: vdeReply(1, "/a\x00b"), path: "/a"},
		{name: "abstract", reply: vdeReply(1, "\x00name"), path: "@name" + strings.Repeat("\x00", 103)},
		{name: "unnamed", reply: vdeReply(1, ""), err: "empty address"},
		{name: "family", reply: vdeReply(2, "/run/sw/003.6"), err: "family 2"},
		{name: "relative", reply: vdeReply(1, "003.6"), err: `"003.6", which is no absolute path`},
		{name: "no end", reply: vdeReply(1, long+"x"), err: "no absolute path"},
		{name: "nothing", err: "0 bytes, want 110"},
		{name: "short", reply: vdeReply(1, "/a")[:20], err: "20 bytes, want 110"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path, err := parseVDEReply(tt.reply)
			if tt.err != "" {
				wantError(t, err, tt.err)
				return
			}
			if path != tt.path || err != nil {
				t.Errorf("got %q, %v, want %q", path, err, tt.path)
			}
		})
	}
}

// FuzzVDEReply accepts addresses that can be given to the kernel, and no others.
func FuzzVDEReply(f *testing.F) {
	f.Add(vdeReply(1, "/run/sw/003.6"))
	f.Add(vdeReply(1, "\x00name"))
	f.Add(vdeReply(7, ""))
	f.Add([]byte{1, 0, '/'})
	f.Fuzz(func(t *testing.T, b []byte) {
		path, err := parseVDEReply(b)
		if err != nil {
			return
		}
		back := make([]byte, unixAddrLen)
		copy(back, b[:2])
		copy(back[2:], path)
		switch path[0] {
		case '@':
			back[2] = 0
		case '/':
			if strings.Contains(path, "\x00") || len(path) >= unixPathLen {
				t.Errorf("%q is no path", path)
			}
			copy(back[2+len(path):], b[2+len(path):]) // what is after the path does not count
			if b[2+len(path)] != 0 {
				t.Errorf("%q is not all of the path", path)
			}
		default:
			t.Errorf("%q is neither a path nor abstract", path)
		}
		if !bytes.Equal(back, b) {
			t.Errorf("% x became %q", b, path)
		}
	})
}

func TestDescribe(t *testing.T) {
	ctx := t.Context()
	t.Setenv("SSH_CLIENT", "")
	name := userName(ctx)
	if got, want := describe(ctx, &Options{}), fmt.Sprintf("vdestack user=%s pid=%d", name, os.Getpid()); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	t.Setenv("SSH_CLIENT", "192.0.2.1 5555 22")
	want := fmt.Sprintf("lab?1 user=%s pid=%d SSH=192.0.2.1", name, os.Getpid())
	if got := describe(ctx, &Options{Description: "lab\n1"}); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	got := describe(ctx, &Options{Description: "x" + strings.Repeat("ü", 100)})
	if len(got) > maxDescription || len(got) < maxDescription-1 || !utf8.ValidString(got) {
		t.Errorf("got %d bytes: %q", len(got), got)
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if got := userName(canceled); got != name && got != fmt.Sprint(os.Geteuid()) {
		t.Errorf("a name that is not there at once: got %q", got)
	}
}
