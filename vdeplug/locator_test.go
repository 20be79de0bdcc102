package vdeplug

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/plugtest"
)

func TestParse(t *testing.T) {
	tests := []struct{ name, in, scheme, body, err string }{
		{name: "bare path", in: "/run/sw[6]", scheme: "vde", body: "/run/sw[6]"},
		{name: "relative path", in: "sw", scheme: "vde", body: "sw"},
		{name: "empty", in: "", scheme: "vde", body: ""},
		{name: "scheme only", in: "vde://", scheme: "vde", body: ""},
		{name: "case matters", in: "VDE://x", scheme: "VDE", body: "x"},
		{name: "first separator", in: "vlan://4{vxvde://}", scheme: "vlan", body: "4{vxvde://}"},
		{name: "command", in: "=ssh host vde_plug vxvde://", scheme: "cmd", body: "ssh host vde_plug vxvde://"},
		{name: "cmd scheme", in: "cmd://vde_plug", scheme: "cmd", body: "vde_plug"},
		{name: "no scheme", in: "://x", err: `vdeplug: parse "://x": "" before "://" is no scheme`},
		{name: "path with separator", in: "/a://b", err: `"/a" before "://" is no scheme (a path with "://" in it is written vde://PATH)`},
		{name: "nul", in: "vde://a\x00b", err: "NUL at byte 7"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, err := Parse(tt.in)
			if tt.err != "" {
				wantError(t, err, tt.err)
				return
			}
			if err != nil || l.Scheme() != tt.scheme || l.Body() != tt.body {
				t.Errorf("got %q, %q, %v, want %q, %q", l.Scheme(), l.Body(), err, tt.scheme, tt.body)
			}
			if again, err := Parse(l.String()); err != nil || again != l {
				t.Errorf("%q is read as %#v, %v, want %#v", l, again, err, l)
			}
		})
	}
}

func TestZeroLocator(t *testing.T) {
	if l, err := Parse(""); err != nil || l != (Locator{}) {
		t.Errorf("got %#v, %v, want the zero locator", l, err)
	}
	if l, err := Parse("vde://"); err != nil || l == (Locator{}) {
		t.Errorf("got %#v, %v, want one that is not the default network", l, err)
	}
}

var wantError = plugtest.WantError

func word(name string) Option         { return Option{Name: name} }
func setting(name, val string) Option { return Option{name, val, true} }

