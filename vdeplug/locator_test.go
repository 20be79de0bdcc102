package vdeplug

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
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
				plugtest.WantError(t, err, tt.err)
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

func word(name string) Option         { return Option{Name: name} }
func setting(name, val string) Option { return Option{name, val, true} }

// A parsedTest is a locator and its parts.
type parsedTest struct {
	in      string
	addr    string
	options []Option
	inner   string
	err     string
}

// bracketed and slashed are locators and what they mean. The C programs read them alike, or
// reject them.
var (
	bracketed = []parsedTest{
		{in: "vde://"},
		{in: "/run/sw", addr: "/run/sw"},
		{in: "vde:///run/s%779", addr: "/run/sw9"},
		{in: `vde://'/run/sw9'["5"]`, addr: "/run/sw9", options: []Option{word("5")}},
		{in: "vde:///run/sw[3/mode=0660/group=vde]", addr: "/run/sw",
			options: []Option{word("3"), setting("mode", "0660"), setting("group", "vde")}},
		{in: "vde://sw[//foo/]", addr: "sw", options: []Option{word("foo")}},
		{in: "vde://sw[]", addr: "sw"},
		{in: "vde://sw[mode]", addr: "sw", options: []Option{word("mode")}},
		{in: "vde://sw[mode=]", addr: "sw", options: []Option{setting("mode", "")}},
		{in: "vde://sw[mode%3d7]", addr: "sw", options: []Option{setting("mode", "7")}},
		{in: "vde://sw[mode=a=b]", addr: "sw", options: []Option{setting("mode", "a=b")}},
		{in: "vde://sw[a]b]", addr: "sw", options: []Option{word("a]b")}},
		{in: `vde://a\[b[c\/d]`, addr: "a[b", options: []Option{word("c/d")}},
		{in: `vde://'a\'"b\%2f"`, addr: `a\b\%2f`},
		{in: "vde://a%2Fb%zzc%2", addr: "a/b%zzc%2"},
		{in: "agno:///key[ethtype=copy]{vxvde://}", addr: "/key", options: []Option{setting("ethtype", "copy")}, inner: "vxvde://"},
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
	slashed = []parsedTest{
		{in: "vxvde://"},
		{in: "vxvde:///"},
		{in: "vxvde://239.1.2.3/port=5555/vni=12345/ttl=7", addr: "239.1.2.3",
			options: []Option{setting("port", "5555"), setting("vni", "12345"), setting("ttl", "7")}},
		{in: "vxvde:///vni=3", options: []Option{setting("vni", "3")}},
		{in: "vxvde:///v6//vni", options: []Option{word("v6"), word("vni")}},
		{in: "slirp:///addr=10.9.0.1%2f24", options: []Option{setting("addr", "10.9.0.1/24")}},
		{in: "slirp:///addr='1.2.3.4/24'", options: []Option{setting("addr", "1.2.3.4/24")}},
		{in: "slirp:///addr=1.2.3.4/24", options: []Option{setting("addr", "1.2.3.4"), word("24")}},
		{in: "vlan://4{vlan://5/qinq{vxvde://234.0.0.1}}", addr: "4", inner: "vlan://5/qinq{vxvde://234.0.0.1}"},
		{in: "vlan://3/untag=4/trunk/tag=10:11-12:12-11{vde:///run/sw}", addr: "3",
			options: []Option{setting("untag", "4"), word("trunk"), setting("tag", "10:11-12:12-11")}, inner: "vde:///run/sw"},
		{in: "vlan://3[untag=4]", addr: "3[untag=4]"},

		{in: "vlan://4{vde://x}/u=3", err: `byte 17, at "/u=3": text after "}"`},
		{in: "vlan://4/=3", err: `byte 9, at "=3": no name before "="`},
		{in: "vlan://4/u='3", err: `byte 11, at "'3": this quote does not end`},
	}
)

func TestParsedLocator(t *testing.T) {
	for _, style := range []struct {
		name  string
		parse func(Locator) (ParsedLocator, error)
		tests []parsedTest
	}{{"bracketed", Locator.ParseBracketed, bracketed}, {"slashed", Locator.ParseSlashed, slashed}} {
		for _, tt := range style.tests {
			t.Run(style.name+" "+tt.in, func(t *testing.T) {
				want := ParsedLocator{Addr: tt.addr, Options: tt.options, Inner: tt.inner, HasInner: tt.inner != ""}
				testParse(t, tt.in, func(l Locator) (ParsedLocator, error) {
					p, err := style.parse(l)
					p.scheme = ""
					return p, err
				}, want, tt.err)
			})
		}
	}
}

func TestApply(t *testing.T) {
	tests := []struct{ name, in, got, err string }{
		{name: "none", in: "xtest://"},
		{name: "all", in: "xtest:///vni=4/v6/7", got: "vni=4 v6 word=7"},
		{name: "unknown", in: "xtest:///vnii=4", err: `xtest option "vnii=4": unknown (have ttl, v6, vni)`},
		{name: "prefix", in: "xtest:///v=4", err: `xtest option "v=4": unknown`},
		{name: "bad", in: "xtest:///ttl=4", err: `xtest option "ttl=4": no such thing`},
		{name: "twice", in: "xtest:///vni=4/v6/vni=5", err: `xtest option "vni=5": already set by "vni=4"`},
		{name: "two words", in: "xtest:///3/4", err: `xtest option "4": already set by "3"`},
		{name: "no options", in: "null:///x", err: `null option "x": unknown (it has no options)`},
		{name: "inner", in: "xtest:///vni=4{x}", err: `xtest: {x}: it has no inner network`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var words []string
			allowed := map[string]func(string, bool) error{
				"vni": func(value string, has bool) error { words = append(words, "vni="+value); return nil },
				"v6": func(value string, has bool) error {
					if has {
						return errors.New("has a value")
					}
					words = append(words, "v6")
					return nil
				},
				"ttl": func(string, bool) error { return errors.New("no such thing") },
				"":    func(value string, has bool) error { words = append(words, fmt.Sprint("word=", value)); return nil },
			}
			if tt.name == "no options" {
				allowed = nil
			}
			testParse(t, tt.in, func(l Locator) (string, error) {
				p, err := l.ParseSlashed()
				testenv.Check(t, err)
				err = p.Apply(allowed)
				return strings.Join(words, " "), err
			}, tt.got, tt.err)
		})
	}
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
		for _, read := range []func(Locator) (ParsedLocator, error){Locator.ParseBracketed, Locator.ParseSlashed} {
			p, err := read(l)
			if err != nil {
				continue
			}
			if strings.Contains(p.Addr, "\x00") {
				t.Fatalf("%q: NUL in %q", vnl, p.Addr)
			}
			p.Apply(nil)
			if p.HasInner {
				Parse(p.Inner)
			}
		}
	})
}

