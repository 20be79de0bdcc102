//go:build amd64 || arm64

package neigh

import (
	"testing"
	"time"
)

// MarkAll has entries marked at once, and removed when they were not used for the
// given time and there are many.
func MarkAll(t *testing.T, removed time.Duration) {
	f, u := few, unused
	few, unused = 0, removed
	t.Cleanup(func() { few, unused = f, u })
}

// Few is how many entries are not marked.
func Few() int { return few }

// Running says whether anything is looked after.
func Running() bool {
	keepers.mu.Lock()
	defer keepers.mu.Unlock()
	return len(keepers.all) > 0
}

const FirstRoom = firstRoom
