//go:build amd64 || arm64

package lifecycle

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

func init() { register(firstAtLimit, laterAtLimit, joinAtLimit, closeAtLimit) }

// setLimit sets the soft limit of a resource.
func setLimit(resource int, n uint64) {
	var l unix.Rlimit
	check(unix.Getrlimit(resource, &l))
	l.Cur = min(n, l.Max)
	check(unix.Setrlimit(resource, &l))
}

// stackAtLimit makes a stack with room for n more descriptors.
func stackAtLimit(n int) {
	// With the deadline of a context the runtime would make its poller here.
	ok := openAt(n, func() (*vdestack.Stack, error) {
		return vdestack.New(context.Background(), vdestack.Config{Interfaces: []vdestack.Interface{
			{VNL: "mem://limit", Addrs: testenv.Prefixes("10.0.0.1/24", "fc00::1/64")},
			{VNL: "lan://limit", Addrs: testenv.Prefixes("10.1.0.1/24")},
		}})
	})
	if !ok && n > 15 {
		fail("%d descriptors have to be enough", n)
	}
}

// openAt makes a stack with room for n more descriptors, and reports whether there was
// one. If there is an error, it must name the limit. Nothing may be left.
func openAt(n int, open func() (*vdestack.Stack, error)) (ok bool) {
	before, helpers, goroutines := descriptors(), len(children()), runtime.NumGoroutine()
	poller := strings.Contains(strings.Join(before, " "), "eventpoll")
	setLimit(unix.RLIMIT_NOFILE, uint64(len(before)+n))
	s, err := open()
	setLimit(unix.RLIMIT_NOFILE, 1000)
	if err == nil {
		fmt.Printf("%d descriptors: a stack\n", n)
		check(s.Close())
	} else {
		fmt.Printf("%d descriptors: %v\n", n, err)
		wantText("a stack", err, "ulimit -n")
	}
	if !poller {
		return err == nil // the first stack leaves the helper's namespace and the poller
	}
	// The helper of a process with CAP_SYS_ADMIN stays, with its namespace.
	more := len(children()) - helpers
	if more == 0 {
		wantDescriptors(before)
	}
	await(5*time.Second, fmt.Sprint(goroutines+more, " goroutines"), runtime.NumGoroutine, func(n int) bool { return n <= goroutines+more })
	return err == nil
}

// firstAtLimit makes the first stack of the program with the given room.
func firstAtLimit() {
	n := must(strconv.Atoi(os.Args[1]))
	stackAtLimit(n)
	if helpers := children(); len(helpers) > 1 {
		fail("helpers %v are left", helpers)
	}
	check(testenv.Closing(vdestack.Open("mem://limit", "10.0.0.1/24")))
}

// laterAtLimit makes others, when there is a helper.
func laterAtLimit() {
	check(testenv.Closing(vdestack.Open("")))
	for n := range 21 {
		stackAtLimit(n)
	}

	// The helper has the current limit of the program, not that of its own start.
	s := must(vdestack.Open(""))
	defer s.Close()
	var files []*os.File
	for {
		f, err := s.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			break
		}
		files = append(files, f)
	}
	if want := 1000 - 20; len(files) < want {
		fail("%d sockets with a limit of 1000 descriptors", len(files))
	}
	for _, f := range files {
		f.Close()
	}
	out := must(s.Command(contextOf(time.Minute), "sh", "-c", "ulimit -S -n").Output())
	if got := strings.TrimSpace(string(out)); got != "1000" {
		fail("a command has a limit of %s descriptors, the program 1000", got)
	}
}

// TestLimit makes stacks with room for 0 to 20 more descriptors: each works, or fails
// with a clear error and leaves nothing behind.
func TestLimit(t *testing.T) {
	testenv.Long(t)
	for n := range 21 {
		t.Run(fmt.Sprintf("first stack with %d", n), func(t *testing.T) {
			cmd := program(t, "firstAtLimit", strconv.Itoa(n))
			// A file: with a pipe the runtime would make its poller.
			out := testenv.Opened(os.CreateTemp(t.TempDir(), ""))(t)
			cmd.Stdout = out
			err := cmd.Run()
			text, _ := os.ReadFile(out.Name())
			t.Logf("%s", text)
			if err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("later stacks", func(t *testing.T) { run(t, program(t, "laterAtLimit")) })
}

// joinAtLimit joins a namespace of another process with more and more room. The first
// stack that succeeds makes a helper for it.
func joinAtLimit() {
	path := os.Args[1]
	check(testenv.Closing(vdestack.Open("")))
	joined := 0
	for n := range 21 {
		ok := openAt(n, func() (*vdestack.Stack, error) {
			return vdestack.New(contextOf(time.Minute), vdestack.Config{NetNS: path, Interfaces: []vdestack.Interface{{VNL: "mem://limit", Name: "join0"}}})
		})
		if ok {
			joined++
		}
	}
	fmt.Printf("%d times joined\n", joined)
	if joined == 0 {
		fail("20 descriptors have to be enough")
	}
}

// TestJoinAtLimit joins a namespace with room for 0 to 20 more descriptors.
func TestJoinAtLimit(t *testing.T) {
	testenv.Long(t)
	path, _ := lent(t)
	run(t, program(t, "joinAtLimit", path))
}

// closeAtLimit closes a stack when there is no room for a descriptor.
func closeAtLimit() {
	s := must(vdestack.Open("mem://limit", "10.0.0.1/24"))
	results := make(chan error)
	wait := func(c net.Conn) {
		go func() {
			_, err := c.Read(make([]byte, 10))
			results <- err
		}()
	}
	ctx := contextOf(time.Minute)
	for _, mptcp := range []bool{false, true} {
		// The bare hook: the stack does not know these.
		lc, d := net.ListenConfig{Control: s.Control}, net.Dialer{Control: s.Control}
		lc.SetMultipathTCP(mptcp)
		d.SetMultipathTCP(mptcp)
		ln := must(lc.Listen(ctx, "tcp", "10.0.0.1:0"))
		c := must(d.DialContext(ctx, "tcp", ln.Addr().String()))
		wait(c)
		c = must(ln.Accept())
		wait(c)
		c = must(d.DialContext(ctx, "udp", "10.0.0.1:9"))
		wait(c)
	}

	setLimit(unix.RLIMIT_NOFILE, 100)
	for {
		if _, err := unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
			break
		}
	}
	check(s.Close())
	for range 6 {
		select {
		case err := <-results:
			if err == nil {
				fail("a call on a socket of a closed stack has no error")
			}
			fmt.Println(err)
		case <-time.After(10 * time.Second):
			fail("a call on a socket of a closed stack waits")
		}
	}
}

func TestCloseAtLimit(t *testing.T) { run(t, program(t, "closeAtLimit")) }
