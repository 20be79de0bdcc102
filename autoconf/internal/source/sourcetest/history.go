package sourcetest

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vdestack/vdestack/autoconf/internal/source"
)

// A History is what a sink was told by a source with one address at most.
type History struct {
	Until map[netip.Addr]time.Time // the ends of all leases, as the server has said
	Since time.Time                // when the time without an address began

	Sets, Losses int
	Without      time.Duration // without an address

	had netip.Addr // invalid if there is none
}

// Told adds a lease, and checks that it does not last longer than the server has said.
func (h *History) Told(t testing.TB, lease source.Lease) {
	t.Helper()
	h.Sets++
	was := h.had
	var valid time.Time
	if h.had = (netip.Addr{}); len(lease.Addrs) > 0 {
		h.had, valid = lease.Addrs[0].Prefix.Addr(), lease.Addrs[0].Valid
	}
	switch {
	case h.had.IsValid() && !was.IsValid():
		h.Without += time.Since(h.Since)
	case !h.had.IsValid() && was.IsValid():
		h.Losses++
		h.Since = time.Now()
	}
	if end := h.Until[h.had]; h.had.IsValid() && (valid.IsZero() || valid.After(end) || !time.Now().Before(end)) {
		t.Errorf("it has %v until %v, the server has said %v", h.had, valid, end)
	}
}
