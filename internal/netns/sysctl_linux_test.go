//go:build amd64 || arm64

package netns

import (
	"errors"
	"io/fs"
	"net"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// TestSetSysctls sets several settings in one round trip. One that does not exist, or gets
// a bad value, holds up no other.
func TestSetSysctls(t *testing.T) {
	n := testenv.Opened(New())(t)
	before := n.h.roundTrips.Load()
	errs := n.SetSysctls(Setting{"net/none", "1"}, Setting{"net/ipv4/ip_default_ttl", "1000"}, Setting{"net/ipv4/ip_default_ttl", "77"}, Setting{"net/ipv4/ip_forward", "1"})
	if got := n.h.roundTrips.Load() - before; got != 1 {
		t.Errorf("%d round trips, want 1", got)
	}
	for i, want := range []error{fs.ErrNotExist, unix.EINVAL, nil, nil} {
		if !errors.Is(errs[i], want) {
			t.Errorf("setting %d: %v, want %v", i, errs[i], want)
		}
	}
	for path, want := range map[string]string{"net/ipv4/ip_default_ttl": "77\n", "net/ipv4/ip_forward": "1\n"} {
		if got, err := n.ReadSysctl(path); got != want || err != nil {
			t.Errorf("%s is %q, %v, want %q", path, got, err, want)
		}
	}
	n.Close()
	if errs := n.SetSysctls(Setting{"net/ipv4/ip_forward", "1"}); !errors.Is(errs[0], net.ErrClosed) {
		t.Errorf("after Close: %v", errs[0])
	}
}

// TestReadFiles reads files of a namespace in one round trip.
func TestReadFiles(t *testing.T) {
	n := testenv.Opened(New())(t)
	before := n.h.roundTrips.Load()
	texts, err := n.ReadFiles("/proc/net/dev", "/proc/net/none", "/proc/net/snmp")
	testenv.Check(t, err)
	if got := n.h.roundTrips.Load() - before; got != 1 {
		t.Errorf("%d round trips, want 1", got)
	}
	if !strings.Contains(texts[0], "lo:") || strings.Count(texts[0], ":") != 1 || texts[1] != "" || !strings.Contains(texts[2], "Tcp: ") {
		t.Errorf("got %q", texts)
	}
	if _, err := n.ReadFiles("/proc/net"); !errors.Is(err, unix.EISDIR) {
		t.Errorf("a directory: %v", err)
	}
	n.Close()
	if _, err := n.ReadFiles("/proc/net/dev"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
