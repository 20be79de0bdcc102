package vdestack

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestCheck looks what works while a stack is in use, several times at once. The tests have
// stacks, so the first lines are known.
func TestCheck(t *testing.T) {
	netnstest.NoLeaks(t)
	s := testenv.Must(Open("mem://"+t.Name(), "10.0.0.1/24"))(t)
	defer s.Close()
	before := s.String()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			r, err := Check(t.Context())
			if err != nil || r.Err() != nil {
				t.Error(err, r.Err())
				return
			}
			var names []string
			for _, f := range r.Features {
				names = append(names, f.Name)
				if works := f.Err == nil; f.Works != works || !works && f.Reason == "" {
					t.Errorf("%+v", f)
				}
			}
			want := []string{"stack", "user namespaces", "TUN", "veth", "bridge", "settings", "mounts", "host names", "nftables", "vxlan", "WireGuard", "MPTCP", "limits"}
			if !slices.Equal(names, want) {
				t.Errorf("got %q, want %q", names, want)
			}
			if !r.Features[0].Works || !r.Features[1].Works || !r.Features[3].Works || !strings.Contains(r.Features[12].Reason, " descriptors") {
				t.Errorf("got\n%v", r)
			}
		})
	}
	wg.Wait()
	if s.String() != before {
		t.Errorf("the stack is %v, was %v", s, before)
	}
	l := testenv.Must(s.Listen("tcp", "10.0.0.1:0"))(t)
	c := testenv.Must(s.Dial("tcp", l.Addr().String()))(t)
	io.WriteString(c, "x")
	c.Close()
	l.Close()
}

// TestCheckEnds gives it no time.
func TestCheckEnds(t *testing.T) {
	netnstest.NoLeaks(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("no time")
	cancel(cause)
	if r, err := Check(ctx); r != nil || !errors.Is(err, cause) {
		t.Errorf("got %v, %v, want the cause", r, err)
	}
	if n := testing.AllocsPerRun(1, func() { Check(ctx) }); n > 20 {
		t.Errorf("it looks although nobody waits: %v allocations", n)
	}
}

// TestReport prints reports that nobody has made here.
func TestReport(t *testing.T) {
	refused := errors.New("refused")
	r := &Report{Features: []Feature{
		{Name: "stack", Reason: "it is off", Remedy: "switch it on", Err: refused},
		{Name: "user namespaces", Works: true},
		{Name: "veth", Reason: "there is no stack"},
		{Name: "limits", Works: true, Reason: "7 descriptors"},
	}}
	want := `stack            no   it is off
                      -> switch it on
user namespaces  yes
veth             no   there is no stack
limits           yes  7 descriptors
`
	if got := r.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if err := r.Err(); err != refused {
		t.Errorf("got %v, want %v", err, refused)
	}
	for _, r := range []*Report{nil, {}} {
		if r.Err() == nil {
			t.Errorf("%v: a stack works", r)
		}
	}
}
