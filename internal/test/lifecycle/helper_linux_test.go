//go:build amd64 || arm64

package lifecycle

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/stack"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

func init() {
	programs["loseHelper"] = loseHelper
	programs["callForever"] = callForever
	programs["renewHelper"] = renewHelper
}

// atOnce is how long a call may take when the helper is gone.
const atOnce = time.Second

// theHelper returns the process number of the program's helper task.
func theHelper() int {
	pids := children()
	if len(pids) != 1 {
		fail("children %v, want the helper only", pids)
	}
	return pids[0]
}

// calls are those that need the helper.
func calls(s *vdestack.Stack) map[string]func() error {
	ctx := contextOf(time.Minute)
	return map[string]func() error{
		"Socket": func() error {
			f, err := s.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
			if err == nil {
				f.Close()
			}
			return err
		},
		"Listen": func() error {
			ln, err := s.Listen("tcp", "127.0.0.1:0")
			if err == nil {
				ln.Close()
			}
			return err
		},
		"DialContext": func() error {
			c, err := s.DialContext(ctx, "udp", "10.0.0.2:9")
			if err == nil {
				c.Close()
			}
			return err
		},
		"RTNL": func() error {
			nl, err := s.RTNL()
			if err == nil {
				nl.Close()
			}
			return err
		},
		"Sysctl":  func() error { return s.Sysctl("net.ipv4.ip_forward", "1") },
		"Command": func() error { return s.Command(ctx, "true").Run() },
		"New": func() error {
			s, err := vdestack.Open("mem://lose", "10.0.0.3/24")
			if err == nil {
				err = s.Close()
			}
			return err
		},
	}
}

