package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	workers = 8
	// opTime is the deadline of whatever an operation waits for.
	opTime = 20 * time.Second
	// opLimit is how long an operation, which waits a few times, may take: one that takes
	// longer hangs.
	opLimit = 40 * time.Second
	// maxFailures is the number of failures that are printed.
	maxFailures = 50
)

type config struct {
	duration time.Duration
	seed     uint64
	verbose  bool
	out      io.Writer
}

// A soak is one run.
type soak struct {
	config
	dir       string // of sockets
	token     string // in the environment of every process that the run starts
	tools     tools
	inherited map[int]bool // descriptors
	nets      []*network
	ops       []*operation
	serial,
	bytes, badHashes,
	overflown, // operations without room in the table of neighbours
	late atomic.Uint64 // operations that waited too long for routes

	mu   sync.Mutex // guards live, and network.taken
	live []*member

	watched  watched
	print    sync.Mutex // guards failures, and orders the output
	failures int
}

// run soaks, prints its findings and reports whether there is no failure.
func run(ctx context.Context, cfg config) bool {
	s := &soak{config: cfg}
	s.printf("soak: seed=%d duration=%v workers=%d", s.seed, s.duration, workers)
	begin := time.Now()
	if err := s.setup(); err != nil {
		s.fail("setting up: %v", err)
		return s.summary(begin, nil, nil)
	}
	defer os.RemoveAll(s.dir)
	defer os.Unsetenv(tokenName)
	before := s.begin()

	over := make(chan struct{})
	go func() {
		defer close(over)
		s.work(ctx)
	}()
	if hung := s.watched.watch(over); hung != nil {
		s.fail("%s hangs: it has taken longer than %v\n%s", hung, opLimit, goroutines())
		return s.summary(begin, before, nil)
	}
	return s.summary(begin, before, s.settle(before))
}

// setup makes everything that is made once and stays.
func (s *soak) setup() (err error) {
	s.token = fmt.Sprintf("%d-%d", os.Getpid(), time.Now().UnixNano())
	os.Setenv(tokenName, s.token)
	// Not TMPDIR, which may be longer than the path of a socket.
	if s.dir, err = os.MkdirTemp("/tmp", "soak"); err != nil {
		return err
	}
	s.findTools()
	s.findInherited()
	s.ops = operations()
	return s.warmUp()
}

// work runs the workers to the end of the time, and closes everything.
func (s *soak) work(ctx context.Context) {
	s.perform(&operation{name: "start", do: (*task).startNetworks}, s.rand(0))
	ctx, cancel := context.WithTimeout(ctx, s.duration)
	defer cancel()
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			rng := s.rand(uint64(i) + 1)
			for ctx.Err() == nil {
				s.perform(s.choose(rng), rng)
			}
		})
	}
	wg.Wait()
	s.perform(&operation{name: "end", do: (*task).closeAll}, s.rand(workers+1))
}

func (s *soak) rand(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(s.seed, stream)) }

// An operation is one kind of work.
type operation struct {
	name   string
	weight int
	do     func(*task) error

	done, upset atomic.Uint64
}

// operations returns all operations.
func operations() []*operation {
	return []*operation{
		{name: "open", weight: 30, do: (*task).doOpen},
		{name: "close", weight: 15, do: (*task).doClose},
		{name: "tcp", weight: 40, do: withTwo((*task).doTCP)},
		{name: "udp", weight: 30, do: withTwo((*task).doUDP)},
		{name: "multicast", weight: 10, do: withTwo((*task).doMulticast)},
		{name: "names", weight: 15, do: withOne((*task).doNames)},
		{name: "route", weight: 3, do: (*task).doRoute},
		{name: "join", weight: 10, do: withTwo((*task).doJoin)},
		{name: "http", weight: 10, do: withTwo((*task).doHTTP)},
		{name: "refused", weight: 15, do: withTwo((*task).doRefused)},
		{name: "forget", weight: 5, do: withTwo((*task).doForget)},
		{name: "socket", weight: 15, do: withOne((*task).doSocket)},
		{name: "exit", weight: 15, do: withOne((*task).doExit)},
		{name: "cat", weight: 15, do: withOne((*task).doCat)},
		{name: "surroundings", weight: 10, do: withOne((*task).doSurroundings)},
		{name: "cancel", weight: 10, do: withOne((*task).doCancel)},
		{name: "kill-command", weight: 10, do: withOne((*task).doKillCommand)},
		{name: "ip", weight: 5, do: withOne((*task).doIP)},
		{name: "list", weight: 10, do: withOne((*task).doList)},
		{name: "change", weight: 15, do: withOne((*task).doChange)},
		{name: "sysctl", weight: 5, do: withOne((*task).doSysctl)},
		{name: "give-up", weight: 5, do: (*task).doGiveUp},
		{name: "chaos", weight: 15, do: (*task).doChaos},
		{name: "kill-switch", weight: 1, do: (*task).doKillSwitch},
		{name: "kill-cable", weight: 1, do: (*task).doKillCable},
		{name: "kill-peer", weight: 2, do: (*task).doKillPeer},
		{name: "stats", weight: 5, do: withOne((*task).doStats)},
		{name: "gc", weight: 5, do: (*task).doGC},
	}
}

