package vdeplug

import (
	"testing"

	"github.com/vdestack/vdestack/internal/plugtest"
)

func TestNull(t *testing.T) {
	testConn(t, func(t *testing.T) Conn {
		c, err := Open("null://whatever", nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	})
	c := openInbox(t, "null://")
	for i := range 10 {
		if err := c.Send(plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(i), 60)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := c.Conn.(Dropper).Drops(), (Drops{Send: 10}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
