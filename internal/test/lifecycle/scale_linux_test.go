//go:build amd64 || arm64

package lifecycle

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

func init() { register(scale) }

// cpuTime returns the processor time of the program.
func cpuTime() time.Duration {
	var u unix.Rusage
	check(unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(unix.TimevalToNsec(u.Utime) + unix.TimevalToNsec(u.Stime))
}

// scale has a thousand stacks on a network of the scheme that it is given.
func scale() {
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }
	mac := func(i int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, byte(i >> 8), byte(i)} }
	open := func(i int) *vdestack.Stack {
		cfg := on(os.Args[1]+"scale", addr(i).String()+"/16")
		cfg.Interfaces[0].MAC = mac(i)
		return newStack(cfg)
	}
	first := open(1)
	before := testenv.Resident()
	stacks := []*vdestack.Stack{1: first}
	for i := 2; i <= manyStacks; i++ {
		stacks = append(stacks, open(i))
	}
	threads := threads()
	memory := (testenv.Resident() - before) / manyStacks
	start := cpuTime()
	time.Sleep(time.Second) // in which nothing is done
	idle := cpuTime() - start
	fmt.Printf("%d threads, %d bytes of memory a stack, %v of processor time in an idle second\n", threads, memory, idle)
	if threads > runtime.GOMAXPROCS(0)+10 {
		fail("%d threads for %d processors", threads, runtime.GOMAXPROCS(0))
	}
	if memory > 32<<10 {
		fail("%d bytes a stack", memory)
	}
	if idle > 10*time.Millisecond {
		fail("%v of processor time in an idle second", idle)
	}

	reach := func(from, to int) {
		if from == to {
			return
		}
		d := vdestack.Dialer{Stack: stacks[from], Dialer: net.Dialer{Timeout: 30 * time.Second}}
		if _, err := d.Dial("tcp", netip.AddrPortFrom(addr(to), 9).String()); !errors.Is(err, unix.ECONNREFUSED) {
			fail("from %d to %d: %v, want a refusal", from, to, err)
		}
	}
	for from := 1; from <= manyStacks; from += 100 {
		start := time.Now()
		eachOf(manyStacks, func(i int) { reach(from, i+1) })
		fmt.Printf("%d reached all in %v\n", from, time.Since(start))
	}
	// All reach the same one at the same instant.
	began := time.Now()
	var wg sync.WaitGroup
	for i := range manyStacks {
		wg.Go(func() { reach(i+1, 2) })
	}
	wg.Wait()
	fmt.Printf("all reached one in %v\n", time.Since(began))
	for _, s := range stacks[1:] {
		check(s.Close())
	}
}

// TestManyOnNetwork has a thousand stacks on one network.
func TestManyOnNetwork(t *testing.T) {
	testenv.Long(t)
	testenv.NeedDescriptors(t, 2*manyStacks)
	run(t, program(t, "scale", "mem://"))
}
