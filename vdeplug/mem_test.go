package vdeplug

import (
	"testing"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestMemNames opens networks whose names are the whole body, which may be empty.
func TestMemNames(t *testing.T) {
	testenv.NoLeaks(t)
	a, b, c := openInbox(t, "mem://"), openInbox(t, "mem://[x]{'"), openInbox(t, "mem://[x]{'")
	plugtest.Deliver(t, b, c, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
	a.WantNone(t, "another network got a frame", plugtest.Station(1))
}

func BenchmarkMem(b *testing.B) {
	benchPlugs(b, openPlug(b, "mem://bench"), openPlug(b, "mem://bench"), plugtest.Broadcast)
}
