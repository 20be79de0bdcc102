package vdeplug

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestRestart opens a network again at its interval, with and without Reconnect.
func TestRestart(t *testing.T) {
	f, vnl := newFlaky(t)
	for _, tt := range []struct {
		seconds string
		every   time.Duration
		options *Options
	}{
		{"", 20 * time.Second, nil},
		{"3", 3 * time.Second, &Options{}},
		{"3", 3 * time.Second, &Options{Reconnect: true}},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := testenv.Must(Open(fmt.Sprintf("restart://%s{vlan://{%s}}", tt.seconds, vnl), tt.options))(t)
			defer c.Close()
			receiving(c)
			f.set(errTestAgain)
			f.end()
			last, had := time.Now(), len(f.attempts())
			time.Sleep(4 * tt.every)
			attempts := f.attempts()[had:]
			if len(attempts) < 4 {
				t.Errorf("%s: %d attempts", tt.seconds, len(attempts))
			}
			for _, at := range attempts {
				if d := at.Sub(last); d > tt.every || d < tt.every*3/4 {
					t.Errorf("%s: an attempt after %v", tt.seconds, d)
				}
				last = at
			}
			f.set(nil)
			time.Sleep(tt.every)
			wantLink(t, c, "back", nil, false, 1)
		})
	}
}

// TestRestartParsed reads locators.
func TestRestartParsed(t *testing.T) {
	for body, want := range map[string]string{
		"{mem://x}":      "20s mem://x",
		"7{vlan://4{}}":  "7s vlan://4{}",
		"86400{}":        "24h0m0s ",
		"":               "no inner network: write it between braces",
		"3":              "no inner network",
		"0{mem://x}":     "must be a number from 1 to 86400",
		"-1{mem://x}":    "must be a number",
		"1.5{mem://x}":   "must be a number",
		"86401{mem://x}": "must be a number",
		"3/x{mem://x}":   `restart option "x": unknown (it has no options)`,
		"3{mem://x":      `no "}"`,
	} {
		every, inner, err := parseRestart(Locator{"restart", body})
		if strings.Contains(want, "s ") && err == nil {
			if got := fmt.Sprint(every, " ", inner); got != want {
				t.Errorf("%s: got %s, want %s", body, got, want)
			}
			continue
		}
		plugtest.WantError(t, err, want)
	}
}
