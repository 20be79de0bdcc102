package vdeplug

import (
	"os"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

func ptpSeqName(t *testing.T) (path, vnl string) {
	t.Helper()
	path, vnl = ptpName(t)
	return path, vnl + "[seqpacket]"
}

func TestPTPParse(t *testing.T) {
	long := "/" + strings.Repeat("a", 89)
	for _, tt := range []struct {
		in, path  string
		seqpacket bool
		err       string
	}{
		{in: "ptp:///run/p", path: "/run/p"},
		{in: "ptp:///run/p%20'x", path: "/run/p%20'x"},
		{in: "ptp:///run/[a]b", path: "/run/[a]b"},
		{in: "ptp:///run/p[]", path: "/run/p"},
		{in: "ptp:///run/p[seqpacket]", path: "/run/p", seqpacket: true},
		{in: `ptp:///run/p\[a\]`, path: "/run/p[a]"},
		{in: "ptp://'/run/[a]'[seqpacket]", path: "/run/[a]", seqpacket: true},
		{in: "ptp://" + long + "[seqpacket]", path: long, seqpacket: true},

		{in: "ptp://", err: "no path given"},
		{in: "ptp://[seqpacket]", err: "no path given"},
		{in: "ptp:///run/p[datagram]", err: `ptp option "datagram": unknown (have seqpacket)`},
		{in: "ptp:///run/p[seqpacket=1]", err: "takes no value"},
		{in: "ptp://" + long + "a[seqpacket]", err: "has 91 bytes, a socket's path at most 90"},
	} {
		l, err := Parse(tt.in)
		if err != nil {
			t.Fatal(err)
		}
		path, seqpacket, err := parsePTP(l)
		if tt.err != "" {
			wantError(t, err, tt.err)
		} else if err != nil || path != tt.path || seqpacket != tt.seqpacket {
			t.Errorf("%s: got %q, %v, %v", tt.in, path, seqpacket, err)
		}
	}
}

// TestPTPVersions opens a pair of one version in the other.
func TestPTPVersions(t *testing.T) {
	testenv.NoLeaks(t)
	path, vnl := ptpName(t)
	c := openPlugTest(t, vnl)
	_, err := Open(vnl+"[seqpacket]", nil)
	wantError(t, err, path+" is a socket of another kind (vdeplug 4.0.1 has such, without the option seqpacket)")
	c.Close()
	c = openPlugTest(t, vnl+"[seqpacket]")
	defer c.Close()
	_, err = Open(vnl, nil)
	wantError(t, err, path+" is a socket of another kind (later versions of vdeplug have such, the option seqpacket)")
	if err := os.WriteFile(path+"2", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Open(vnl+"2[seqpacket]", nil)
	wantError(t, err, "exists and is no socket")
}
