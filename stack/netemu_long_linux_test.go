package stack_test

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/vdeplug"
)

var (
	netemuLong = flag.Duration("netemu.long", 0, "how long TestNetemuLong begins transfers")
	netemuSeed = flag.Uint64("netemu.seed", 0, "what TestNetemuLong does follows from it (default random)")
)

const (
	netemuWorkers = 4
	// netemuStall is how long a transfer may get no byte. TCP sends again after
	// 0.2 s and then after twice the time each time: eight must get lost in a row.
	netemuStall = time.Minute
)

// TestNetemuLong moves data over networks with random impairments, which change
// meanwhile, and looks whether all goes on. It is run alone, with
//
//	go test -run TestNetemuLong -timeout 0 -v -netemu.long 1h .
func TestNetemuLong(t *testing.T) {
	if *netemuLong == 0 {
		t.Skip("the flag -netemu.long says how long it is")
	}
	seed := *netemuSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-netemu.seed %d", seed)
	end := time.Now().Add(*netemuLong)
	var transfers, bytes atomic.Int64
	var failed atomic.Bool
	var all sync.WaitGroup
	for worker := range netemuWorkers {
		all.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(worker)))
			for n := 0; time.Now().Before(end) && !failed.Load(); n++ {
				x := &impairedTransfer{name: fmt.Sprintf("long%d.%d", worker, n), r: r, transfers: 1 + r.IntN(4)}
				if err := x.run(t); err != nil {
					failed.Store(true)
					t.Errorf("%v\n%v", x, err)
				}
				transfers.Add(int64(x.transfers))
				bytes.Add(x.arrived.Load())
			}
		})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		all.Wait()
	}()
	for begin, tick := time.Now(), time.NewTicker(time.Minute); ; {
		select {
		case <-tick.C:
			t.Logf("%v: %d transfers, %d MiB", time.Since(begin).Round(time.Second), transfers.Load(), bytes.Load()>>20)
			continue
		case <-done:
		}
		t.Logf("%v: %d transfers, %d MiB, all ended: %v", time.Since(begin).Round(time.Second), transfers.Load(), bytes.Load()>>20, !failed.Load())
		return
	}
}

// An impairedTransfer is a network with two stacks, between which data goes there
// and back.
type impairedTransfer struct {
	name      string
	r         *rand.Rand
	transfers int

	vnls    []string
	changes []string // of the settings, so far
	arrived atomic.Int64
}

func (x *impairedTransfer) String() string {
	return fmt.Sprintf("networks %q, changed to [%s], %d bytes arrived", x.vnls, strings.Join(x.changes, " | "), x.arrived.Load())
}

// options returns random ones, over which TCP goes on. Only one end may corrupt frames:
// of two bits that are wrong, TCP's checksum does not see one in 32.
func (x *impairedTransfer) options(corrupt bool) string {
	var list []string
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	for _, o := range []struct {
		name string
		most int // thousandths
	}{{"loss", 20}, {"duplicate", 50}, {"reorder", 50}, {"corrupt", 5}} {
		if x.r.IntN(3) == 0 && (corrupt || o.name != "corrupt") {
			add("%s=0.%02d%%", o.name, x.r.IntN(100))
			if o.most > 10 && x.r.IntN(2) == 0 {
				list[len(list)-1] = fmt.Sprintf("%s=%d%%", o.name, 1+x.r.IntN(o.most/10))
			}
		}
	}
	if x.r.IntN(2) == 0 {
		add("delay=%dus", 1<<x.r.IntN(15))
	}
	if x.r.IntN(2) == 0 {
		add("jitter=%dus", 1<<x.r.IntN(13))
	}
	if x.r.IntN(2) == 0 {
		add("rate=%dmbit", 10<<x.r.IntN(8))
		if x.r.IntN(2) == 0 {
			add("queue=%dk", 32<<x.r.IntN(6))
		}
	}
	if len(list) == 0 {
		add("delay=1ms/jitter=1ms")
	}
	return strings.Join(list, "/")
}