func (s *soak) choose(rng *rand.Rand) *operation {
	sum := 0
	for _, op := range s.ops {
		sum += op.weight
	}
	n := rng.IntN(sum)
	for _, op := range s.ops {
		if n -= op.weight; n < 0 {
			return op
		}
	}
	panic("unreachable")
}

// withOne calls an operation with a stack at random.
func withOne(do func(*task, *member) error) func(*task) error {
	return func(t *task) error {
		ms := t.members(1)
		if ms == nil {
			return errSkip
		}
		return do(t, ms[0])
	}
}

// withTwo calls an operation with two stacks of one network at random, which may be the
// same.
func withTwo(do func(t *task, a, b *member) error) func(*task) error {
	return func(t *task) error {
		ms := t.members(2)
		if ms == nil {
			return errSkip
		}
		return do(t, ms[0], ms[1])
	}
}

// errSkip is returned by an operation that needs stacks that do not exist now.
var errSkip = errors.New("nothing to do it with")

// perform runs an operation and checks its result.
func (s *soak) perform(op *operation, rng *rand.Rand) {
	t := &task{soak: s, name: op.name, rng: rng, start: time.Now()}
	var cancel context.CancelFunc
	t.ctx, cancel = context.WithTimeout(context.Background(), opTime)
	defer cancel()
	full := overflows()
	s.watched.add(t)
	err := op.do(t)
	s.watched.remove(t)
	took := time.Since(t.start)
	if s.verbose && err != errSkip {
		s.printf("%v %v: %v", t, took.Round(10*time.Microsecond), err)
	}
	switch {
	case err == errSkip:
		return
	case err == nil:
		op.done.Add(1)
	case errors.Is(err, errCorrupt):
		s.badHashes.Add(1)
		s.fail("%v: %v", t, err)
	case t.upset() && excused(err):
		op.upset.Add(1)
	case overflows() != full && excused(err):
		s.overflown.Add(1)
	case errors.Is(err, context.DeadlineExceeded) && strings.Contains(err.Error(), "the kernel has not made the routes"):
		// The kernel makes routes of IPv6 addresses in one queue for the whole machine.
		// Thousands of namespaces of other programs are before ours.
		s.late.Add(1)
	default:
		s.fail("%v, after %v: %v%s", t, took, err, t.circumstances())
	}
	if took > opLimit {
		s.fail("%v took %v", t, took)
	}
}

// A task is an operation that a worker performs.
type task struct {
	*soak
	name  string
	rng   *rand.Rand
	ctx   context.Context // ends after opTime
	start time.Time

	mu   sync.Mutex // guards used
	used []use
}

func (t *task) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	b.WriteString(t.name)
	for _, u := range t.used {
		fmt.Fprintf(&b, " %v", u)
	}
	return b.String()
}

// deadline is the deadline of all waits of the task.
func (t *task) deadline() time.Time {
	d, _ := t.ctx.Deadline()
	return d
}

// chance is true once in n times.
func (t *task) chance(n int) bool { return t.rng.IntN(n) == 0 }

// fail counts a failure of the run, and prints it.
func (s *soak) fail(format string, args ...any) {
	s.print.Lock()
	s.failures++
	n := s.failures
	s.print.Unlock()
	switch {
	case n < maxFailures:
		s.printf("soak: FAIL: "+format, args...)
	case n == maxFailures:
		s.printf("soak: further failures are counted only")
	}
}

func (s *soak) printf(format string, args ...any) {
	s.print.Lock()
	defer s.print.Unlock()
	fmt.Fprintf(s.out, format+"\n", args...)
}

// summary prints the last line.
func (s *soak) summary(begin time.Time, before, after *usage) bool {
	var b strings.Builder
	fmt.Fprintf(&b, "soak: seed=%d duration=%v |", s.seed, time.Since(begin).Round(100*time.Millisecond))
	var upset uint64
	for _, op := range s.ops {
		if op.weight > 0 {
			fmt.Fprintf(&b, " %s=%d", op.name, op.done.Load())
			if n := op.upset.Load(); n > 0 {
				fmt.Fprintf(&b, "+%d", n)
				upset += n
			}
		}
	}
	fmt.Fprintf(&b, " (+N: cut short, %d in all) | %.1f MiB, %d hash errors |", upset, float64(s.bytes.Load())/(1<<20), s.badHashes.Load())
	if n := s.overflown.Load(); n > 0 {
		fmt.Fprintf(&b, " %d for want of room in the machine's neighbour tables |", n)
	}
	if n := s.late.Load(); n > 0 {
		fmt.Fprintf(&b, " %d for want of the machine's time for IPv6 routes |", n)
	}
	if before != nil && after != nil {
		b.WriteString(before.compare(after))
	} else {
		b.WriteString(" not counted")
	}
	s.print.Lock()
	n := s.failures
	s.print.Unlock()
	if n > 0 {
		s.printf("%s | FAIL (%d failures)", &b, n)
	} else {
		s.printf("%s | ok: all counts are as before", &b)
	}
	return n == 0
}
