package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// tokenName is the variable that marks the processes of a run, wherever
	// they have gone.
	tokenName = "VDESTACK_SOAK"
	// settleTime is how long what was closed may take to be gone.
	settleTime = 15 * time.Second

	// Threads of the Go runtime stay, and so does some of its memory: these
	// may grow so much.
	moreThreads  = 100
	moreMappings = 200
	moreHeap     = 16 << 20
	moreRSS      = 256 << 20
)

// A census is what the process has.
type census struct {
	files      map[string]int // open descriptors by what they lead to
	goroutines int
	threads    int
	children   []string // processes not yet waited for
	strays     []string // processes that the run started, wherever they are
	namespaces []string // network namespaces that the process has to do with
	leftovers  []string // files in the file system
	mounts     int      // of files of the run
	mappings   int
	heap, rss  int // bytes
}

// begin takes the census when what was closed is gone: when it no longer gets
// smaller.
func (s *soak) begin() *census {
	c := s.census()
	for end := time.Now().Add(settleTime); time.Now().Before(end); {
		time.Sleep(100 * time.Millisecond)
		runtime.GC()
		later := s.census()
		if len(later.excess(c)) == 0 {
			return later
		}
		c = later
	}
	return c
}

// settle takes the census. What is more than before gets some time to vanish,
// and is a failure then.
func (s *soak) settle(before *census) *census {
	for end := time.Now().Add(settleTime); ; time.Sleep(100 * time.Millisecond) {
		debug.FreeOSMemory() // collects garbage, and closes forgotten handles
		c := s.census()
		excess := before.excess(c)
		if len(excess) == 0 {
			return c
		}
		if time.Now().Before(end) {
			continue
		}
		for _, e := range excess {
			s.fail("left behind: %s", e)
		}
		if c.goroutines > before.goroutines {
			s.printf("%s", goroutines())
		}
		return c
	}
}

func (s *soak) census() *census {
	c := &census{files: make(map[string]int), goroutines: runtime.NumGoroutine()}
	spaces := make(map[string]bool)
	for fd, target := range links("/proc/self/fd") {
		kind, _, _ := strings.Cut(target, ":[")
		c.files[kind]++
		n, _ := strconv.Atoi(fd)
		if strings.HasPrefix(target, "net:[") {
			spaces[target] = true
		} else if cookie, err := unix.GetsockoptUint64(n, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err == nil {
			spaces[fmt.Sprint("cookie ", cookie)] = true
		}
	}
	tasks, _ := os.ReadDir("/proc/self/task")
	c.threads = len(tasks)
	for _, task := range tasks {
		dir := "/proc/self/task/" + task.Name()
		if ns, err := os.Readlink(dir + "/ns/net"); err == nil {
			spaces[ns] = true
		}
		text, _ := os.ReadFile(dir + "/children") // a thread may end
		for _, pid := range strings.Fields(string(text)) {
			c.children = append(c.children, describe(pid))
			if ns, err := os.Readlink("/proc/" + pid + "/ns/net"); err == nil {
				spaces[ns] = true
			}
		}
	}
	c.namespaces = slices.Sorted(maps.Keys(spaces))
	c.strays = s.strays()
	c.leftovers = s.leftovers()
	text, _ := os.ReadFile("/proc/self/mountinfo")
	c.mounts = bytes.Count(text, []byte(filepath.Base(s.dir)+"/"))
	text, _ = os.ReadFile("/proc/self/maps")
	c.mappings = bytes.Count(text, []byte("\n"))
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	c.heap = int(sample[0].Value.Uint64())
	text, _ = os.ReadFile("/proc/self/statm")
	if f := strings.Fields(string(text)); len(f) > 1 {
		pages, _ := strconv.Atoi(f[1])
		c.rss = pages * os.Getpagesize()
	}
	return c
}

// links returns what the links in a directory of /proc lead to.
func links(dir string) map[string]string {
	m := make(map[string]string)
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		// The descriptor that read the directory is gone by now.
		if target, err := os.Readlink(dir + "/" + e.Name()); err == nil {
			m[e.Name()] = target
		}
	}
	return m
}

