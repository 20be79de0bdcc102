//go:build amd64 || arm64

package lifecycle

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/stack"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

func init() { register(loseHelper, callForever, renewHelper) }

// atOnce is how long a call may take after the helper is gone.
const atOnce = time.Second

// theHelper returns the process number of the program's helper task.
func theHelper() int {
	pids := children()
	if len(pids) != 1 {
		fail("children %v, want the helper only", pids)
	}
	return pids[0]
}

// listLinks reads by netlink.
func listLinks(s *vdestack.Stack) error {
	nl, err := s.RTNL()
	if err == nil {
		_, err = nl.Links()
		nl.Close()
	}
	return err
}

// calls are those that need the helper.
func calls(s *vdestack.Stack) map[string]func() error {
	ctx := contextOf(time.Minute)
	return map[string]func() error{
		"Socket":      func() error { return testenv.Closing(s.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)) },
		"Listen":      func() error { return testenv.Closing(s.Listen("tcp", "127.0.0.1:0")) },
		"DialContext": func() error { return testenv.Closing(s.DialContext(ctx, "udp", "10.0.0.2:9")) },
		"RTNL":        func() error { return testenv.Closing(s.RTNL()) },
		"Sysctl":      func() error { return s.Sysctl("net.ipv4.ip_forward", "1") },
		"Command":     func() error { return s.Command(ctx, "true").Run() },
		"New":         func() error { return testenv.Closing(vdestack.Open("mem://lose", "10.0.0.3/24")) },
	}
}

// loseHelper sends its helper a signal while calls are made. Each must end with an error
// within the given time, later ones at once, and Close must work.
func loseHelper() {
	sig := must(strconv.Atoi(os.Args[1]))
	limit := must(time.ParseDuration(os.Args[2]))

	s := must(vdestack.Open(""))
	check(s.Close())
	before := descriptors()
	s = must(vdestack.Open("mem://lose", "10.0.0.1/24"))
	closing := must(vdestack.Open("mem://lose", "10.0.0.2/24"))
	helper := theHelper()
	ln := must(s.Listen("tcp", "10.0.0.1:0"))
	client := must(s.Dial("tcp", ln.Addr().String()))
	server := must(ln.Accept())
	sleeper := s.Command(contextOf(time.Minute), "sleep", "1000")
	check(sleeper.Start())

	type result struct {
		name string
		err  error
	}
	results := make(chan result)
	started := make(chan bool)
	all := calls(s)
	again := all["New"] // makes another helper
	delete(all, "New")
	for name, f := range all {
		go func() {
			for first := true; ; first = false {
				if err := f(); err != nil {
					results <- result{name, err}
					return
				}
				if first {
					started <- true
				}
			}
		}()
	}
	for range all {
		<-started
	}
	start := time.Now()
	check(unix.Kill(helper, unix.Signal(sig)))
	closed := make(chan error)
	go func() { closed <- closing.Close() }()
	timeout := time.After(limit)
	want := "the helper task was killed"
	if sig == int(unix.SIGSTOP) {
		want = "the helper task did not answer for 10s, for somebody has stopped it"
	}
	for range all {
		select {
		case r := <-results:
			fmt.Printf("%s after %v: %v\n", r.name, time.Since(start).Round(time.Millisecond), r.err)
			wantText(r.name, r.err, want)
		case <-timeout:
			fail("calls wait after %v", limit)
		}
	}
	select {
	case err := <-closed:
		check(err)
	case <-timeout:
		fail("Close waits after %v", limit)
	}

	for name, f := range all {
		start := time.Now()
		wantText(name, f(), want)
		if took := time.Since(start); took > atOnce {
			fail("a later %s takes %v", name, took)
		}
	}
	// What was there lives on until the stack is closed, also for new stacks.
	check(again())
	late := must(vdestack.Open("mem://lose", "10.0.0.4/24"))
	echo(late, ln)
	check(late.Close())
	must(client.Write([]byte("hello")))
	server.SetDeadline(time.Now().Add(10 * time.Second))
	must(io.ReadFull(server, make([]byte, 5)))
	start = time.Now()
	check(s.Close())
	if took := time.Since(start); took > atOnce {
		fail("Close takes %v", took)
	}
	if sleeper.Wait() == nil {
		fail("a command outlives its stack")
	}
	client.Close()
	server.Close()
	ln.Close()
	// The kernel reports the helper's death before it is a zombie.
	await(5*time.Second, "another helper", children, func(pids []int) bool { return len(pids) == 1 && pids[0] != helper })
	// The helper may have died with a descriptor whose number is lost.
	await(5*time.Second, fmt.Sprint(before), descriptors, func(after []string) bool { return len(after) <= len(before)+1 })
}

