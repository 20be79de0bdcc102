//go:build amd64 || arm64

package bridge

import (
	"testing"

	"github.com/vdestack/vdestack/internal/memnet"
	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

// TestSpare makes a network after another one has ended, which may have left something that
// the stacks of both would have in common.
func TestSpare(t *testing.T) {
	// The second in which a hub is kept does not pass here.
	defer func(old func(func()) func() bool) { linger = old }(linger)
	linger = func(end func()) func() bool {
		t.Cleanup(end) // twice for a hub that was taken, which is harmless
		return func() bool { return true }
	}
	plugged := func(remove bool) func(t *testing.T, s *Switch) {
		return func(t *testing.T, s *Switch) {
			p, _, err := s.plug(t.Context(), end(t), nil)
			testenv.Check(t, err)
			testenv.Check(t, p.Leave(remove)) // and the network
		}
	}
	for _, tt := range []struct {
		name string
		use  func(t *testing.T, s *Switch)
		same bool
	}{
		{"unused", func(t *testing.T, s *Switch) { testenv.Check(t, s.leave()) }, true},
		{"all gone", plugged(true), true},
		{"a stack's namespace lives on", plugged(false), false},
		{"plugs", func(t *testing.T, s *Switch) {
			testenv.Check(t, s.uplink.make())
			testenv.Check(t, s.leave())
		}, false},
		{"a port of a command's", func(t *testing.T, s *Switch) {
			testenv.Must(s.nl.LinkAdd(rtnl.LinkSpec{Kind: "veth", Master: s.root, Peer: &rtnl.LinkSpec{}}))(t)
			testenv.Check(t, s.leave())
		}, false},
		{"a command in a stack", func(t *testing.T, s *Switch) {
			e := end(t)
			p, _, err := s.plug(t.Context(), e, nil)
			testenv.Check(t, err)
			x := &netns.Exec{Path: "/bin/true", Args: []string{"true"}}
			pid := testenv.Must(e.NS.Start(t.Context(), x))(t)
			testenv.Must(unix.Wait4(pid, nil, 0, nil))(t)
			x.Ended()
			testenv.Check(t, p.Leave(true))
		}, false},
		{"many ports", func(t *testing.T, s *Switch) {
			for range mostSparePorts + 1 {
				again := testenv.Must(join(s.name, nil))(t)
				p, _, err := again.plug(t.Context(), end(t), nil)
				testenv.Check(t, err)
				testenv.Check(t, p.Leave(false))
			}
			testenv.Check(t, s.leave())
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			attach := func(memnet.Uplink) (func(), error) { return func() {}, nil }
			first := testenv.Must(join(t.Name()+" first", attach))(t)
			tt.use(t, first)
			second := testenv.Must(join(t.Name()+" second", attach))(t)
			if same := first.hub == second.hub; same != tt.same {
				t.Errorf("the same hub: %v, want %v", same, tt.same)
			}
			a, _, err := second.plug(t.Context(), end(t), nil)
			testenv.Check(t, err)
			testenv.Check(t, a.Leave(true))
		})
	}
}
