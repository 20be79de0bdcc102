package vdeplug

import (
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

var update = flag.Bool("update", false, "write the list of networks in doc.go")

// TestDocNetworks checks that every scheme is described, and has the list of networks in the
// package's documentation say what the schemes say of themselves.
func TestDocNetworks(t *testing.T) {
	var want strings.Builder
	first := make(map[string]string) // scheme with the same options
	for _, scheme := range Schemes() {
		u, ok := UsageOf(scheme)
		if !ok || !strings.HasPrefix(u.Form, scheme+"://") || u.About == "" {
			t.Errorf("%s: %+v", scheme, u)
		}
		for _, o := range u.Options {
			if o.About == "" || o.Name == "" && o.Value == "" || o.Default != "" && o.Value == "" {
				t.Errorf("%s: %+v", scheme, o)
			}
		}
		options := fmt.Sprint(u.Options)
		switch same := first[options]; {
		case same == "":
			first[options] = scheme
		case len(u.Options) > 0:
			u.Options = nil
			u.About += "; the options of " + same
		}
		for line := range strings.Lines(u.String()) {
			want.WriteString("//\t" + line)
		}
	}
	testenv.CheckGenerated(t, "doc.go", `(?s)// # Networks\n.*?//\n((?://\t[^\n]*\n)+)`, want.String(), *update)
}

func TestUsage(t *testing.T) {
	want := "x://\n    a test\n      N         a word; 3 by default\n      opt=TEXT  a text (also o)\n      flag      no value\n"
	if got := fmt.Sprint(Usage{"x://", "a test", []OptionUsage{
		{Value: "N", Default: "3", About: "a word"}, {Name: "opt", Value: "TEXT", Aliases: []string{"o"}, About: "a text"}, {Name: "flag", About: "no value"},
	}}); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, ok := UsageOf("no-such"); ok {
		t.Error("an unknown scheme is described")
	}
}

// TestUsageParsed parses each option, with its default if there is one, and checks that there
// are no others.
func TestUsageParsed(t *testing.T) {
	parsers := map[string]func(Locator) error{
		"vde":    func(l Locator) error { _, err := parseVDE(l); return err },
		"vxvde":  func(l Locator) error { _, err := parseVXVDE(t.Context(), l); return err },
		"vxlan":  func(l Locator) error { _, err := parseVXLAN(t.Context(), l); return err },
		"vlan":   func(l Locator) error { _, _, err := parseVLAN(l); return err },
		"agno":   func(l Locator) error { _, _, err := parseAGNO(l); return err },
		"ptp":    func(l Locator) error { _, _, err := parsePTP(l); return err },
		"vdesl":  func(l Locator) error { _, err := parseVDESL(l); return err },
		"netemu": func(l Locator) error { _, _, err := parseNetemu(l); return err },
	}
	for _, scheme := range []string{"switch", "hub", "multi", "bonding"} {
		parsers[scheme] = func(l Locator) error { _, err := parseSwitch(l); return err }
	}
	// Values of options without a default.
	values := map[string]string{"N": "3", "NAME": "lo", "GROUP": "0", "LIST": "5:6-7", "ADDRESS": "127.0.0.1", "BYTES": "2M", "HOST,HOST...": "127.0.0.1", "file:PATH": "file:hosts", "MODE": "640", "NUMBER": "7", "RATE": "1mbit"}
	for _, scheme := range Schemes() {
		u, _ := UsageOf(scheme)
		parse := parsers[scheme]
		if parse == nil {
			if len(u.Options) > 0 {
				t.Errorf("%s has options: add its parser to parsers", scheme)
			}
			continue
		}
		inBody := func(option string) string {
			if strings.Contains(u.Form, "[[OPTIONS]]") {
				return "/x[" + option + "]"
			}
			return "/" + option
		}
		// The error for an unknown option lists the known ones.
		allowed := make(map[string]string)
		words := false // any word is the value of an option without a name
		for _, o := range u.Options {
			for _, name := range append([]string{o.Name}, o.Aliases...) {
				allowed[name] = name
				words = words || name == ""
			}
		}
		for _, option := range []string{"no-such=1", "no-such"} {
			if option == "no-such" && words {
				continue
			}
			err := parse(Locator{scheme, inBody(option)})
			plugtest.WantError(t, err, fmt.Sprintf("%s option %q: unknown (%s)", scheme, option, optionNames(allowed)))
		}
		for _, o := range u.Options {
			value := o.Default
			if value == "" {
				value = values[o.Value]
			}
			for _, name := range append([]string{o.Name}, o.Aliases...) {
				text := name
				if o.Value != "" {
					text = strings.TrimPrefix(name+"="+value, "=")
				}
				body := inBody(text)
				if err := parse(Locator{scheme, body}); err != nil && !strings.Contains(err.Error(), "no such interface") {
					t.Errorf("%s://%s: %v", scheme, body, err)
				}
				if o.Value == "" {
					body = strings.Replace(body, text, text+"=1", 1)
					if err := parse(Locator{scheme, body}); err == nil {
						t.Errorf("%s://%s takes a value", scheme, body)
					}
				}
			}
		}
	}
}
