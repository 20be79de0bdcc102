package vdeplug

import (
	"os"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

func TestPTPParse(t *testing.T) {
	long := "/" + strings.Repeat("a", 89)
	type ptpEnd struct {
		path      string
		seqpacket bool
	}
	testParses(t, flat(func(l Locator) (e ptpEnd, err error) {
		e.path, e.seqpacket, err = parsePTP(l)
		return e, err
	}), ptpEnd{}, []parseTest[ptpEnd]{
		{in: "ptp:///run/p", set: is(ptpEnd{"/run/p", false})},
		{in: "ptp:///run/p%20'x", set: is(ptpEnd{"/run/p%20'x", false})},
		{in: "ptp:///run/[a]b", set: is(ptpEnd{"/run/[a]b", false})},
		{in: "ptp:///run/p[]", set: is(ptpEnd{"/run/p", false})},
		{in: "ptp:///run/p[seqpacket]", set: is(ptpEnd{"/run/p", true})},
		{in: `ptp:///run/p\[a\]`, set: is(ptpEnd{"/run/p[a]", false})},
		{in: "ptp://'/run/[a]'[seqpacket]", set: is(ptpEnd{"/run/[a]", true})},
		{in: "ptp://" + long + "[seqpacket]", set: is(ptpEnd{long, true})},

		{in: "ptp://", err: "no path given"},
		{in: "ptp://[seqpacket]", err: "no path given"},
		{in: "ptp:///run/p[datagram]", err: `ptp option "datagram": unknown (have seqpacket)`},
		{in: "ptp:///run/p[seqpacket=1]", err: "takes no value"},
		{in: "ptp://" + long + "a[seqpacket]", err: "has 91 bytes, a socket's path at most 90"},
	})
}

// TestPTPVersions opens a pair of one version in the other.
func TestPTPVersions(t *testing.T) {
	testenv.NoLeaks(t)
	path, vnl := ptpName(t)
	c := openPlug(t, vnl)
	wantOpenError(t, vnl+"[seqpacket]", path+" is a socket of another kind (vdeplug 4.0.1 makes it, without the option seqpacket)")
	c.Close()
	c = openPlug(t, vnl+"[seqpacket]")
	defer c.Close()
	wantOpenError(t, vnl, path+" is a socket of another kind (later versions of vdeplug make it, see the option seqpacket)")
	testenv.Check(t, os.WriteFile(path+"2", nil, 0o600))
	wantOpenError(t, vnl+"2[seqpacket]", "exists and is not a socket")
}
