package vdeplug

import (
	"testing"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

func TestNull(t *testing.T) {
	c := openInbox(t, "null://")
	for i := range 10 {
		testenv.Check(t, c.Send(plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(i), 60)))
	}
	if got, want := c.Conn.(Dropper).Drops(), (Drops{Send: 10}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
