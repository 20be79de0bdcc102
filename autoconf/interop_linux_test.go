package autoconf

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/internal/testenv"
)

var update = flag.Bool("update", false, "write what TestInterop sees to "+tableFile)

const tableFile = "../docs/INTEROP.md"

// The columns of the table of servers.
const (
	gets     = "gets"
	renews   = "renews"
	otherDNS = "has another name server"
	replaced = "goes, another comes"
	goes     = "goes"
	forgets  = "has lost its leases"
	moves    = "has other addresses"
	changes  = "changes its offer"
	twins    = "two of them"
	taken    = "address in use"
)

var columns = []string{gets, renews, otherDNS, replaced, goes, forgets, moves, changes, twins, taken}

// A story is what happens to one client. It returns cells of the table by column.
type story func(t *testing.T, s server) map[string]string

// stories are those of a protocol, by name.
func stories(by Source) map[string]story {
	if by == RD {
		return map[string]story{"life": routerLife, "two": routers, "conflict": routerConflict}
	}
	return map[string]story{"life": life, "forgotten": forgotten, "moved": moved, "fickle": fickle, "two": two, "conflict": conflict}
}

// TestInterop checks every row of the tables of docs/INTEROP.md with servers of DHCP and
// routers. It fails if the file differs from what it sees; with -update it writes the file.
func TestInterop(t *testing.T) {
	testenv.Long(t)
	spyOnSources(t)
	var (
		mu   sync.Mutex // guards the cells
		seen = make(map[string]map[string]string)
		all  sync.WaitGroup
	)
	// They wait most of the time, and t.Parallel runs as many as there are processors.
	tell := func(row, name string, story func(t *testing.T) map[string]string) {
		all.Go(func() {
			t.Run(strings.NewReplacer("`", "", " | ", " ").Replace(row)+" "+name, func(t *testing.T) {
				cells := story(t)
				t.Logf("seen: %q", cells)
				mu.Lock()
				defer mu.Unlock()
				if seen[row] == nil {
					seen[row] = make(map[string]string)
				}
				seen[row][name] = "told"
				maps.Copy(seen[row], cells)
			})
		})
	}
	servers := func(built bool) {
		for _, s := range servers {
			if s.built != built {
				continue
			}
			for name, story := range stories(s.by) {
				tell(s.key(), name, func(t *testing.T) map[string]string { return story(t, s) })
			}
		}
	}
	networks := func(built bool) {
		for _, n := range networks {
			if n.built == built {
				tell(n.name, "use", func(t *testing.T) map[string]string { return use(t, n) })
			}
		}
	}
	defer all.Wait()
	servers(false)
	networks(false)
	t.Setenv("VDESTACK_PROGRAMS", filepath.Dir(testenv.Build(t, "../slirp", "slirp_plug"))) // while the others wait
	servers(true)
	networks(true)
	all.Wait()
	checkTables(t, seen)
}

// key is the first cells of a row.
func (s server) key() string { return s.name + " | " + protocols[s.by] }

// checkTables checks both tables.
func checkTables(t *testing.T, seen map[string]map[string]string) {
	if t.Failed() {
		return
	}
	var rows []tableRow
	for _, s := range servers {
		r := tableRow{key: s.key(), packages: s.packages}
		complete := true
		for name := range stories(s.by) {
			complete = complete && seen[r.key][name] != ""
		}
		if complete {
			r.cells = columnsOf(seen[r.key], columns...)
		}
		rows = append(rows, r)
	}
	checkTable(t, "server | protocol", rows)
	rows = nil
	for _, n := range networks {
		r := tableRow{key: n.name, packages: n.packages}
		if seen[n.name] != nil {
			r.cells = columnsOf(seen[n.name], string(DHCP4), string(DHCP6), string(RD))
		}
		rows = append(rows, r)
	}
	checkTable(t, "network | the server", rows)
}

// columnsOf returns the cells of columns. What does not exist there has a dash.
func columnsOf(seen map[string]string, columns ...string) (cells []string) {
	for _, c := range columns {
		cells = append(cells, cmp.Or(seen[c], "–"))
	}
	return cells
}

// spyOnSources has the sources log what they send.
func spyOnSources(t *testing.T) {
	spied := make(map[Source]source.Run)
	for by, run := range runs {
		spied[by] = func(ctx context.Context, cfg source.Config, link source.Link, sink source.Sink) error {
			return run(ctx, cfg, spyLink{link, cfg.Log}, sink)
		}
	}
	useSources(t, spied)
}

var protocols = map[Source]string{DHCP4: "DHCPv4", DHCP6: "DHCPv6", RD: "router advertisements"}

// A tableRow is one of a table of docs/INTEROP.md.
type tableRow struct {
	key      string   // the first cells
	packages []string // of Debian, whose versions are the next cell
	cells    []string // nil if not all of it was seen
}

// checkTable checks the table whose header begins with the text. Versions differ among
// machines, and stay as they are unless it is written, as do rows that were not seen.
func checkTable(t *testing.T, header string, rows []tableRow) {
	t.Helper()
	if t.Failed() {
		return
	}
	text, err := os.ReadFile(tableFile)
	if err != nil {
		testenv.Skip(t, "no table to compare with: %v", err)
	}
	var table strings.Builder
	for _, r := range rows {
		_, rest, _ := strings.Cut(string(text), "\n| "+header)
		_, rest, _ = strings.Cut(rest, "\n| "+r.key+" | ")
		line, _, _ := strings.Cut(rest, " |\n")
		versions, cells, _ := strings.Cut(line, " | ")
		switch {
		case r.cells == nil && *update:
			t.Fatalf("%s: not all was seen: the table is written with all programs", r.key)
		case *update:
			versions = packageVersions(t, r.packages)
		}
		if r.cells != nil {
			cells = strings.Join(r.cells, " | ")
		}
		fmt.Fprintf(&table, "| %s | %s | %s |\n", r.key, versions, cells)
	}
	testenv.CheckGenerated(t, tableFile, `\| `+strings.ReplaceAll(header, "|", `\|`)+` [^\n]*\n[-|]+\n((?:\|[^\n]*\n)+)`, table.String(), *update)
}

// packageVersions returns the versions of Debian's packages on this machine.
func packageVersions(t *testing.T, packages []string) string {
	t.Helper()
	var list []string
	for _, p := range packages {
		out, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", p).Output()
		if err != nil {
			t.Fatalf("dpkg-query %s: %v", p, err)
		}
		list = append(list, p+" "+string(out))
	}
	if list == nil {
		return "this one"
	}
	return strings.Join(list, ", ")
}
