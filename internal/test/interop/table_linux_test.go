package interop

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write what TestTable sees to "+tableFile)

const (
	root      = "../../.."
	tableFile = root + "/docs/INTEROP.md"
)

// A row of the table is a network with a party of ours and one that is not.
type row struct {
	network, role, peer string
	// packages are Debian's packages of the peer, or "linux".
	packages []string
	// limit is the largest MTU of the network.
	limit int
	// open makes both parties; vdens is our program of that name.
	open func(t *testing.T, vdens string) *rig
}

func (w *row) key() []string { return []string{w.network, w.role, w.peer} }

// vxvde reports whether the row has a network of vxvde. These run one after the other, as
// they share a port of this namespace: a socket there, unless it refuses, gets what is sent
// to any group that somebody has joined.
func (w *row) vxvde() bool { return strings.Contains(w.network+w.role, "vxvde") }

// A rig is both parties, the host server and the host client.
type rig struct {
	us, them party
	dev      string // the interface of them; empty means vde0
	// ours and theirs are the addresses at which each is reached by the other, where
	// they are not server and client. A missing address is not reached.
	ours, theirs host
	// fate ends the peer and starts it again, and describes the effect. After it, both
	// parties can be reached again.
	fate func(t *testing.T) string
}

// A party is a host on the network of a row.
type party interface {
	echo(t *testing.T, h host)
	serveEcho(t *testing.T)
	run(t *testing.T, script string) (output string, status int)
	// kill ends it without a clean end, if possible.
	kill()
}

var (
	_ party = shell{}
	_ party = stackParty{}
)

func (s shell) kill() { s.end(unix.SIGKILL) }

// A stackParty is a stack of this process.
type stackParty struct{ *vdestack.Stack }

func (s stackParty) echo(t *testing.T, h host) {
	t.Helper()
	echo(t, s.Stack, h)
}

func (s stackParty) serveEcho(t *testing.T) {
	t.Helper()
	serveEcho(t, s.Stack)
}

func (s stackParty) run(t *testing.T, script string) (output string, status int) {
	t.Helper()
	return runScript(t, s.Command(t.Context(), "/bin/sh", "-c", script))
}

func (s stackParty) kill() { s.Close() }

// runScript returns the output and the exit status of a command.
func runScript(t *testing.T, cmd interface{ CombinedOutput() ([]byte, error) }) (output string, status int) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(out), exit.ExitCode()
	}
	testenv.Check(t, err)
	return string(out), 0
}

// must runs a script that succeeds.
func must(t *testing.T, p party, script string) (output string) {
	t.Helper()
	output, status := p.run(t, script)
	if status != 0 {
		t.Fatalf("%s: status %d: %s", script, status, output)
	}
	return output
}

// isHost reports whether a party is the host of a NAT, which has no interface on the
// network and sends to it only through forwards of TCP.
func isHost(p party) bool {
	_, ok := p.(hostParty)
	return ok
}

// meet has both parties talk, first the client, which is new.
func (r *rig) meet(t *testing.T) {
	t.Helper()
	if !isHost(r.them) {
		ping(t, r.them, r.ours)
	}
	if !isHost(r.us) {
		ping(t, r.us, r.theirs)
	}
	r.them.echo(t, r.ours)
	r.us.echo(t, r.theirs)
}

// talk describes what meet has checked.
func (r *rig) talk() (frames, tcp string) {
	frames, tcp = "both ways", "both ways"
	if isHost(r.us) || isHost(r.them) {
		frames = "a guest pings the host"
	}
	if r.ours[1] == "" || r.theirs[1] == "" {
		tcp += "; over IPv6 from the guest only"
	}
	return frames, tcp
}

// setMTU sets the MTU of both interfaces, if they have it.
func (r *rig) setMTU(t *testing.T, mtu int) bool {
	t.Helper()
	ip, dev := testenv.Need(t, "ip", "iproute2"), r.dev
	if dev == "" {
		dev = "vde0"
	}
	if !isHost(r.us) {
		must(t, r.us, fmt.Sprintf("%s link set vde0 mtu %d", ip, mtu))
	}
	if isHost(r.them) {
		return true
	}
	_, status := r.them.run(t, fmt.Sprintf("%s link set %s mtu %d", ip, dev, mtu))
	return status == 0
}

