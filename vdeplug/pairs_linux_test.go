package vdeplug

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/p2p"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// An end of a network can be ended as a program that exits, and as one that is killed.
type end struct {
	*plugtest.Inbox
	quit, kill func(t *testing.T)
}

// An opener opens an end of a network.
type opener struct {
	name string
	open func(t *testing.T, vnl string) end
}

var openers = []opener{
	{"go", func(t *testing.T, vnl string) end {
		in := openInbox(t, vnl)
		return end{in, func(*testing.T) { in.Close() }, func(t *testing.T) {
			// What the kernel does for a killed process: the names stay.
			restore := keepNames(t, vnl)
			in.Close()
			restore()
		}}
	}},
	{"C", func(t *testing.T, vnl string) end {
		c := plugtest.CPlug(t, vnl)
		return end{c.Inbox, c.Quit, func(t *testing.T) { c.Kill(t) }}
	}},
}

// keepNames keeps the sockets of a ptp locator. restore puts back those whose names are gone
// by then.
func keepNames(t *testing.T, vnl string) (restore func()) {
	t.Helper()
	path, _ := strings.CutPrefix(vnl, "ptp://")
	kept := make(map[string]string)
	for _, name := range []string{path, path + p2p.SecondSuffix} {
		if err := os.Link(name, name+".kept"); err == nil {
			kept[name] = name + ".kept"
		}
	}
	return func() {
		t.Helper()
		for name, other := range kept {
			if err := os.Link(other, name); err != nil && !errors.Is(err, fs.ErrExist) {
				t.Error(err)
			}
			os.Remove(other)
		}
	}
}

// pairs runs a test for two plugs of this package, and for one with one of the C library, each
// as the first and as the second.
func pairs(t *testing.T, test func(t *testing.T, first, second opener)) {
	for _, first := range openers {
		for _, second := range openers {
			if first.name != "C" || second.name != "C" {
				t.Run(first.name+" "+second.name, func(t *testing.T) {
					testenv.NoLeaks(t)
					test(t, first, second)
				})
			}
		}
	}
}

var frameSizes = []int{ether.HeaderLen, 60, 1514, 4096, ether.MaxFrame}
