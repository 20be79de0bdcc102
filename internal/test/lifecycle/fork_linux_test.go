//go:build amd64 || arm64

package lifecycle

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

func init() { register(forks, closeForked, hold) }

// forks starts children of os/exec and commands of stacks, while stacks and sockets come
// and go. None has more descriptors than a child has when there is no stack.
func forks() {
	const list = "ls -l /proc/self/fd"
	ctx := contextOf(time.Minute)
	count := func(out []byte, err error) int {
		if err != nil {
			fail("%s: %v: %s", list, err, out)
		}
		return strings.Count(string(out), " -> ")
	}
	want := count(exec.CommandContext(ctx, "sh", "-c", list).CombinedOutput())

	s := must(vdestack.Open("mem://forks", "10.0.0.1/24"))
	defer s.Close()
	ln := must(s.Listen("tcp", "10.0.0.1:0"))
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	var end atomic.Bool
	var wg sync.WaitGroup
	for _, f := range []func() error{
		func() error { return testenv.Closing(vdestack.Open("mem://forks", "10.0.0.2/24")) },
		func() error { return testenv.Closing(vdestack.Open("")) },
		func() error { return testenv.Closing(s.Dial("tcp", ln.Addr().String())) },
		func() error { return testenv.Closing(s.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)) },
		func() error { return testenv.Closing(s.NetNS()) },
		func() error { return listLinks(s) },
		func() error { return s.Sysctl("net.ipv4.ip_forward", "1") },
	} {
		wg.Go(func() {
			for !end.Load() {
				check(f())
			}
		})
	}
	children := 0
	for start := time.Now(); children < 10 || children < 100 && time.Since(start) < 4*time.Second; children++ {
		cmd := exec.CommandContext(ctx, "sh", "-c", list)
		if got := count(cmd.CombinedOutput()); got != want {
			out, _ := exec.Command("sh", "-c", list).CombinedOutput()
			fail("a child has %d descriptors, want %d; another one has\n%s", got, want, out)
		}
		if got := count(s.Command(ctx, "sh", "-c", list).CombinedOutput()); got != want {
			fail("a command has %d descriptors, want %d", got, want)
		}
	}
	end.Store(true)
	wg.Wait()
	fmt.Printf("%d children and as many commands with %d descriptors\n", children, want)
}

// TestFork starts children during everything that makes descriptors.
func TestFork(t *testing.T) {
	testenv.Long(t)
	run(t, program(t, "forks"))
}

// closeForked closes a stack while a child waits on its sockets, which the program has
// too, or the child alone.
func closeForked() {
	alone := os.Args[1] == "alone"
	s := must(vdestack.Open("mem://forked", "10.0.0.1/24"))
	peer := must(vdestack.Open("mem://forked", "10.0.0.2/24"))
	ctx := contextOf(time.Minute)
	child := exec.CommandContext(ctx, "/proc/self/exe")
	child.Env = append(os.Environ(), testenv.ProgramVariable+"=hold")
	child.Stderr = os.Stderr
	var own []io.Closer
	give := func(c io.Closer) {
		kind := "conn"
		if _, ok := c.(net.Listener); ok {
			kind = "listener"
		}
		child.Args = append(child.Args, kind)
		child.ExtraFiles = append(child.ExtraFiles, must(c.(interface{ File() (*os.File, error) }).File()))
		own = append(own, c)
	}
	for _, mptcp := range []bool{false, true} {
		if mptcp && alone {
			break // Close does not end these
		}
		lc, d := vdestack.ListenConfig{Stack: peer}, vdestack.Dialer{Stack: s}
		lc.SetMultipathTCP(mptcp)
		d.SetMultipathTCP(mptcp)
		far := must(lc.Listen(ctx, "tcp", "10.0.0.2:0"))
		defer far.Close() // not before, by the garbage collector
		give(must(d.DialContext(ctx, "tcp", far.Addr().String())))
		lc.Stack = s
		give(must(lc.Listen(ctx, "tcp", "10.0.0.1:0")))
		// The bare hook: the stack does not know these.
		bare, bareDialer := net.ListenConfig{Control: s.Control}, net.Dialer{Control: s.Control}
		bare.SetMultipathTCP(mptcp)
		bareDialer.SetMultipathTCP(mptcp)
		give(must(bare.Listen(ctx, "tcp", "10.0.0.1:0")))
		give(must(bareDialer.DialContext(ctx, "tcp", far.Addr().String())))
	}
	if !alone {
		far := must(s.Listen("unix", "@far"))
		give(must(s.Dial("unix", "@far")))
		server := must(far.Accept())
		defer server.Close()
	}
	give(must(s.ListenPacket("udp", "10.0.0.1:0")))

	out := must(child.StdoutPipe())
	check(child.Start())
	for _, f := range child.ExtraFiles {
		f.Close()
	}
	if alone {
		for _, c := range own {
			c.Close()
		}
	}
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); line != "waiting\n" {
		fail("got %q, %v", line, err)
	}
	start := time.Now()
	check(s.Close())
	late := time.AfterFunc(time.Until(start.Add(time.Second)), func() { child.Process.Kill() })
	for range child.ExtraFiles {
		line, err := lines.ReadString('\n')
		if err != nil {
			fail("a call of a child waits a second after Close")
		}
		fmt.Print(line)
	}
	late.Stop()
	runtime.KeepAlive(own) // the garbage collector would close them
	check(child.Wait())
}

// hold waits on sockets that it has inherited.
func hold() {
	results := make(chan string)
	for i, kind := range os.Args[1:] {
		f := os.NewFile(uintptr(3+i), kind)
		var wait func() error
		if kind == "listener" {
			ln := must(net.FileListener(f))
			wait = func() error { _, err := ln.Accept(); return err }
		} else {
			c := must(net.FileConn(f))
			wait = func() error { _, err := c.Read(make([]byte, 10)); return err }
		}
		f.Close()
		go func() {
			err := wait()
			if err == nil {
				fail("socket %d: no error", i)
			}
			results <- fmt.Sprintf("socket %d: %v", i, err)
		}()
	}
	fmt.Println("waiting")
	for range os.Args[1:] {
		fmt.Println(<-results)
	}
}

// TestCloseForked closes stacks after the program's own fork.
func TestCloseForked(t *testing.T) {
	for _, who := range []string{"both", "alone"} {
		t.Run(who, func(t *testing.T) { run(t, program(t, "closeForked", who)) })
	}
}
