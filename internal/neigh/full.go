package neigh

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A table is one of the kernel's, whose counters only the host can read.
type table struct {
	stat, limit string

	mu      sync.Mutex // guards the fields below; held while the file is read
	known   bool
	refused uint64    // entries for which there was no room, since boot
	seen    time.Time // when refused was last seen to have grown
}

// tables is a variable for tests.
var tables = []*table{
	{stat: "/proc/net/stat/arp_cache", limit: "net.ipv4.neigh.default.gc_thresh3"},
	{stat: "/proc/net/stat/ndisc_cache", limit: "net.ipv6.neigh.default.gc_thresh3"},
}

// Full says what to do if a table of neighbours was full since start: connections just
// time out then. It returns "" if it was not, or if that is unknown, as in a container.
func Full(start time.Time) string {
	for _, t := range tables {
		if seen := t.look(); seen.After(start) {
			return "the machine's table of neighbours was full lately: raise " + t.limit + " on the host" + t.value()
		}
	}
	return ""
}

// look reads the table, and returns when it was last seen to have been full.
func (t *table) look() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	text, err := os.ReadFile(t.stat)
	if err != nil {
		return time.Time{}
	}
	n, ok := Sum(string(text), "table_fulls")
	if !ok {
		return time.Time{}
	}
	if t.known && n > t.refused {
		t.seen = time.Now()
	}
	t.known, t.refused = true, n
	return t.seen
}

// value returns the limit, if it can be read.
func (t *table) value() string {
	text, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(t.limit, ".", "/"))
	if err != nil {
		return ""
	}
	return fmt.Sprintf(", it is %s", strings.TrimSpace(string(text)))
}

// Sum adds up a column of a file in /proc/net/stat, which has a row of hexadecimal
// numbers for each processor.
func Sum(text, column string) (total uint64, ok bool) {
	head, rows, _ := strings.Cut(text, "\n")
	at := slices.Index(strings.Fields(head), column)
	if at < 0 {
		return 0, false
	}
	for row := range strings.Lines(rows) {
		f := strings.Fields(row)
		if len(f) <= at {
			return 0, false
		}
		n, err := strconv.ParseUint(f[at], 16, 64)
		if err != nil {
			return 0, false
		}
		total += n
	}
	return total, true
}
