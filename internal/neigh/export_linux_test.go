//go:build amd64 || arm64

package neigh

import (
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/netns"
)

// MarkAll has entries marked at once, and removed when they were not used for the
// given time and there are many.
func MarkAll(t *testing.T, removed time.Duration) {
	netns.EmptyPool() // a keeper that lingers has the old ones
	f, u := few, unused
	few, unused = 0, removed
	t.Cleanup(func() {
		few, unused = f, u
		netns.EmptyPool()
	})
}

// Few is how many entries are not marked.
func Few() int { return few }

// Keeper returns what looks after the namespaces of the process, which have one base; nil
// if nothing does.
func Keeper() any {
	keepers.mu.Lock()
	defer keepers.mu.Unlock()
	for _, k := range keepers.all {
		return k
	}
	return nil
}

const FirstRoom = firstRoom