// bracketed and slashed are the readings of one body that the sheet of the
// grammar gives, each seen with the C programs, and ours where they refuse.
var (
	bracketed = []struct {
		in     string
		addr   string
		params []Option
		inner  string
		err    string
	}{
		{in: "vde://"},
		{in: "/run/sw", addr: "/run/sw"},
		{in: "vde:///run/s%779", addr: "/run/sw9"},
		{in: `vde://'/run/sw9'["5"]`, addr: "/run/sw9", params: []Option{word("5")}},
		{in: "vde:///run/sw[3/mode=0660/group=vde]", addr: "/run/sw",
			params: []Option{word("3"), setting("mode", "0660"), setting("group", "vde")}},
		{in: "vde://sw[//foo/]", addr: "sw", params: []Option{word("foo")}},
		{in: "vde://sw[]", addr: "sw"},
		{in: "vde://sw[mode]", addr: "sw", params: []Option{word("mode")}},
		{in: "vde://sw[mode=]", addr: "sw", params: []Option{setting("mode", "")}},
		{in: "vde://sw[mode%3d7]", addr: "sw", params: []Option{setting("mode", "7")}},
		{in: "vde://sw[mode=a=b]", addr: "sw", params: []Option{setting("mode", "a=b")}},
		{in: "vde://sw[a]b]", addr: "sw", params: []Option{word("a]b")}},
		{in: `vde://a\[b[c\/d]`, addr: "a[b", params: []Option{word("c/d")}},
		{in: `vde://'a\'"b\%2f"`, addr: `a\b\%2f`},
		{in: "vde://a%2Fb%zzc%2", addr: "a/b%zzc%2"},
		{in: "agno:///key[ethtype=copy]{vxvde://}", addr: "/key", params: []Option{setting("ethtype", "copy")}, inner: "vxvde://"},
		{in: "agno://{vde://a[b]{c}}", inner: "vde://a[b]{c}"},
		{in: `agno://'{'{vde://"}"%7d}`, addr: "{", inner: `vde://"}"%7d`},
		{in: "vde://sw]", addr: "sw]"},

		{in: "vde://sw[3", err: `byte 8, at "[3": no "]" after this "["`},
		{in: "sw[3", err: `byte 2, at "[3": no "]" after this "["`},
		{in: "vde://s]w[3", err: `byte 9, at "[3": no "]"`},
		{in: "vde://sw[3]tail", err: `byte 11, at "tail": text after "]"`},
		{in: "vde://sw[3]{x}y", err: `byte 14, at "y": text after "}"`},
		{in: "vde://sw{x", err: `byte 8, at "{x": no "}" after this "{"`},
		{in: "vde://sw'x", err: `byte 8, at "'x": this quote does not end`},
		{in: `vde://sw["x]`, err: `byte 9, at "\"x]": this quote does not end`},
		{in: `vde://sw\`, err: `byte 8, at "\\": nothing after this backslash`},
		{in: "vde://sw[=3]", err: `byte 9, at "=3]": no name before "="`},
		{in: "vde://sw[a/b%00]", err: `byte 12, at "%00]": NUL has no place in a locator`},
		{in: "vde://x{" + strings.Repeat("a", 40), err: "{" + strings.Repeat("a", 23) + `"…: no "}"`},
	}
	slashed = []struct {
		in     string
		addr   string
		params []Option
		inner  string
		err    string
	}{
		{in: "vxvde://"},
		{in: "vxvde:///"},
		{in: "vxvde://239.1.2.3/port=5555/vni=12345/ttl=7", addr: "239.1.2.3",
			params: []Option{setting("port", "5555"), setting("vni", "12345"), setting("ttl", "7")}},
		{in: "vxvde:///vni=3", params: []Option{setting("vni", "3")}},
		{in: "vxvde:///v6//vni", params: []Option{word("v6"), word("vni")}},
		{in: "slirp:///addr=10.9.0.1%2f24", params: []Option{setting("addr", "10.9.0.1/24")}},
		{in: "slirp:///addr='1.2.3.4/24'", params: []Option{setting("addr", "1.2.3.4/24")}},
		{in: "slirp:///addr=1.2.3.4/24", params: []Option{setting("addr", "1.2.3.4"), word("24")}},
		{in: "vlan://4{vlan://5/qinq{vxvde://234.0.0.1}}", addr: "4", inner: "vlan://5/qinq{vxvde://234.0.0.1}"},
		{in: "vlan://3/untag=4/trunk/tag=10:11-12:12-11{vde:///run/sw}", addr: "3",
			params: []Option{setting("untag", "4"), word("trunk"), setting("tag", "10:11-12:12-11")}, inner: "vde:///run/sw"},
		{in: "vlan://3[untag=4]", addr: "3[untag=4]"},

		{in: "vlan://4{vde://x}/u=3", err: `byte 17, at "/u=3": text after "}"`},
		{in: "vlan://4/=3", err: `byte 9, at "=3": no name before "="`},
		{in: "vlan://4/u='3", err: `byte 11, at "'3": this quote does not end`},
	}
)

func TestTarget(t *testing.T) {
	for _, tt := range bracketed {
		t.Run("bracketed "+tt.in, func(t *testing.T) {
			got, err := parseTarget(t, tt.in, Locator.Bracketed)
			checkTarget(t, got, err, ParsedLocator{Addr: tt.addr, Options: tt.params, Inner: tt.inner}, tt.err)
		})
	}
	for _, tt := range slashed {
		t.Run("slashed "+tt.in, func(t *testing.T) {
			got, err := parseTarget(t, tt.in, Locator.Slashed)
			checkTarget(t, got, err, ParsedLocator{Addr: tt.addr, Options: tt.params, Inner: tt.inner}, tt.err)
		})
	}
}

func parseTarget(t *testing.T, vnl string, read func(Locator) (ParsedLocator, error)) (ParsedLocator, error) {
	t.Helper()
	l, err := Parse(vnl)
	if err != nil {
		t.Fatal(err)
	}
	return read(l)
}

