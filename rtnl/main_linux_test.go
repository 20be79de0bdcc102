package rtnl_test

import (
	"testing"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// newStack makes a stack with loopback as the kernel makes it: down, and without
// addresses.
func newStack(t testing.TB) *vdestack.Stack {
	t.Helper()
	st, err := vdestack.Open("")
	if err != nil {
		testenv.Skip(t, "no stack: %v", err)
	}
	t.Cleanup(func() { st.Close() })
	c := dialTo(t, st)
	check(t, c.LinkSetDown(1))
	check(t, c.AddrDel(1, prefix("127.0.0.1/8")))
	check(t, c.Close())
	return st
}

// dial connects to a new stack.
func dial(t testing.TB) (*rtnl.Conn, *vdestack.Stack) {
	t.Helper()
	st := newStack(t)
	return dialTo(t, st), st
}

func dialTo(t testing.TB, s rtnl.SocketMaker) *rtnl.Conn {
	t.Helper()
	c, err := rtnl.Dial(s)
	check(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}
