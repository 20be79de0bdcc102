//go:build amd64 || arm64

package lifecycle

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

func init() { programs["many"] = many }

const (
	manyStacks = 1000
	// manyAtOnce is how many are opened and closed at the same time: closing an
	// interface takes the kernel about 22 ms.
	manyAtOnce = 16
	// manyInterfaces: of so many stacks one has an interface of each kind.
	manyInterfaces = 20
)

// counts are what a process has of everything.
type counts struct {
	descriptors                           map[string]int
	goroutines, threads, children, mounts int
	namespaces                            map[string]bool // the network namespaces of all threads, children and descriptors
}

func count() counts {
	c := counts{descriptors: make(map[string]int), namespaces: make(map[string]bool)}
	for _, link := range descriptors() {
		c.descriptors[link]++
	}
	c.goroutines = runtime.NumGoroutine()
	c.threads, _ = strconv.Atoi(status("self", "Threads"))
	c.children = len(children())
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	check(err)
	c.mounts = strings.Count(string(mounts), "\n")
	for _, pattern := range []string{"/proc/[0-9]*/ns/net", "/proc/self/task/*/ns/net", "/proc/self/fd/*"} {
		links, err := filepath.Glob(pattern)
		check(err)
		for _, l := range links {
			if ns, err := os.Readlink(l); err == nil && strings.HasPrefix(ns, "net:") {
				c.namespaces[ns] = true
			}
		}
	}
	return c
}

func (c counts) String() string {
	total := 0
	for _, n := range c.descriptors {
		total += n
	}
	return fmt.Sprintf("%d descriptors, %d goroutines, %d threads, %d children, %d network namespaces, %d mounts",
		total, c.goroutines, c.threads, c.children, len(c.namespaces), c.mounts)
}

func (c counts) equal(d counts) bool {
	return maps.Equal(c.descriptors, d.descriptors) && c.goroutines == d.goroutines && c.threads == d.threads &&
		c.children == d.children && c.mounts == d.mounts && maps.Equal(c.namespaces, d.namespaces)
}

// openStack opens the stack with a number.
func openStack(i int) *vdestack.Stack {
	addr := netip.AddrFrom4([4]byte{10, 0, byte((i + 1) >> 8), byte(i + 1)}).String() + "/16"
	var s *vdestack.Stack
	var err error
	switch i % manyInterfaces {
	case 0:
		s, err = vdestack.Open("mem://many", addr)
	case 1:
		s, err = vdestack.Open("lan://many", addr)
	default:
		s, err = vdestack.Open("")
	}
	check(err)
	return s
}

// eachOf calls f for all numbers below n, from several goroutines.
func eachOf(n int, f func(i int)) {
	next := make(chan int)
	var wg sync.WaitGroup
	for range manyAtOnce {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// limitNamespaces limits the network namespaces of the user namespace, and of
// those below.
func limitNamespaces(n int) {
	check(os.WriteFile("/proc/sys/user/max_net_namespaces", []byte(strconv.Itoa(n)), 0))
}

// many runs in a user namespace of its own, for it counts the network
// namespaces there by limiting them: one that nobody can see counts too.
func many() {
	// The runtime keeps threads that it once needed; have them all now.
	var wg sync.WaitGroup
	r, w, err := os.Pipe()
	check(err)
	r.Fd() // makes it blocking: each read takes a thread
	for range 3 * manyAtOnce {
		wg.Go(func() { syscall.Read(int(r.Fd()), make([]byte, 1)) })
	}
	eventually(10*time.Second, func() bool { n, _ := strconv.Atoi(status("self", "Threads")); return n > 3*manyAtOnce })
	w.Close()
	wg.Wait()
	r.Close()
	eachOf(2*manyAtOnce, func(i int) { openStack(i).Close() })

	// The main one and the one that waits for the helper.
	if !eventually(10*time.Second, func() bool { return runtime.NumGoroutine() == 2 }) {
		fail("%d goroutines with no stack", runtime.NumGoroutine())
	}
	const spare = 2 // the helper's own namespace, and the program's
	before := count()
	fmt.Println("before:       ", before)
	compare := func(what string) {
		var after counts
		ok := eventually(20*time.Second, func() bool { after = count(); return after.equal(before) })
		fmt.Printf("%-14s %v\n", what, after)
		if !ok {
			fail("%v, %v before", after.descriptors, before.descriptors)
		}
		// What the kernel has not freed counts against the limit.
		limitNamespaces(manyAtOnce + spare)
		var stacks []*vdestack.Stack
		for end := time.Now().Add(20 * time.Second); len(stacks) < manyAtOnce; {
			s, err := vdestack.Open("")
			if err == nil {
				stacks = append(stacks, s)
			} else if time.Now().After(end) {
				fail("%d network namespaces were freed: %v", len(stacks), err)
			}
		}
		for range spare + 1 {
			if s, err := vdestack.Open(""); err == nil {
				stacks = append(stacks, s)
			}
		}
		if len(stacks) > manyAtOnce+spare {
			fail("network namespaces are not limited")
		}
		for _, s := range stacks {
			check(s.Close())
		}
		limitNamespaces(2 * manyStacks)
	}

	start := time.Now()
	eachOf(manyStacks, func(i int) { check(openStack(i).Close()) })
	compare(fmt.Sprintf("one by one, %v:", time.Since(start).Round(time.Millisecond)))

	start = time.Now()
	stacks := make([]*vdestack.Stack, manyStacks)
	eachOf(manyStacks, func(i int) { stacks[i] = openStack(i) })
	fmt.Println("all open:     ", count())
	eachOf(manyStacks, func(i int) { check(stacks[i].Close()) })
	clear(stacks)
	compare(fmt.Sprintf("all at once, %v:", time.Since(start).Round(time.Millisecond)))
}

// TestMany opens and closes a thousand stacks, and has a thousand at once.
func TestMany(t *testing.T) {
	testenv.Long(t)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Max < 2*manyStacks {
		testenv.Skip(t, "the limit of descriptors is %d (ulimit -H -n %d)", limit.Max, 2*manyStacks)
	}
	cmd := program(t, "many")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	run(t, cmd)
}
