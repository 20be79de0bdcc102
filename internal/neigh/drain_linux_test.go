//go:build amd64 || arm64

package neigh

import (
	"slices"
	"testing"

	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

// TestDrain has a user that begins while reports of the last one are read: its entries are to
// be marked yet, and those of the other are not.
func TestDrain(t *testing.T) {
	e := entry{family: unix.AF_INET, dst: []byte{10, 0, 0, 1}}
	report := message(nil, unix.RTM_NEWNEIGH, 0, e.header(uint16(rtnl.NeighborReachable), 0), attribute{unix.NDA_DST, e.dst})
	k := &keeper{}
	last, next := &Space{k: k}, &Space{k: k}
	last.report(report)
	last.closed.Store(true)
	k.forget.Store(true)
	next.report(report)
	k.drain()
	if !slices.Equal(k.waiting, []*Space{next}) || k.entries == 0 {
		t.Errorf("%d entries of %d spaces are to be marked, want those of one", k.entries, len(k.waiting))
	}
	next.closed.Store(true)
	k.forget.Store(true)
	if k.drain(); len(k.waiting) > 0 || k.entries > 0 {
		t.Errorf("%d entries of %d spaces are to be marked without a user", k.entries, len(k.waiting))
	}
}