// TestHelperKilled kills the helper task under calls.
func TestHelperKilled(t *testing.T) {
	testenv.Long(t)
	for range 5 {
		run(t, program(t, "loseHelper", strconv.Itoa(int(unix.SIGKILL)), atOnce.String()))
	}
}

// TestHelperStopped stops the helper task. A call is given up after the program has run
// for ten seconds, which takes longer on a busy machine.
func TestHelperStopped(t *testing.T) {
	testenv.Long(t)
	t.Parallel()
	run(t, program(t, "loseHelper", strconv.Itoa(int(unix.SIGSTOP)), (13*time.Second).String()))
}

// renewHelper kills all its helpers again and again, and makes stacks with new helpers on
// networks that the old ones made. Nothing is left of any helper.
func renewHelper() {
	path := os.Args[1]
	networks := []string{"mem://renew", "lan://renew", "switch://" + os.Args[2]}
	open := func(host int) (stacks []*vdestack.Stack) {
		for i, vnl := range networks {
			cfg := on(vnl, fmt.Sprintf("10.%d.0.%d/24", i, host))
			cfg.Interfaces[0].Kind = stack.KindVeth
			stacks = append(stacks, newStack(cfg))
		}
		return append(stacks, newStack(vdestack.Config{NetNS: path})) // this takes a helper of its own
	}
	closeAll := func(stacks []*vdestack.Stack) {
		for _, s := range stacks {
			check(s.Close())
		}
	}
	closeAll(open(1))
	before, helpers := descriptors(), len(children())
	old := open(1)
	var listeners []net.Listener
	for i, s := range old[:len(networks)] {
		ln := must(s.Listen("tcp", fmt.Sprintf("10.%d.0.1:0", i)))
		defer ln.Close()
		listeners = append(listeners, ln)
	}
	for round := range 3 {
		for _, pid := range children() {
			fd := must(unix.PidfdOpen(pid, 0))
			check(unix.Kill(pid, unix.SIGKILL))
			if !ended(fd, 10*time.Second) {
				fail("the helper %d lives", pid)
			}
			check(unix.Close(fd))
		}
		for _, s := range old {
			wantText("a socket of a lost stack", testenv.Closing(s.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)), "new ones can be made")
		}
		stacks := open(2 + round)
		for i, ln := range listeners {
			echo(stacks[i], ln)
		}
		// A plug needs a socket in the namespace of the network.
		check(testenv.Closing(vdeplug.Open(networks[0], nil)))
		closeAll(stacks)
	}
	for _, ln := range listeners {
		check(ln.Close())
	}
	closeAll(old)
	await(10*time.Second, fmt.Sprint(helpers, " helpers"), children, func(pids []int) bool { return len(pids) == helpers })
	wantDescriptors(before)
}

// TestHelperRenewed kills helpers of all kinds.
func TestHelperRenewed(t *testing.T) {
	testenv.Long(t)
	path, _ := lent(t)
	run(t, program(t, "renewHelper", path, t.TempDir()+"/switch"))
}

// callForever makes sockets until its input ends.
func callForever() {
	s := must(vdestack.Open(""))
	fmt.Println(theHelper())
	var end atomic.Bool
	go func() {
		io.Copy(io.Discard, os.Stdin)
		end.Store(true)
	}()
	for !end.Load() {
		check(testenv.Closing(s.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)))
	}
	check(s.Close())
}

// TestAllStopped stops a program and its helper for longer than calls may take, as a
// debugger or a batch system does.
func TestAllStopped(t *testing.T) {
	testenv.Long(t)
	t.Parallel()
	cmd := program(t, "callForever")
	out, in := launch(t, cmd)
	helper := testenv.Must(strconv.Atoi(readLine(t, out)))(t)
	signal := func(pid int, sig unix.Signal) {
		testenv.Check(t, unix.Kill(pid, sig))
	}
	signal(helper, unix.SIGSTOP)
	<-time.After(50 * time.Millisecond) // a call is waiting now
	signal(cmd.Process.Pid, unix.SIGSTOP)
	<-time.After(10500 * time.Millisecond)
	signal(cmd.Process.Pid, unix.SIGCONT)
	<-time.After(200 * time.Millisecond)
	signal(helper, unix.SIGCONT)
	in.Close()
	if rest, err := io.ReadAll(out); err != nil || len(rest) > 0 {
		t.Errorf("%s, %v", rest, err)
	}
	testenv.Check(t, cmd.Wait())
}
