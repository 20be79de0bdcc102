package vdeplug

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestLocatorC has one switch, whose name needs quoting, and opens it with every way to write
// the name. The C program takes the same locators.
func TestLocatorC(t *testing.T) {
	testenv.NoLeaks(t)
	home := testenv.ShortDir(t)
	dir := filepath.Join(home, `s w[1]{'%41`)
	startSwitch(t, dir, exec.Command(testenv.Need(t, "vde_switch", "vde2"), "-s", dir), quote(dir))
	t.Setenv("HOME", home)
	escaped := `/s\ w\[1\]\{\'\%41`
	file := writeFile(t, home+"/net.vnl", "vde://"+home+escaped+"\nvde:///another\n")
	writeFile(t, home+"/.vdeplug/default", home+escaped+"[]\n")
	here := openInbox(t, quote(dir))
	i := 0
	check := func(t *testing.T, c Conn, frames *plugtest.Inbox) {
		t.Helper()
		i++
		plugtest.Carry(t, c, here, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(2*i), 60))
		plugtest.Carry(t, here, frames, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(2*i+1), 60))
	}
	for _, vnl := range []string{
		"vde://" + home + escaped,
		home + escaped,
		"vde://" + home + `/'s w[1]{'\''%41'`,
		"vde://" + home + `/"s w[1]{'%41"`,
		"vde://" + home + `/s%20w%5b1%5D%7b%27%2541`,
		home + `/s" w["1']'\{"'%"41[]`,
		home + escaped + "[/mode=0700//]",
		home + escaped + `["mode=0700"]`,
		home + escaped + "[mode%3d0700]",
		file,
		"",
		"vlan://{" + home + escaped + "}",
		"vlan:///trunk{vlan://{" + home + escaped + "[]}}",
		"vlan://{" + file + "}",
		"vlan://{}",
		"vlan://",
	} {
		t.Run(vnl, func(t *testing.T) {
			ours := openInbox(t, vnl)
			check(t, ours, ours)
			ours.Close()
			there := plugtest.CPlug(t, vnl)
			check(t, there, there.Inbox)
			if err := there.Stderr.String(); strings.TrimSpace(err) != "" {
				t.Errorf("the C program says %q", err)
			}
		})
	}
}
