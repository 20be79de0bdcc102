package soak

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/metrics"
	"strconv"
	"strings"

	"github.com/vdestack/vdestack/internal/testenv"
)

// tokenName is the variable that marks the processes of a run, wherever they are.
const tokenName = "VDESTACK_SOAK"

// mayGrow is how much numbers of a usage may grow. The Go runtime keeps its threads, and
// some of its memory.
var mayGrow = usage{"threads": 100, "mappings": 20, "MiB of heap": 16, "MiB of memory": 256}

// A usage is how much the process has of things that testenv.NoLeaks does not count.
type usage map[string]int

// usage collects garbage first, which closes forgotten connections.
func (s *soak) usage() usage {
	u := usage{"MiB of memory": testenv.Resident() >> 20}
	tasks, _ := os.ReadDir("/proc/self/task")
	u["threads"] = len(tasks)
	u["mounts"] = strings.Count(read("/proc/self/mountinfo"), filepath.Base(s.dir)+"/")
	u["mappings"] = mappings(read("/proc/self/maps"))
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	u["MiB of heap"] = int(sample[0].Value.Uint64() >> 20)
	return u
}

// wantUsage waits until the process uses no more than before, and no process or file of the
// run is left.
func (s *soak) wantUsage(before usage) {
	var excess string
	testenv.Eventually(s, "the usage of the beginning", func() bool {
		excess = s.excess(before)
		return excess == ""
	}, func() string { return excess })
}

// excess describes what is left, or is more than it may have become.
func (s *soak) excess(before usage) string {
	var list []string
	for name, n := range s.usage() {
		if n > before[name]+mayGrow[name] {
			list = append(list, fmt.Sprintf("%d %s, before %d", n, name, before[name]))
		}
	}
	for _, p := range s.strays() {
		list = append(list, "stray process "+p)
	}
	for _, f := range s.leftovers() {
		list = append(list, "file "+f)
	}
	return strings.Join(list, "\n")
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