// FuzzParsedLocator writes a locator in both styles and reads it again.
func FuzzParsedLocator(f *testing.F) {
	f.Add("/run/sw", "port", "3", "vde://'x'[3]{y}")
	f.Add(`a'"\%20[]{}/`, "a]b", `=/'"\%41`, "")
	f.Fuzz(func(t *testing.T, addr, name, value, inner string) {
		_, bad := mask(inner)
		if strings.Contains(addr+name+value+inner, "\x00") || name == "" || strings.Contains(name, "=") || bad >= 0 {
			t.Skip()
		}
		quoteSlash := func(s string) string { return strings.ReplaceAll(quote(s), "/", `\/`) }
		want := ParsedLocator{Addr: addr, Options: []Option{setting(name, value), word(name)}, Inner: inner, HasInner: true, scheme: "x"}
		options := quoteSlash(name) + "=" + quoteSlash(value) + "/" + quoteSlash(name)
		testParse(t, "x://"+quote(addr)+"["+options+"]{"+inner+"}", Locator.ParseBracketed, want, "")
		testParse(t, "x://"+quoteSlash(addr)+"/"+options+"{"+inner+"}", Locator.ParseSlashed, want, "")
	})
}

func BenchmarkParse(b *testing.B) {
	for _, vnl := range []string{"/run/vde.ctl", "vde:///run/switch[3]", "vxvde://234.0.0.1/port=14789/ttl=2", "cmd://vde_plug vde:///run/vde.ctl"} {
		b.Run(vnl, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, err := Parse(vnl)
				testenv.Check(b, err)
			}
		})
	}
}

func BenchmarkTarget(b *testing.B) {
	for _, tt := range []struct {
		vnl   string
		parse func(Locator) (ParsedLocator, error)
	}{
		{"vde:///run/switch[3]", Locator.ParseBracketed},
		{"vxvde://234.0.0.1/port=14789/ttl=2", Locator.ParseSlashed},
	} {
		l := testenv.Must(Parse(tt.vnl))(b)
		b.Run(tt.vnl, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, err := tt.parse(l)
				testenv.Check(b, err)
			}
		})
	}
}