// strays returns the processes that carry the run's token.
func (s *soak) strays() (list []string) {
	mark := []byte(tokenName + "=" + s.token + "\x00")
	procs, _ := os.ReadDir("/proc")
	for _, d := range procs {
		if pid, err := strconv.Atoi(d.Name()); err != nil || pid == os.Getpid() {
			continue
		}
		if env, err := os.ReadFile("/proc/" + d.Name() + "/environ"); err == nil && bytes.Contains(env, mark) {
			list = append(list, describe(d.Name()))
		}
	}
	return list
}

// describe names a process, with its state.
func describe(pid string) string {
	text, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return pid + " (gone)"
	}
	_, rest, _ := strings.Cut(string(text), " ")
	return pid + " " + rest[:min(len(rest), strings.LastIndexByte(rest, ')')+3)]
}

// leftovers returns the sockets that plugs have left in the file system.
func (s *soak) leftovers() (list []string) {
	pid := os.Getpid()
	for _, pattern := range []string{
		s.dir + "/ptp*", s.dir + "/sw*/." + strconv.Itoa(pid) + "*",
		fmt.Sprintf("/var/run/vde.%05d-*", pid), fmt.Sprintf("/var/tmp/vde.%05d-*", pid), fmt.Sprintf("/tmp/vde.%05d-*", pid),
	} {
		names, _ := filepath.Glob(pattern)
		list = append(list, names...)
	}
	return list
}

// excess says what d has that c has not.
func (c *census) excess(d *census) (list []string) {
	for _, kind := range slices.Sorted(maps.Keys(d.files)) {
		if n := d.files[kind]; n > c.files[kind] {
			list = append(list, fmt.Sprintf("%d descriptors %q, before %d", n, kind, c.files[kind]))
		}
	}
	if d.goroutines > c.goroutines {
		list = append(list, fmt.Sprintf("%d goroutines, before %d", d.goroutines, c.goroutines))
	}
	for _, l := range []struct {
		what          string
		before, after []string
	}{
		{"child processes", c.children, d.children},
		{"stray processes", c.strays, d.strays},
		{"network namespaces", c.namespaces, d.namespaces},
		{"files", c.leftovers, d.leftovers},
	} {
		if len(l.after) > len(l.before) {
			list = append(list, fmt.Sprintf("%s %q, before %q", l.what, l.after, l.before))
		}
	}
	for _, n := range []struct {
		what                string
		before, after, more int
	}{
		{"mounts", c.mounts, d.mounts, 0},
		{"threads", c.threads, d.threads, moreThreads},
		{"memory mappings", c.mappings, d.mappings, moreMappings},
		{"bytes of heap", c.heap, d.heap, moreHeap},
		{"bytes of memory", c.rss, d.rss, moreRSS},
	} {
		if n.after > n.before+n.more {
			list = append(list, fmt.Sprintf("%d %s, before %d", n.after, n.what, n.before))
		}
	}
	return list
}

// compare returns both in short.
func (c *census) compare(d *census) string {
	sum := func(m map[string]int) (n int) {
		for _, k := range m {
			n += k
		}
		return n
	}
	mib := func(n int) float64 { return float64(n) / (1 << 20) }
	return fmt.Sprintf(" descriptors %d→%d goroutines %d→%d threads %d→%d children %d→%d strays %d→%d namespaces %d→%d mounts %d→%d files %d→%d mappings %d→%d heap %.1f→%.1f MiB rss %.0f→%.0f MiB",
		sum(c.files), sum(d.files), c.goroutines, d.goroutines, c.threads, d.threads, len(c.children), len(d.children),
		len(c.strays), len(d.strays), len(c.namespaces), len(d.namespaces), c.mounts, d.mounts, len(c.leftovers), len(d.leftovers),
		c.mappings, d.mappings, mib(c.heap), mib(d.heap), mib(c.rss), mib(d.rss))
}
