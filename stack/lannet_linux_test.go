package stack_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/vdeplug"
)

func TestLAN(t *testing.T) {
	netnstest.NoLeaks(t)
	vnl := "lan://" + t.Name()
	var stacks []*Stack
	for i := range 3 {
		stacks = append(stacks, open(t, vnl, fmt.Sprintf("10.0.0.%d/24", i+1), fmt.Sprintf("fc00::1:%d/64", i+1)))
	}
	other := open(t, vnl+"-other", "10.0.0.9/24")
	for i, s := range stacks {
		for j := range stacks {
			for _, dst := range []string{fmt.Sprintf("10.0.0.%d", j+1), fmt.Sprintf("fc00::1:%d", j+1)} {
				if out, err := s.Command(t.Context(), "ping", "-c", "1", "-W", "5", dst).CombinedOutput(); err != nil {
					t.Errorf("%d to %s: %v: %s", i, dst, err, out)
				}
			}
		}
	}
	testenv.Dial(t, other, "udp", "10.0.0.1:9")
	st := stacks[0].Stats().Interfaces[0]
	if st.TxFrames < 5 || st.RxFrames < 5 || st.Index != 1<<20 || st.Err != nil {
		t.Errorf("counters: %+v", st)
	}
	stacks[0].Close()
	if out, err := stacks[1].Command(t.Context(), "ping", "-c", "1", "-W", "5", "10.0.0.3").CombinedOutput(); err != nil {
		t.Errorf("after one left: %v: %s", err, out)
	}
	if _, err := vdeplug.Open(vnl, nil); !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "has no plugs") {
		t.Errorf("a plug on it: %v", err)
	}
	mixed := made(t, Config{Interfaces: []Interface{
		{VNL: vnl, Addrs: testenv.Prefixes("10.0.0.7/24"), MTU: 9000},
		{VNL: "mem://" + t.Name(), Addrs: testenv.Prefixes("10.1.0.7/24")},
		{VNL: vnl + "-other", Name: "x0", Down: true},
	}})
	out, err := mixed.Command(t.Context(), "ip", "-br", "link").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "vde1") {
		t.Error(string(out), err)
	}
	t.Logf("%s", out)
}
