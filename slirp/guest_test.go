package slirp

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/vdeplug"
)

func TestFirstGuest(t *testing.T) {
	for _, tt := range []struct{ vnl, want, err string }{
		{vnl: "slirp://", want: "{[fd00::f/64 10.0.2.15/24] [fe80::2 10.0.2.2] [10.0.2.3]}"},
		{vnl: "slirp:///v4/addr=10.9.0.1%2f16", want: "{[10.9.2.15/16] [10.9.0.1] [10.9.2.3]}"},
		{vnl: "slirp:///dhcp=10.0.2.99/vnameserver=10.0.2.7/v4", want: "{[10.0.2.99/24] [10.0.2.2] [10.0.2.7]}"},
		{vnl: "slirp:///v6", want: "{[fd00::f/64] [fe80::2] [fd00::3]}"},
		{vnl: "slirp:///v6/addr6=fd00::f%2f64/vnameserver6=fd00::10", want: "{[fd00::11/64] [fe80::2] [fd00::10]}"},
		{vnl: "slirp:///restricted", want: "{[fd00::f/64 10.0.2.15/24] [] []}"},
		{vnl: "slirp:///nonsense", err: "nonsense"},
		{vnl: "vde://", err: "not a slirp:// locator"},
		{vnl: "cmd://ssh SECRET", err: "cmd://ssh …: not"},
	} {
		l := testenv.Must(vdeplug.Parse(tt.vnl))(t)
		got, err := FirstGuest(l)
		switch {
		case tt.err != "":
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: got error %v, want %q", tt.vnl, err, tt.err)
			}
		case err != nil || fmt.Sprint(got) != tt.want:
			t.Errorf("%s: got %v, %v, want %s", tt.vnl, got, err, tt.want)
		}
	}
}

// TestUsage wants every option of the parser described, and no other.
func TestUsage(t *testing.T) {
	l := testenv.Must(vdeplug.Parse("slirp:///nonsense"))(t)
	_, err := parse(l)
	if err == nil {
		t.Fatal("an unknown option was taken")
	}
	var described []string
	for _, o := range usage.Options {
		described = append(append(described, o.Name), o.Aliases...)
	}
	slices.Sort(described)
	if want := strings.Join(described, ", "); !strings.Contains(err.Error(), want) {
		t.Errorf("described are %s, but %v", want, err)
	}
}
