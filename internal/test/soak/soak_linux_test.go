package soak

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

var (
	duration = flag.Duration("duration", 5*time.Second, "how long TestSoak starts operations")
	seed     = flag.Uint64("seed", 0, "decides what the workers of TestSoak do (default random)")
)

const (
	workers = 8
	// opTime is the deadline of whatever an operation waits for.
	opTime = 20 * time.Second
	// opLimit is how long an operation, which waits a few times, may take: one that takes
	// longer hangs.
	opLimit = 40 * time.Second
)

func TestMain(m *testing.M) { testenv.Main(m) }

// A soak is one run.
type soak struct {
	testing.TB
	seed               uint64
	dir                string // of sockets
	token              string // in the environment of every process that the run starts
	vdeSwitch, vdePlug string
	inherited          map[int]bool // descriptors
	nets               []*network
	ops                []*operation // each as often as its weight says
	serial, bytes      atomic.Uint64
	late               atomic.Uint64 // operations for which the machine had no room or no time
	hung               chan *task

	mu   sync.Mutex // guards live, and network.taken
	live []*member
}

// TestSoak is described in the documentation of the package.
func TestSoak(t *testing.T) {
	testenv.Long(t)
	if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		testenv.Skip(t, "%v", err)
	} else {
		f.Close()
	}
	s := &soak{
		TB: t, seed: *seed, dir: testenv.ShortDir(t), hung: make(chan *task),
		token:     fmt.Sprintf("%d-%d", os.Getpid(), time.Now().UnixNano()),
		vdeSwitch: testenv.Need(t, "vde_switch", "vde2"),
		vdePlug:   testenv.Need(t, "vde_plug", "vdeplug"),
	}
	if s.seed == 0 {
		s.seed = rand.Uint64()
	}
	t.Logf("seed=%d", s.seed)
	t.Setenv(tokenName, s.token)
	s.findInherited()
	kinds := operations()
	for _, op := range kinds {
		s.ops = append(s.ops, slices.Repeat([]*operation{op}, op.weight)...)
	}

	// The first stack and command make what the process keeps.
	st := testenv.Must(vdestack.Open(""))(t)
	testenv.Check(t, errors.Join(st.Command(t.Context(), "true").Run(), st.Close()))
	testenv.NoLeaks(t, netnstest.Settle, runtime.GC) // which closes forgotten connections
	testenv.WatchNamespaces(t, "net", "user")
	before := s.usage()

	over := make(chan struct{})
	go func() {
		defer close(over)
		s.work(t.Context())
	}()
	select {
	case <-over:
	case hung := <-s.hung:
		t.Fatalf("%s hangs: it has taken longer than %v\n%s", hung, opLimit, goroutines())
	}
	var counts strings.Builder
	for _, op := range kinds {
		fmt.Fprintf(&counts, " %s=%d", op.name, op.done.Load())
		if n := op.upset.Load(); n > 0 {
			fmt.Fprintf(&counts, "+%d", n)
		}
	}
	t.Logf("seed=%d%v (+N: cut short), %d for want of the machine's neighbour tables or time, %.1f MiB",
		s.seed, &counts, s.late.Load(), float64(s.bytes.Load())/(1<<20))
	s.wantUsage(before)
}

// findInherited records the descriptors that the program was started with, which its
// children inherit too.
func (s *soak) findInherited() {
	s.inherited = make(map[int]bool)
	for fd := range testenv.Descriptors(s) {
		n, _ := strconv.Atoi(fd)
		if flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			s.inherited[n] = true
		}
	}
}

// work runs the workers to the end of the time or the first failure, and closes everything.
func (s *soak) work(ctx context.Context) {
	s.perform(&operation{name: "start", do: (*task).startNetworks}, s.rand(0))
	ctx, cancel := context.WithTimeout(ctx, *duration)
	defer cancel()
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			rng := s.rand(uint64(i) + 1)
			for ctx.Err() == nil && !s.Failed() {
				s.perform(s.ops[rng.IntN(len(s.ops))], rng)
			}
		})
	}
	wg.Wait()
	rng := s.rand(workers + 1)
	for range len(s.live) {
		s.perform(&operation{name: "end", do: (*task).doClose}, rng)
	}
	s.perform(&operation{name: "stop", do: (*task).stopFabrics}, rng)
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
	watch := time.AfterFunc(opLimit, func() { s.hung <- t })
	err := op.do(t)
	watch.Stop()
	switch {
	case err == errSkip:
	case err == nil:
		op.done.Add(1)
	case errors.Is(err, errCorrupt):
		t.Errorf("%v: %v", t, err)
	case t.upset() && excused(err):
		op.upset.Add(1)
	case overflows() != full && excused(err):
		s.late.Add(1)
	case errors.Is(err, context.DeadlineExceeded) && strings.Contains(err.Error(), "the kernel has not made the routes"):
		// The kernel makes routes of IPv6 addresses in one queue for the whole machine.
		// Thousands of namespaces of other programs are before ours.
		s.late.Add(1)
	default:
		t.Errorf("%v, after %v: %v%s", t, time.Since(t.start), err, t.circumstances())
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

// startNetworks makes the networks.
func (t *task) startNetworks() error {
	t.addNetwork(&network{name: "lo", max: 4})
	t.addNetwork(&network{name: "mem", max: 4, vnl: "mem://soak"})
	t.addNetwork(&network{name: "lan", max: 4, vnl: "lan://soak"})
	t.addNetwork(&network{name: "ptp", max: 2, vnl: "ptp://" + filepath.Join(t.dir, "ptp")})
	ends := make(chan string, 2)
	ends <- "udp://127.0.0.1:4701->127.0.0.1:4702"
	ends <- "udp://127.0.0.1:4702->127.0.0.1:4701"
	t.addNetwork(&network{name: "udp", max: 2, ends: ends})
	t.addNetwork(&network{name: "vxvde", max: 4, plug: true, vnl: "vxvde://239.255.47.89"})
	dir := filepath.Join(t.dir, "sw0")
	err := t.addFabric(&network{name: "vde", max: 4}, &half{dir: dir, argv: []string{t.vdeSwitch, "-s", dir}})
	var halves []*half
	for _, name := range []string{"sw1", "sw2"} {
		dir := filepath.Join(t.dir, name)
		halves = append(halves, &half{dir: dir, argv: []string{t.vdePlug, "switch://" + dir}})
	}
	return errors.Join(err, t.addFabric(&network{name: "switches", max: 4, plug: true}, halves...))
}

// addFabric makes a network of switches, and starts them.
func (t *task) addFabric(n *network, halves ...*half) error {
	n.fabric = &fabric{net: n, halves: halves}
	t.addNetwork(n)
	return n.fabric.start(t)
}

func (t *task) addNetwork(n *network) {
	n.index = len(t.nets)
	t.nets = append(t.nets, n)
}

// goroutines returns the stacks of all goroutines.
func goroutines() string {
	buf := make([]byte, 4<<20)
	return string(buf[:runtime.Stack(buf, true)])
}
