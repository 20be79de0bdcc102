//go:build amd64 || arm64

package bridge

import (
	"errors"
	"net"
	"testing"

	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/rtnl"
)

// TestLooseInCrowd makes none on a crowded network.
func TestLooseInCrowd(t *testing.T) {
	netns.EmptyPool() // no other is being made
	joined(t)
	defer func(old int) { crowd = old }(crowd)
	for _, tt := range []struct {
		crowd int
		want  bool
	}{{0, true}, {-1, false}} {
		crowd = tt.crowd
		if l, err := NewLoose(t.Context(), end(t)); (l != nil) != tt.want || err != nil {
			t.Errorf("more than %d: %v, %v", crowd, l, err)
		}
	}
}

// TestLooseEnds makes a loose interface on a network that ends meanwhile: the kernel may have
// made the pair when the connection to the hub is closed, and removes it later.
func TestLooseEnds(t *testing.T) {
	netns.EmptyPool() // no other is being made
	s := joined(t)
	defer func(old func(*rtnl.Conn, rtnl.LinkSpec) (int, error)) { addLink = old }(addLink)
	addLink = func(c *rtnl.Conn, l rtnl.LinkSpec) (int, error) {
		if _, err := c.LinkAdd(l); err != nil {
			return 0, err
		}
		s.hub.close()
		return 0, net.ErrClosed
	}
	e := end(t)
	if l, err := NewLoose(t.Context(), e); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v, %v: the namespace may have an interface", l, err)
	}
	if l, err := NewLoose(t.Context(), e); l != nil || err != nil {
		t.Errorf("%v, %v on a network that has ended", l, err)
	}
}