func checkTarget(t *testing.T, got ParsedLocator, err error, want ParsedLocator, text string) {
	t.Helper()
	if text != "" {
		wantError(t, err, text)
		return
	}
	got.scheme = ""
	want.HasInner = want.Inner != ""
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

func TestTargetOptions(t *testing.T) {
	tests := []struct{ name, in, got, err string }{
		{name: "none", in: "xtest://"},
		{name: "all", in: "xtest:///vni=4/v6/7", got: "vni=4 v6 word=7"},
		{name: "unknown", in: "xtest:///vnii=4", err: `xtest option "vnii=4": unknown (have ttl, v6, vni)`},
		{name: "prefix", in: "xtest:///v=4", err: `xtest option "v=4": unknown`},
		{name: "bad", in: "xtest:///ttl=4", err: `xtest option "ttl=4": no such thing`},
		{name: "twice", in: "xtest:///vni=4/v6/vni=5", err: `xtest option "vni=5": already set by "vni=4"`},
		{name: "two words", in: "xtest:///3/4", err: `xtest option "4": already set by "3"`},
		{name: "inner", in: "xtest:///vni=4{x}", err: `xtest: {x}: it has no inner network`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			target, err := parseTarget(t, tt.in, Locator.Slashed)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			err = target.Apply(map[string]func(string, bool) error{
				"vni": func(value string, has bool) error { got = append(got, "vni="+value); return nil },
				"v6": func(value string, has bool) error {
					if has {
						return errors.New("has a value")
					}
					got = append(got, "v6")
					return nil
				},
				"ttl": func(string, bool) error { return errors.New("no such thing") },
				"":    func(value string, has bool) error { got = append(got, fmt.Sprint("word=", value)); return nil },
			})
			if tt.err != "" {
				wantError(t, err, tt.err)
			} else if text := strings.Join(got, " "); err != nil || text != tt.got {
				t.Errorf("got %q, %v, want %q", text, err, tt.got)
			}
		})
	}
	target, err := parseTarget(t, "null:///x", Locator.Slashed)
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, target.Apply(nil), `null option "x": unknown (it has no options)`)
}

func FuzzParse(f *testing.F) {
	for _, tt := range bracketed {
		f.Add(tt.in)
	}
	for _, tt := range slashed {
		f.Add(tt.in)
	}
	f.Add("=a://b")
	f.Fuzz(func(t *testing.T, vnl string) {
		l, err := Parse(vnl)
		if err != nil {
			return
		}
		if again, err := Parse(l.String()); err != nil || again != l {
			t.Fatalf("%q is read as %#v, %v, want %#v", l, again, err, l)
		}
		for _, read := range []func(Locator) (ParsedLocator, error){Locator.Bracketed, Locator.Slashed} {
			target, err := read(l)
			if err != nil {
				continue
			}
			if strings.Contains(target.Addr, "\x00") {
				t.Fatalf("%q: NUL in %q", vnl, target.Addr)
			}
			target.Apply(nil)
			if target.HasInner {
				Parse(target.Inner)
			}
		}
	})
}

// FuzzTarget writes a target in both styles and reads it again.
func FuzzTarget(f *testing.F) {
	f.Add("/run/sw", "port", "3", "vde://'x'[3]{y}")
	f.Add(`a'"\%20[]{}/`, "a]b", `=/'"\%41`, "")
	f.Fuzz(func(t *testing.T, addr, name, value, inner string) {
		if strings.Contains(addr+name+value+inner, "\x00") || name == "" || strings.Contains(name, "=") || unbalanced(inner) >= 0 {
			t.Skip()
		}
		quoteSlash := func(s string) string { return strings.ReplaceAll(quote(s), "/", `\/`) }
		want := ParsedLocator{Addr: addr, Options: []Option{setting(name, value), word(name)}, Inner: inner, HasInner: true}
		options := quoteSlash(name) + "=" + quoteSlash(value) + "/" + quoteSlash(name)
		got, err := parseTarget(t, "x://"+quote(addr)+"["+options+"]{"+inner+"}", Locator.Bracketed)
		want.scheme = "x"
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("bracketed: got %+v, %v, want %+v", got, err, want)
		}
		got, err = parseTarget(t, "x://"+quoteSlash(addr)+"/"+options+"{"+inner+"}", Locator.Slashed)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("slashed: got %+v, %v, want %+v", got, err, want)
		}
	})
}
