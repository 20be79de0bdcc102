//go:build amd64 || arm64

package lifetimes

import (
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"golang.org/x/sys/unix"
)

func init() { programs["forks"] = forks }

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