// try sends packets of a size both ways. Those that may pass are waited for. It
// returns what becomes of others.
func (r *rig) try(t *testing.T, size int, may bool) (lost string) {
	t.Helper()
	if !r.setMTU(t, size) {
		return fmt.Sprint(size, " is refused")
	}
	wait := "-c 1 -w 20" // until the first answer
	if !may {
		wait = "-c 3 -i 0.2 -W 0.5"
	}
	const headers = 20 + 8 // IPv4 and ICMP
	script := fmt.Sprintf("%s -n -M do -s %d %s ", testenv.Need(t, "ping", "iputils-ping"), size-headers, wait)
	var out, out2 string
	var there, here int
	if !isHost(r.them) {
		out, there = r.them.run(t, script+r.ours[0])
	}
	if !isHost(r.us) {
		out2, here = r.us.run(t, script+r.theirs[0])
	}
	switch {
	case isHost(r.them):
		there = here
	case isHost(r.us):
		here = there
	}
	if (here == 0) != (there == 0) {
		t.Errorf("packets of %d bytes pass one way: ping ended with status %d here, %d there: %s%s", size, here, there, out, out2)
	}
	if here == 0 {
		return ""
	}
	return fmt.Sprint(size, " is lost")
}

// mtu finds the largest MTU, where the network has the limit that is expected.
func (r *rig) mtu(t *testing.T, limit int) string {
	t.Helper()
	defer r.setMTU(t, 1500)
	sizes := []int{1500, 9000, limit}
	if limit < largestMTU {
		sizes = append(sizes, limit+1)
	}
	slices.Sort(sizes)
	var largest int
	var lost string
	for _, size := range sizes {
		switch now := r.try(t, size, size <= limit); {
		case lost == "" && now == "":
			largest = size
		case lost == "":
			lost = now
		case now == "":
			t.Errorf("packets of %d bytes pass, but %s", size, lost)
		}
	}
	if lost == "" {
		return fmt.Sprint(largest)
	}
	return fmt.Sprintf("%d; %s", largest, lost)
}

// largestMTU is the largest that our interfaces have, and a buffer of libvdeplug.
const largestMTU = 9216

// see returns the cells of the row: frames, TCP, MTU and the peer's fate.
func (w *row) see(t *testing.T, vdens string) []string {
	r := w.open(t, vdens)
	if r.ours == (host{}) {
		r.ours, r.theirs = server, client
	}
	r.us.serveEcho(t)
	r.them.serveEcho(t)
	r.meet(t)
	mtu := r.mtu(t, w.limit)
	fate := r.fate(t)
	r.meet(t)
	frames, tcp := r.talk()
	cells := []string{frames, tcp, mtu, fate}
	t.Logf("seen: %q", cells)
	return cells
}

// versions returns the versions of the peer's packages on this machine.
func (w *row) versions(t *testing.T) string {
	t.Helper()
	var list []string
	for _, p := range w.packages {
		if p == "linux" {
			var name unix.Utsname
			testenv.Check(t, unix.Uname(&name))
			release, _, _ := strings.Cut(unix.ByteSliceToString(name.Release[:]), "-") // the rest describes the build
			list = append(list, "Linux "+release)
			continue
		}
		out, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", p).Output()
		if err != nil {
			t.Fatalf("dpkg-query %s: %v", p, err)
		}
		list = append(list, p+" "+string(out))
	}
	return strings.Join(list, ", ")
}

// TestTable checks every row of docs/INTEROP.md. It fails if the file differs from what it
// sees; with -update it writes the file.
func TestTable(t *testing.T) {
	testenv.Long(t)
	vdens := testenv.Build(t, root, "vdens")
	seen := make([][]string, len(rows))
	t.Run("rows", func(t *testing.T) {
		noProcesses(t)
		for i := range rows {
			w := &rows[i]
			t.Run(strings.Join(w.key(), ", "), func(t *testing.T) {
				if !w.vxvde() {
					t.Parallel()
				}
				seen[i] = w.see(t, vdens)
			})
		}
	})
	complete := !slices.ContainsFunc(seen, func(cells []string) bool { return cells == nil })
	text, err := os.ReadFile(tableFile)
	switch {
	case err != nil:
		testenv.Skip(t, "no table to compare with: %v", err)
	case *update && !complete:
		t.Error("not all rows were seen: the table is written by root, with all programs")
	}
	if t.Failed() {
		return
	}
	var table strings.Builder
	for i := range rows {
		// Versions differ among machines, and stay as they are, as do rows that were not seen.
		key := "| " + strings.Join(rows[i].key(), " | ") + " | "
		_, rest, _ := strings.Cut(string(text), "\n"+key)
		line, _, _ := strings.Cut(rest, "\n")
		versions, cells, _ := strings.Cut(line, " | ")
		if *update {
			versions = rows[i].versions(t)
		}
		if seen[i] != nil {
			cells = strings.Join(seen[i], " | ") + " |"
		}
		fmt.Fprintf(&table, "%s%s | %s\n", key, versions, cells)
	}
	testenv.CheckGenerated(t, tableFile, `\| network \| our side [^\n]*\n[-|]+\n((?:\|[^\n]*\n)+)`, table.String(), *update)
}
