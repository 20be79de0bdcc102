package vdeplug

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

func TestResolve(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string { return writeFile(t, filepath.Join(dir, name), text) }
	inner := write("inner.vnl", "null://\n")
	tests := []struct{ name, in, want, err string }{
		{name: "scheme", in: "null://x", want: "null://x"},
		{name: "command", in: "=a b", want: "cmd://a b"},
		{name: "path", in: "/nowhere/sw[3]", want: "vde:///nowhere/sw[3]"},
		{name: "directory", in: dir, want: "vde://" + dir},
		{name: "file", in: inner, want: "null://"},
		{name: "no newline", in: write("a", "vde:///sw[45]"), want: "vde:///sw[45]"},
		{name: "carriage return", in: write("b", "mem://x\r\nmore\n"), want: "mem://x"},
		{name: "path in file", in: write("c", "/run/sw\n"), want: "vde:///run/sw"},
		{name: "scheme keeps the file", in: "vde://" + inner, want: "vde://" + inner},
		{name: "empty file", in: write("d", ""), err: "the first line is empty; it must be a locator"},
		{name: "empty line", in: write("e", "\nvde://\n"), err: "the first line is empty"},
		{name: "file in file", in: write("f", inner+"\n"), err: "names another file, \"" + inner + "\""},
		{name: "long line", in: write("g", strings.Repeat("a", maxLine+1)), err: "the first line is longer than 65536 bytes"},
		{name: "binary", in: write("h", "\x7fELF\x02\x00\n"), err: "NUL at byte 5"},
		{name: "nonsense", in: write("i", "#!/bin/sh -e # ://\n"), err: "is no scheme"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, _, err := resolve(tt.in)
			if tt.err != "" {
				plugtest.WantError(t, err, tt.err)
			} else if err != nil || l.String() != tt.want {
				t.Errorf("got %q, %v, want %q", l, err, tt.want)
			}
		})
	}
}

func TestDefaultNetwork(t *testing.T) {
	system := Locator{scheme: "vde"}
	check := func(t *testing.T, want Locator) {
		t.Helper()
		if l, _, err := resolve(""); err != nil || l != want {
			t.Errorf("got %q, %v, want %q", l, err, want)
		}
		if l, _, err := resolve("vde://"); err != nil || l != system {
			t.Errorf("vde:// is %q, %v, want the switch of the system", l, err)
		}
	}
	t.Run("no home", func(t *testing.T) {
		t.Setenv("HOME", "")
		check(t, system)
	})
	t.Run("nothing there", func(t *testing.T) {
		t.Setenv("HOME", t.TempDir())
		check(t, system)
	})

	home := filepath.Join(t.TempDir(), "a[b]")
	t.Setenv("HOME", home)
	for _, dir := range []string{".vdeplug", ".vde2/default.switch"} {
		testenv.Check(t, os.MkdirAll(filepath.Join(home, dir), 0o700))
	}
	t.Run("old name", func(t *testing.T) {
		check(t, Locator{"vde", quote(home + "/.vde2/default.switch")})
	})
	def := filepath.Join(home, ".vdeplug/default")
	t.Run("file", func(t *testing.T) {
		writeFile(t, def, "mem://default\n")
		check(t, Locator{"mem", "default"})
		os.Remove(def)
	})
	t.Run("dangling link", func(t *testing.T) {
		testenv.Check(t, os.Symlink("/nowhere/at/all", def))
		check(t, Locator{"vde", quote(def)})
	})
}

// TestNoBraces leaves out the inner network: the error says which one was meant.
func TestNoBraces(t *testing.T) {
	t.Setenv("HOME", "")
	wantOpenError(t, "netemu://loss=1%", `open "netemu://loss=1%": no inner network: write it between braces at the end, as netemu://loss=1%{mem://lab}; {} is your default network`)
	for _, vnl := range []string{"netemu://{}", "vlan://5"} {
		if c, err := Open(vnl, nil); err == nil {
			c.Close() // a switch of the system
		} else {
			plugtest.WantError(t, err, `no inner network is named between braces, as {mem://lab}, so it is the user's default: default network vde://: `)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	_, err := Open("nosuch://x", nil)
	plugtest.WantError(t, err, `vdeplug: open "nosuch://x": unknown scheme "nosuch" (have `, errors.ErrUnsupported)
	if e, ok := errors.AsType[*Error](err); !ok || e.VNL != "nosuch://x" {
		t.Errorf("got %#v, want an Error with the locator", err)
	}
	wantOpenError(t, "slirp://", `vdeplug: open "slirp://": scheme "slirp" is in a module of its own (import _ "github.com/vdestack/vdestack/slirp"): `)
	wantOpenError(t, "/a://b", `vdeplug: open "/a://b": "/a" before "://" is no scheme`)

	file := writeFile(t, filepath.Join(t.TempDir(), "net.vnl"), "nosuch://y\n")
	wantOpenError(t, file, `file `+file+` says "nosuch://y": unknown scheme "nosuch"`)

	testenv.Check(t, os.Chmod(file, 0))
	if _, err = Open(file, nil); os.Geteuid() != 0 && !errors.Is(err, fs.ErrPermission) {
		t.Errorf("got %v, want the error of reading the file", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := OpenContext(ctx, "nosuch://x", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the end of the context", err)
	}
}

func TestRegister(t *testing.T) {
	registerTest(t, "registertest", func(context.Context) (Conn, error) { return nil, errors.New("no network") })
	open := func(context.Context, Locator, *Options) (Conn, error) { return nil, nil }
	for _, s := range []Scheme{{Open: open}, {Name: "a/b", Open: open}, {Name: "registertest", Open: open}, {Name: "registertest.none"}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Register(%q) did not panic", s.Name)
				}
			}()
			Register(s)
		}()
	}
	wantOpenError(t, "registertest://", `vdeplug: open "registertest://": no network`)
	registerTest(t, "registertest.nil", func(context.Context) (Conn, error) { return nil, nil })
	wantOpenError(t, "registertest.nil://", `vdeplug: open "registertest.nil://": the function Open of scheme "registertest.nil" has returned neither a plug nor an error`)
}
