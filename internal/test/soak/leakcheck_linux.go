package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

const (
	// tokenName is the variable that marks the processes of a run, wherever they are.
	tokenName = "VDESTACK_SOAK"
	// settleTime is how long closed things may take to be gone.
	settleTime = 15 * time.Second
)

// mayGrow is how much numbers of a usage may grow. The Go runtime keeps its threads, and
// some of its memory.
var mayGrow = map[string]int{"threads": 100, "mappings": 20, "MiB of heap": 16, "MiB of memory": 256}

// A usage is what the process has in use.
type usage struct {
	things  map[string][]string // by kind
	numbers map[string]int
}

// begin returns the usage when closed things are gone: when it no longer gets smaller.
func (s *soak) begin() *usage {
	u := s.usage()
	for end := time.Now().Add(settleTime); time.Now().Before(end); {
		time.Sleep(100 * time.Millisecond)
		later := s.usage()
		if len(later.excess(u)) == 0 {
			return later
		}
		u = later
	}
	return u
}

// settle returns the usage. More than before gets some time to vanish, and is then a
// failure.
func (s *soak) settle(before *usage) *usage {
	for end := time.Now().Add(settleTime); ; time.Sleep(100 * time.Millisecond) {
		u := s.usage()
		excess := before.excess(u)
		if len(excess) == 0 {
			return u
		}
		if time.Now().Before(end) {
			continue
		}
		for _, e := range excess {
			s.fail("left behind: %s", e)
		}
		if u.numbers["goroutines"] > before.numbers["goroutines"] {
			s.printf("%s", goroutines())
		}
		return u
	}
}

// usage collects garbage first, which closes forgotten connections.
func (s *soak) usage() *usage {
	memory := testenv.Resident()
	u := &usage{
		things:  map[string][]string{"stray processes": s.strays(), "files": s.leftovers()},
		numbers: map[string]int{"goroutines": runtime.NumGoroutine()},
	}
	spaces := make(map[string]bool)
	for fd, target := range links("/proc/self/fd") {
		kind, _, _ := strings.Cut(target, ":[")
		u.numbers["descriptors of "+kind]++
		n, _ := strconv.Atoi(fd)
		if strings.HasPrefix(target, "net:[") {
			spaces[target] = true
		} else if cookie, err := unix.GetsockoptUint64(n, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err == nil {
			spaces[fmt.Sprint("cookie ", cookie)] = true
		}
	}
	tasks, _ := os.ReadDir("/proc/self/task")
	u.numbers["threads"] = len(tasks)
	for _, task := range tasks {
		dir := "/proc/self/task/" + task.Name()
		if ns, err := os.Readlink(dir + "/ns/net"); err == nil {
			spaces[ns] = true
		}
		for _, pid := range strings.Fields(read(dir + "/children")) {
			u.things["child processes"] = append(u.things["child processes"], describe(pid))
			if ns, err := os.Readlink("/proc/" + pid + "/ns/net"); err == nil {
				spaces[ns] = true
			}
		}
	}
	u.things["network namespaces"] = slices.Sorted(maps.Keys(spaces))
	u.numbers["mounts"] = strings.Count(read("/proc/self/mountinfo"), filepath.Base(s.dir)+"/")
	u.numbers["mappings"] = mappings(read("/proc/self/maps"))
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	u.numbers["MiB of heap"] = int(sample[0].Value.Uint64() >> 20)
	u.numbers["MiB of memory"] = memory >> 20
	return u
}

// mappings counts the memory mappings that could be those of stacks, which have some pages
// each. It leaves out the others that come and stay, with the race detector most of all:
//
//   - address space that cannot be accessed: guard pages, and what is reserved
//   - blocks of a MiB or more: heaps, stacks of threads, the memory of the race detector
//   - arenas of the C library, each at a multiple of 64 MiB before its reserved rest
func mappings(maps string) (n int) {
	const arena = 64 << 20
	for line := range strings.Lines(maps) {
		var low, high uint64
		var access string
		fmt.Sscanf(line, "%x-%x %s", &low, &high, &access)
		if access != "---p" && high-low < 1<<20 && low%arena != 0 {
			n++
		}
	}
	return n
}

// read returns the text of a file of /proc; "" if what it describes has ended.
func read(name string) string {
	text, _ := os.ReadFile(name)
	return string(text)
}

// links returns the targets of the links in a directory of /proc.
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
	mark := tokenName + "=" + s.token + "\x00"
	procs, _ := os.ReadDir("/proc")
	for _, d := range procs {
		if pid, err := strconv.Atoi(d.Name()); err != nil || pid == os.Getpid() {
			continue
		}
		if strings.Contains(read("/proc/"+d.Name()+"/environ"), mark) {
			list = append(list, describe(d.Name()))
		}
	}
	return list
}

// describe returns the number, the name and the state of a process.
func describe(pid string) string {
	_, rest, ok := strings.Cut(read("/proc/"+pid+"/stat"), " ")
	if !ok {
		return pid + " (gone)"
	}
	return pid + " " + rest[:min(len(rest), strings.LastIndexByte(rest, ')')+3)]
}

// leftovers returns files of plugs, such as sockets.
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

// excess describes what d has more than u may have.
func (u *usage) excess(d *usage) (list []string) {
	for _, kind := range slices.Sorted(maps.Keys(d.things)) {
		if before, after := u.things[kind], d.things[kind]; len(after) > len(before) {
			list = append(list, fmt.Sprintf("%s %q, before %q", kind, after, before))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.numbers)) {
		if before, after := u.numbers[name], d.numbers[name]; after > before+mayGrow[name] {
			list = append(list, fmt.Sprintf("%d %s, before %d", after, name, before))
		}
	}
	return list
}

// compare returns both in short.
func (u *usage) compare(d *usage) string {
	var b strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(d.things)) {
		fmt.Fprintf(&b, " %d→%d %s", len(u.things[kind]), len(d.things[kind]), kind)
	}
	for _, name := range slices.Sorted(maps.Keys(d.numbers)) {
		fmt.Fprintf(&b, " %d→%d %s", u.numbers[name], d.numbers[name], name)
	}
	return b.String()
}
