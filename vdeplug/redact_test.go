package vdeplug

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

func TestRedact(t *testing.T) {
	registry.mu.Lock()
	registry.schemes["testsecret"] = Scheme{Name: "testsecret", Usage: Usage{Options: []OptionUsage{
		{Name: "open", Value: "TEXT"},
		{Name: "password", Aliases: []string{"pw"}, Value: "TEXT", Secret: true},
		{Name: "key", Value: "TEXT", Secret: true},
	}}}
	registry.mu.Unlock()
	t.Cleanup(func() {
		registry.mu.Lock()
		defer registry.mu.Unlock()
		delete(registry.schemes, "testsecret")
	})
	for in, want := range map[string]string{
		"":                            "",
		"/run/sw[3]":                  "/run/sw[3]",
		"mem://lab":                   "mem://lab",
		"vde://a=b":                   "vde://a=b",
		"vlan://5{mem://lab}":         "vlan://5{mem://lab}",
		"vlan://5{":                   "vlan://5{",
		`vde://'/a{b}'`:               `vde://'/a{b}'`,
		"udp://1->h:2":                "udp://1->h:2",
		"cmd://":                      "cmd://",
		"cmd://vde_plug":              "cmd://vde_plug",
		"=vde_plug":                   "=vde_plug",
		"cmd://ssh SECRET":            "cmd://ssh …",
		"= ssh SECRET":                "=ssh …",
		"=a;b SECRET":                 "=a …",
		"cmd://'/opt/my plug' SECRET": "cmd:///opt/my plug …",
		"cmd://a {SECRET}":            "cmd://a …",
		"cmd://'ssh SECRET":           "cmd://…",
		"cmd://a \x00 SECRET":         "cmd://…",
		"vlan://5{cmd://ssh SECRET}":  "vlan://5{cmd://ssh …}",
		"vlan://5{netemu:///delay=1{=ssh SECRET}}": "vlan://5{netemu:///delay=1{=ssh …}}",
		"vlan://'a{b'{=ssh SECRET}":                "vlan://'a{b'{=ssh …}",
		"vlan://5{=ssh SECRET":                     "vlan://5{=ssh …",
		"testsecret:///open=1":                     "testsecret:///open=1",
		"testsecret:///open=1/password=SECRET":     "testsecret:///open=1/password=…",
		"testsecret:///key=SECRET/pw=SECRET{x}":    "testsecret:///key=…",
		"agno://{testsecret:///pw=SECRET/open=1}":  "agno://{testsecret:///pw=…}",
		`testsecret:///pw=a\{SECRET`:               "testsecret:///pw=…",
		// Nobody knows what is secret.
		"unknown://x":                     "unknown://x",
		"unknown:///a/b=SECRET/c=SECRET":  "unknown:///a/b=…",
		"vlan://5{unknown://x[a=SECRET]}": "vlan://5{unknown://x[a=…}",
		// All ways to write the name of an option.
		`testsecret:///open=%31/pw%3dSECRET`: `testsecret:///open=%31/pw%3d…`,
		`testsecret:///'pw'=SECRET`:          `testsecret:///'pw'=…`,
		`testsecret:///"pw=SECRET"`:          `testsecret:///"pw=…`,
		`testsecret:///p\w\=SECRET`:          `testsecret:///p\w\=…`,
		`testsecret:///%70%77=SECRET`:        `testsecret:///%70%77=…`,
		`testsecret:///open=a\`:              `testsecret:///open=a\`,
		`testsecret:///open=%`:               `testsecret:///open=%`,
	} {
		if got := Redact(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// TestRedactedErrors opens networks that cannot be opened.
func TestRedactedErrors(t *testing.T) {
	const command = "cmd://nosuchprogram SECRET"
	file := filepath.Join(t.TempDir(), "x.vnl")
	testenv.Check(t, os.WriteFile(file, []byte(command), 0o600))
	for vnl, want := range map[string]string{
		command:                     "",
		"vlan://5{" + command + "}": `inner network "cmd://nosuchprogram …"`,
		"vde://x{" + command + "}":  "{cmd://nosuchprogram …}",
		file:                        `says "cmd://nosuchprogram …"`,
	} {
		_, err := Open(vnl, nil)
		if err == nil || strings.Contains(err.Error(), "SECRET") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", vnl, err)
		}
		if e, ok := errors.AsType[*Error](err); !ok || e.VNL != vnl {
			t.Errorf("%s: the locator is not in %+v", vnl, e)
		}
	}
	if got := fmt.Sprint(&Error{"recv", command, errors.New("x")}); got != `vdeplug: recv "cmd://nosuchprogram …": x` {
		t.Error(got)
	}
}
