//go:build amd64 || arm64

package lifecycle

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/testenv/private"
	"golang.org/x/sys/unix"
)

func init() { register(many) }

const (
	manyStacks = 1000
	// manyAtOnce is how many are opened and closed at the same time: the kernel takes
	// about 22 ms to close an interface.
	manyAtOnce = 16
	// manyInterfaces is the number of stacks among which one has an interface of each
	// kind.
	manyInterfaces = 20
)

// counts are what a process has.
type counts struct {
	descriptors                           map[string]int
	goroutines, threads, children, mounts int
	namespaces                            map[string]bool // the network namespaces of all threads, children and descriptors
}

func threads() int { return must(strconv.Atoi(status("self", "Threads"))) }

func count() counts {
	c := counts{descriptors: make(map[string]int), namespaces: make(map[string]bool)}
	for _, link := range descriptors() {
		c.descriptors[link]++
	}
	c.goroutines = runtime.NumGoroutine()
	c.threads = threads()
	c.children = len(children())
	c.mounts = strings.Count(string(must(os.ReadFile("/proc/self/mountinfo"))), "\n")
	for _, pattern := range []string{"/proc/[0-9]*/ns/net", "/proc/self/task/*/ns/net", "/proc/self/fd/*"} {
		for _, l := range must(filepath.Glob(pattern)) {
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

// openStack opens the stack with a number.
func openStack(i int) *vdestack.Stack {
	addr := netip.AddrFrom4([4]byte{10, 0, byte((i + 1) >> 8), byte(i + 1)}).String() + "/16"
	switch i % manyInterfaces {
	case 0:
		return must(vdestack.Open("mem://many", addr))
	case 1:
		return must(vdestack.Open("lan://many", addr))
	}
	return must(vdestack.Open(""))
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

// limitNamespaces limits the network namespaces of the user namespace and of those below
// it.
func limitNamespaces(n int) {
	check(os.WriteFile("/proc/sys/user/max_net_namespaces", []byte(strconv.Itoa(n)), 0))
}

// many runs in a user namespace of its own, because it counts the network namespaces
// there by limiting them: even those that cannot be found count.
func many() {
	// The runtime keeps threads that it has needed. Make it start all of them now.
	var wg sync.WaitGroup
	r, w, err := os.Pipe()
	check(err)
	r.Fd() // makes it blocking: each read takes a thread
	for range 3 * manyAtOnce {
		wg.Go(func() { syscall.Read(int(r.Fd()), make([]byte, 1)) })
	}
	await(10*time.Second, "a thread for each", threads, func(n int) bool { return n > 3*manyAtOnce })
	w.Close()
	wg.Wait()
	r.Close()
	eachOf(2*manyAtOnce, func(i int) { openStack(i).Close() })

	// The main goroutine and the one that waits for the helper.
	await(10*time.Second, "2 goroutines", runtime.NumGoroutine, func(n int) bool { return n == 2 })
	const spare = 2 // the helper's own namespace, and the program's
	before := count()
	fmt.Println("before:       ", before)
	compare := func(what string) {
		after := await(20*time.Second, fmt.Sprintf("%v %v", before, before.descriptors), count, func(c counts) bool { return reflect.DeepEqual(c, before) })
		fmt.Printf("%-14s %v\n", what, after)
		// Namespaces that the kernel has not freed count against the limit.
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
	testenv.NeedDescriptors(t, 2*manyStacks)
	cmd := program(t, "many")
	cmd.SysProcAttr = private.Root(unix.CLONE_NEWNET)
	run(t, cmd)
}
