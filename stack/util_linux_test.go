//go:build amd64 || arm64

package stack

import (
	"testing"

	"github.com/vdestack/vdestack/internal/memnet"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// made returns a stack that ends with the test.
func made(t *testing.T, cfg Config) *Stack {
	t.Helper()
	s, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// configuration opens a netlink connection that ends with the test.
func configuration(t *testing.T, s *Stack) *rtnl.Conn {
	t.Helper()
	nl, err := s.RTNL()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nl.Close() })
	return nl
}

// inUserSpace makes the networks mem:// of a test as a kernel without bridges does.
func inUserSpace(t *testing.T) {
	memnet.UserSpace.Store(true)
	t.Cleanup(func() { memnet.UserSpace.Store(false) })
}
