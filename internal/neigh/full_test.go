package neigh

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/teardown"
)

const statHead = "entries  allocs   destroys hash_grows lookups  hits     res_failed rcv_probes_mcast rcv_probes_ucast periodic_gc_runs forced_gc_runs unresolved_discards table_fulls\n" +
	"00000003 00005e97 00005f31 00000004   0018b27b 00009b35 00000015   00000000         00000000         00000000         00000000       00000888            0000000a\n"

// TestFull has the table become full while something waits, and before and after.
func TestFull(t *testing.T) {
	netns.EmptyPool() // a keeper that lingers has read the tables
	teardown.Wait()
	old := tables
	defer func() { tables = old }()
	stat := filepath.Join(t.TempDir(), "arp_cache")
	tables = []*table{{stat: stat, limit: "net.test.gc_thresh3"}}
	write := func(last string) {
		t.Helper()
		row := "00000003 00004d0f 00004c72 00000002   00081b1a 00005c19 00000007   00000000         00000000         00000079         00000000       000007a7            " + last + "\n"
		if err := os.WriteFile(stat, []byte(statHead+row), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string, start time.Time, want string) {
		t.Helper()
		if got := Full(start); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	const full = "the machine's table of neighbours was full lately: raise net.test.gc_thresh3 on the host"
	start := time.Now()
	check("no file", start, "")
	write("00000001")
	check("not looked at before", start, "")
	check("nothing happened", start, "")
	write("000000ff")
	check("it was full", start, full)
	check("another that waited too", start, full)
	check("one that began later", time.Now(), "")
	os.WriteFile(stat, []byte("entries\n1\n"), 0o600)
	check("another file", start, "")
	os.WriteFile(stat, []byte("table_fulls\nx\n"), 0o600)
	check("no number", start, "")
}
