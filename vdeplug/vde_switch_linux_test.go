package vdeplug

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vdeproto/vdetest"
)

// startSwitch is vdetest.Start. vnl is the locator of dir, if it is not dir itself.
func startSwitch(t testing.TB, dir string, cmd *exec.Cmd, vnl ...string) *vdetest.Switch {
	t.Helper()
	return vdetest.Start(t, dir, cmd, func() error {
		c, err := Open(append(vnl, dir)[0], nil)
		if err == nil {
			c.Close()
		}
		return err
	})
}

// classicSwitch starts vde_switch.
func classicSwitch(t *testing.T, arg ...string) *vdetest.Switch {
	t.Helper()
	dir := filepath.Join(testenv.ShortDir(t), "sw")
	return startSwitch(t, dir, vdetest.Classic(t, dir, arg...))
}

// plugSwitch starts the switch of libvdeplug.
func plugSwitch(t *testing.T) *vdetest.Switch {
	t.Helper()
	dir := filepath.Join(testenv.ShortDir(t), "sw")
	return startSwitch(t, dir, vdetest.Plug(t, dir))
}

// A switchKind is one of the switches of Debian, or ours.
type switchKind struct {
	name  string
	start func(t *testing.T) *vdetest.Switch
	max   int // the longest frame that passes
}

var switchKinds = []switchKind{
	{"vde_switch", func(t *testing.T) *vdetest.Switch { return classicSwitch(t) }, 1518},
	{"switch", plugSwitch, ether.MaxFrame},
	{"ours", goSwitch, ether.MaxFrame},
}

func eachSwitch(t *testing.T, f func(t *testing.T, kind switchKind)) {
	for _, kind := range switchKinds {
		t.Run(kind.name, func(t *testing.T) { f(t, kind) })
	}
}