// run does the transfers.
func (x *impairedTransfer) run(t *testing.T) (err error) {
	vnl := "mem://" + x.name
	if x.r.IntN(4) == 0 {
		vnl = "switch://" + t.TempDir() + "/" + x.name
	}
	x.vnls = []string{"netemu://" + x.options(true) + "{" + vnl + "}", vnl}
	if x.r.IntN(4) == 0 {
		x.vnls[1] = "netemu://" + x.options(false) + "{" + vnl + "}"
	}
	var stacks [2]*Stack
	for i, vnl := range x.vnls {
		s, err := Open(vnl, fmt.Sprintf("10.0.0.%d/24", i+1), fmt.Sprintf("fc00::%d/64", i+1))
		if err != nil {
			return err
		}
		defer s.Close()
		stacks[i] = s
	}
	e, err := stacks[0].Emulator("vde0")
	if err != nil {
		return err
	}
	for range x.transfers {
		server := x.r.IntN(2)
		host := fmt.Sprintf([]string{"10.0.0.%d", "fc00::%d"}[x.r.IntN(2)], server+1)
		if err := x.transfer(e, stacks[server], stacks[1-server], host); err != nil {
			out, in := e.Counts()
			return fmt.Errorf("%w\nout %+v\nin %+v\n%+v\n%+v", err, out, in, stacks[0].Stats(), stacks[1].Stats())
		}
	}
	return nil
}

// lostFrames returns how many frames have not arrived as they were, or not at all.
func lostFrames(e *vdeplug.Emulator) uint64 {
	out, in := e.Counts()
	return out.Lost + out.Corrupted + out.Dropped + in.Lost + in.Corrupted + in.Dropped
}

// transfer sends data to a server, which sends it back.
func (x *impairedTransfer) transfer(e *vdeplug.Emulator, server, client *Stack, host string) error {
	ln, err := server.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return err
	}
	defer ln.Close()
	c, err := client.Dial("tcp", ln.Addr().String())
	for lost := uint64(0); errors.Is(err, syscall.EHOSTUNREACH); {
		// The kernel asks for a neighbour three times. All may have been lost.
		before := lost
		if lost = lostFrames(e); lost < before+3 {
			return fmt.Errorf("%d frames were lost: %w", lost-before, err)
		}
		c, err = client.Dial("tcp", ln.Addr().String())
	}
	if err != nil {
		return err
	}
	defer c.Close()
	size := 1 + x.r.IntN(8<<20)
	change := x.changer(e)
	errs := make(chan error, 3)
	go func() {
		c, err := ln.Accept()
		if err == nil {
			_, err = io.Copy(c, c)
			c.Close()
		}
		errs <- err
	}()
	go func() {
		_, err := io.Copy(c, io.LimitReader(pattern{new(int)}, int64(size)))
		errs <- errors.Join(err, c.(*net.TCPConn).CloseWrite())
	}()
	go func() { errs <- checkPattern(c, size, func(n int) { x.arrived.Add(int64(n)) }) }()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for last, since, left := x.arrived.Load(), time.Now(), 3; left > 0; {
		select {
		case err := <-errs:
			if err != nil {
				return err
			}
			left--
		case <-tick.C:
			if n := x.arrived.Load(); n != last {
				last, since = n, time.Now()
			} else if time.Since(since) > netemuStall {
				stacks := make([]byte, 4<<20)
				return fmt.Errorf("no byte has arrived for %v\n%s", netemuStall, stacks[:runtime.Stack(stacks, true)])
			}
			change()
		}
	}
	return nil
}

// changer returns what changes the impairment now and then.
func (x *impairedTransfer) changer(e *vdeplug.Emulator) func() {
	if x.r.IntN(2) == 0 {
		return func() {}
	}
	first := e.Emulation()
	return func() {
		if x.r.IntN(10) > 0 {
			return
		}
		to := first
		if x.r.IntN(2) == 0 {
			to.Out.Delay, to.In.Delay = time.Duration(x.r.IntN(30e6)), time.Duration(x.r.IntN(30e6))
		}
		if x.r.IntN(2) == 0 {
			to.Out.Rate, to.In.Rate = 0, 0
		}
		if err := e.SetEmulation(to); err == nil {
			x.changes = append(x.changes, fmt.Sprintf("%+v", to))
		}
	}
}
