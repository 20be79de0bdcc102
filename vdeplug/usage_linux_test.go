package vdeplug

import (
	"context"
	"strings"
	"testing"
)

// isTestScheme tells the schemes that tests register.
func isTestScheme(scheme string) bool { return strings.HasSuffix(scheme, "test") || scheme == "flaky" }

// TestUsage has every scheme described, with the default of each option one that
// the plug accepts: Options itself sees that the names are right.
func TestUsage(t *testing.T) {
	for _, scheme := range Schemes() {
		if isTestScheme(scheme) {
			continue
		}
		u, ok := UsageOf(scheme)
		if !ok {
			t.Errorf("%s is not described", scheme)
			continue
		}
		if !strings.HasPrefix(u.Form, scheme+"://") || u.About == "" {
			t.Errorf("%s: %+v", scheme, u)
		}
		for _, o := range u.Options {
			if o.About == "" || o.Name == "" && o.Value == "" || o.Default != "" && o.Value == "" {
				t.Errorf("%s: %+v", scheme, o)
			}
		}
	}
	if _, ok := UsageOf("no-such"); ok {
		t.Error("an unknown scheme is described")
	}
}

// TestUsageParsed reads each option, with its default if there is one.
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
	values := map[string]string{"N": "3", "NAME": "lo", "GROUP": "0", "LIST": "5:6-7", "ADDRESS": "127.0.0.1", "BYTES": "2M", "HOST,HOST...": "127.0.0.1", "MODE": "640", "NUMBER": "7", "RATE": "1mbit"}
	for _, scheme := range Schemes() {
		u, _ := UsageOf(scheme)
		parse := parsers[scheme]
		if parse == nil {
			if len(u.Options) > 0 {
				t.Errorf("%s has options, and no parser here", scheme)
			}
			continue
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
				body := "/" + text
				if strings.Contains(u.Form, "[[OPTIONS]]") {
					body = "/x[" + text + "]"
				}
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

// TestUsageHeld has a plug that reads other options than it describes.
func TestUsageHeld(t *testing.T) {
	Describe("usagetest", Usage{Form: "usagetest://", Options: []Option{{Name: "a", Aliases: []string{"b"}}}})
	Register("usagetest", func(_ context.Context, l Locator, _ *Options) (Conn, error) {
		target, err := l.Slashed()
		if err != nil {
			return nil, err
		}
		none := func(string, bool) error { return nil }
		allowed := map[string]func(string, bool) error{"a": none, "b": none}
		if target.Addr != "" {
			allowed[target.Addr] = none
		}
		if err := target.Options(allowed); err != nil {
			return nil, err
		}
		return openNull(t.Context(), l, nil)
	})
	defer unregister("usagetest")
	defer delete(usages.schemes, "usagetest")
	c, err := Open("usagetest:///a", nil)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	_, err = Open("usagetest://c", nil)
	wantError(t, err, `the plug has the options ["a" "b" "c"] and describes ["a" "b"]`)
}
