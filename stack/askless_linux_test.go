//go:build amd64 || arm64

package stack

import (
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
)

// TestAskLess makes a crowd: the first hosts ask for routers as the kernel does, the
// last ones three times, unless the program has said otherwise. Those that are closed
// early have nothing to do later.
func TestAskLess(t *testing.T) {
	testenv.Long(t)
	const setting = "net.ipv6.conf.vde0.router_solicitations"
	var all []*Stack
	for range 36 {
		all = append(all, made(t, Config{Interfaces: []Interface{{VNL: "mem://askless"}}}))
	}
	last := all[len(all)-3:]
	if _, err := all[0].ReadSysctl(setting); err != nil {
		testenv.Skip(t, "no IPv6: %v", err)
	}
	testenv.Check(t, last[1].Sysctl(setting, "5"))
	last[1].interfaces()[0].askLess()
	last[2].Close()
	asking := func(s *Stack) *time.Timer { return s.interfaces()[0].link.(*portLink).asking }
	if asking(last[2]).Stop() {
		t.Error("a closed stack would do it later")
	}
	if asking(all[0]) != nil {
		t.Error("the first stack would do it later")
	}
	asking(last[0]).Reset(0)
	get := func(s *Stack) string { return testenv.Must(s.ReadSysctl(setting))(t) }
	testenv.Eventually(t, "the setting of the last but two", func() bool { return get(last[0]) == "3" })
	if first, own := get(all[0]), get(last[1]); first != "-1" || own != "5" {
		t.Errorf("the first has %s, the one with its own setting %s", first, own)
	}
}
