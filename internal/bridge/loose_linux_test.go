//go:build amd64 || arm64

package bridge

import (
	"errors"
	"net"
	"testing"

	"github.com/vdestack/vdestack/rtnl"
)

// TestLooseEnds makes a loose interface on a network that ends meanwhile: the kernel may have
// made the pair when the connection to the hub is closed, and removes it later.
func TestLooseEnds(t *testing.T) {
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
