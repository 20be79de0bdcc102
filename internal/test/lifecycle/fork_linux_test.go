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
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

func init() {
	programs["forks"] = forks
	programs["closeForked"] = closeForked
	programs["hold"] = hold
}

// forks starts children of os/exec and commands of stacks, while stacks and
// sockets come and go, and compares what they have open with what a child has
// when there is no stack.
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

	s, err := vdestack.Open("mem://forks", "10.0.0.1/24")
	check(err)
	defer s.Close()
	ln, err := s.Listen("tcp", "10.0.0.1:0")
	check(err)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	end := make(chan bool)
	var wg sync.WaitGroup
	for _, f := range []func() error{
		func() error {
			s, err := vdestack.Open("mem://forks", "10.0.0.2/24")
			if err == nil {
				err = s.Close()
			}
			return err
		},
		func() error {
			s, err := vdestack.Open("")
			if err == nil {
				err = s.Close()
			}
			return err
		},
		func() error {
			c, err := s.Dial("tcp", ln.Addr().String())
			if err == nil {
				err = c.Close()
			}
			return err
		},
		func() error {
			f, err := s.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
			if err == nil {
				err = f.Close()
			}
			return err
		},
		func() error {
			f, err := s.NetNS()
			if err == nil {
				err = f.Close()
			}
			return err
		},
		func() error {
			nl, err := s.RTNL()
			if err == nil {
				_, err = nl.Links()
				nl.Close()
			}
			return err
		},
		func() error { return s.Sysctl("net.ipv4.ip_forward", "1") },
	} {
		wg.Go(func() {
			for {
				check(f())
				select {
				case <-end:
					return
				default:
				}
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
	close(end)
	wg.Wait()
	fmt.Printf("%d children and as many commands with %d descriptors\n", children, want)
}

// TestFork starts children beside everything that makes descriptors.
func TestFork(t *testing.T) { run(t, program(t, "forks")) }

// closeForked closes a stack on whose sockets a child waits, that has them too or
// alone.
func closeForked() {
	alone := os.Args[1] == "alone"
	s, err := vdestack.Open("mem://forked", "10.0.0.1/24")
	check(err)
	peer, err := vdestack.Open("mem://forked", "10.0.0.2/24")
	check(err)
	ctx := contextOf(time.Minute)
	child := exec.CommandContext(ctx, "/proc/self/exe")
	child.Env = append(os.Environ(), testenv.ProgramVariable+"=hold")
	child.Stderr = os.Stderr
	var own []io.Closer
	give := func(kind string, c interface {
		io.Closer
		File() (*os.File, error)
	}) {
		f, err := c.File()
		check(err)
		child.Args = append(child.Args, kind)
		child.ExtraFiles = append(child.ExtraFiles, f)
		own = append(own, c)
	}
	for _, mptcp := range []bool{false, true} {
		if mptcp && alone {
			break // nobody ends these, see Close
		}
		lc, d := vdestack.ListenConfig{Stack: peer}, vdestack.Dialer{Stack: s}
		lc.SetMultipathTCP(mptcp)
		d.SetMultipathTCP(mptcp)
		far, err := lc.Listen(ctx, "tcp", "10.0.0.2:0")
		check(err)
		defer far.Close() // not before, by the garbage collector
		c, err := d.DialContext(ctx, "tcp", far.Addr().String())
		check(err)
		give("conn", c.(*net.TCPConn))
		lc.Stack = s
		ln, err := lc.Listen(ctx, "tcp", "10.0.0.1:0")
		check(err)
		give("listener", ln.(*net.TCPListener))
		// The bare hook: the stack does not know these.
		bare, bareDialer := net.ListenConfig{Control: s.Control}, net.Dialer{Control: s.Control}
		bare.SetMultipathTCP(mptcp)
		bareDialer.SetMultipathTCP(mptcp)
		ln, err = bare.Listen(ctx, "tcp", "10.0.0.1:0")
		check(err)
		give("listener", ln.(*net.TCPListener))
		c, err = bareDialer.DialContext(ctx, "tcp", far.Addr().String())
		check(err)
		give("conn", c.(*net.TCPConn))
	}
	if !alone {
		far, err := s.Listen("unix", "@far")
		check(err)
		c, err := s.Dial("unix", "@far")
		check(err)
		give("conn", c.(*net.UnixConn))
		server, err := far.Accept()
		check(err)
		defer server.Close()
	}
	p, err := s.ListenPacket("udp", "10.0.0.1:0")
	check(err)
	give("conn", p.(*net.UDPConn))

	out, err := child.StdoutPipe()
	check(err)
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

// hold waits on sockets that it has inherited, each in its way.
func hold() {
	type result struct {
		i   int
		err error
	}
	results := make(chan result)
	for i, kind := range os.Args[1:] {
		f := os.NewFile(uintptr(3+i), kind)
		var wait func() error
		if kind == "listener" {
			ln, err := net.FileListener(f)
			check(err)
			wait = func() error { _, err := ln.Accept(); return err }
		} else {
			c, err := net.FileConn(f)
			check(err)
			wait = func() error { _, err := c.Read(make([]byte, 10)); return err }
		}
		f.Close()
		go func() { results <- result{i, wait()} }()
	}
	fmt.Println("waiting")
	for i := range os.Args[1:] {
		r := <-results
		if r.err == nil {
			fail("socket %d: no error", i)
		}
		fmt.Printf("socket %d: %v\n", r.i, r.err)
	}
}

// TestCloseForked closes stacks after the program's own fork.
func TestCloseForked(t *testing.T) {
	for _, who := range []string{"both", "alone"} {
		t.Run(who, func(t *testing.T) { run(t, program(t, "closeForked", who)) })
	}
}