// loseHelper sends its helper a signal while calls are made, and expects that
// each ends with an error within the given time, that later ones do so at once,
// and that Close works.
func loseHelper() {
	sig, err := strconv.Atoi(os.Args[1])
	check(err)
	limit, err := time.ParseDuration(os.Args[2])
	check(err)

	s, err := vdestack.Open("")
	check(err)
	check(s.Close())
	before := descriptors()
	s, err = vdestack.Open("mem://lose", "10.0.0.1/24")
	check(err)
	closing, err := vdestack.Open("mem://lose", "10.0.0.2/24")
	check(err)
	helper := theHelper()
	ln, err := s.Listen("tcp", "10.0.0.1:0")
	check(err)
	client, err := s.Dial("tcp", ln.Addr().String())
	check(err)
	server, err := ln.Accept()
	check(err)
	sleeper := s.Command(contextOf(time.Minute), "sleep", "1000")
	check(sleeper.Start())

	type result struct {
		name string
		err  error
		at   time.Time
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
					results <- result{name, err, time.Now()}
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
	clear := func(name string, err error) {
		if err == nil || !strings.Contains(err.Error(), want) {
			fail("%s: %v", name, err)
		}
	}
	for range all {
		select {
		case r := <-results:
			fmt.Printf("%s after %v: %v\n", r.name, r.at.Sub(start).Round(time.Millisecond), r.err)
			clear(r.name, r.err)
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
		clear(name, f())
		if took := time.Since(start); took > atOnce {
			fail("a later %s takes %v", name, took)
		}
	}
	// What was there lives on until the stack is closed, also for new stacks.
	check(again())
	late, err := vdestack.Open("mem://lose", "10.0.0.4/24")
	check(err)
	echo(late, ln)
	check(late.Close())
	_, err = client.Write([]byte("hello"))
	check(err)
	server.SetDeadline(time.Now().Add(10 * time.Second))
	_, err = io.ReadFull(server, make([]byte, 5))
	check(err)
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
	// The kernel tells of the helper's death before it is a zombie.
	var pids []int
	if !eventually(5*time.Second, func() bool { pids = children(); return len(pids) == 1 && pids[0] != helper }) {
		fail("processes %v, want another helper", pids)
	}
	// The helper may have died with a descriptor whose number nobody knows.
	var after []string
	if !eventually(5*time.Second, func() bool { after = descriptors(); return len(after) <= len(before)+1 }) {
		fail("descriptors: %v, %v before", after, before)
	}
}

// TestHelperKilled kills the helper task under calls.
func TestHelperKilled(t *testing.T) {
	for range 5 {
		run(t, program(t, "loseHelper", strconv.Itoa(int(unix.SIGKILL)), atOnce.String()))
	}
}

// TestHelperStopped stops it. A call is given up after ten seconds in which the
// program was running, which take longer on a busy machine.
func TestHelperStopped(t *testing.T) {
	testenv.Long(t)
	t.Parallel()
	run(t, program(t, "loseHelper", strconv.Itoa(int(unix.SIGSTOP)), (13*time.Second).String()))
}

// renewHelper kills all its helpers again and again, and makes stacks with new ones
// on networks that the old ones made. Nothing is left of any of them.
func renewHelper() {
	path := os.Args[1]
	networks := []string{"mem://renew", "lan://renew", "switch://" + os.Args[2]}
	open := func(host int) (stacks []*vdestack.Stack) {
		for i, vnl := range networks {
			s, err := vdestack.New(contextOf(time.Minute), vdestack.Config{Interfaces: []vdestack.Interface{{
				VNL: vnl, Kind: stack.KindVeth, Addrs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, byte(host)}), 24)}}}})
			check(err)
			stacks = append(stacks, s)
		}
		// This takes a helper of its own.
		s, err := vdestack.New(contextOf(time.Minute), vdestack.Config{NetNS: path})
		check(err)
		return append(stacks, s)
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
		ln, err := s.Listen("tcp", fmt.Sprintf("10.%d.0.1:0", i))
		check(err)
		defer ln.Close()
		listeners = append(listeners, ln)
	}
	for round := range 3 {
		for _, pid := range children() {
			fd, err := unix.PidfdOpen(pid, 0)
			check(err)
			check(unix.Kill(pid, unix.SIGKILL))
			if !ended(fd, 10*time.Second) {
				fail("the helper %d lives", pid)
			}
			check(unix.Close(fd))
		}
		for _, s := range old {
			if _, err := s.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0); err == nil || !strings.Contains(err.Error(), "new ones can be made") {
				fail("a socket of a lost stack: %v", err)
			}
		}
		stacks := open(2 + round)
		for i, ln := range listeners {
			echo(stacks[i], ln)
		}
		// A plug needs a socket in the namespace of the network.
		plug, err := vdeplug.Open(networks[0], nil)
		check(err)
		check(plug.Close())
		closeAll(stacks)
	}
	for _, ln := range listeners {
		check(ln.Close())
	}
	closeAll(old)
	var pids []int
	if !eventually(10*time.Second, func() bool { pids = children(); return len(pids) == helpers }) {
		fail("helpers %v, want %d", pids, helpers)
	}
	if after := descriptors(); !slices.Equal(after, before) {
		fail("descriptors: %v, %v before", after, before)
	}
}

// TestHelperRenewed kills helpers of all kinds.
func TestHelperRenewed(t *testing.T) {
	path, _ := lent(t)
	run(t, program(t, "renewHelper", path, t.TempDir()+"/switch"))
}

// callForever makes sockets until its input ends.
func callForever() {
	s, err := vdestack.Open("")
	check(err)
	fmt.Println(theHelper())
	end := make(chan bool)
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(end)
	}()
	for {
		f, err := s.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		check(err)
		f.Close()
		select {
		case <-end:
			check(s.Close())
			return
		default:
		}
	}
}

// TestAllStopped stops a program and its helper for longer than calls may take,
// as a debugger or a batch system does.
func TestAllStopped(t *testing.T) {
	testenv.Long(t)
	t.Parallel()
	cmd := program(t, "callForever")
	out, in := launch(t, cmd)
	helper, err := strconv.Atoi(readLine(t, out))
	if err != nil {
		t.Fatal(err)
	}
	signal := func(pid int, sig unix.Signal) {
		if err := unix.Kill(pid, sig); err != nil {
			t.Fatal(err)
		}
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
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
