package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
)

// asProgram makes the test binary run as the program itself.
const asProgram = "ECHO_EXAMPLE_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		os.Exit(0)
	}
	testenv.Main(m)
}

func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	if s, err := vdestack.Open("mem://"); err != nil {
		testenv.Skip(t, "no interfaces here: %v", err)
	} else {
		s.Close()
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, exe, args...)
	// The race detector would keep the program for a second at its end.
	cmd.Env = append(os.Environ(), asProgram+"=1", "GORACE=atexit_sleep_ms=0")
	return cmd
}

// TestAlone runs the program as a new user does.
func TestAlone(t *testing.T) {
	testenv.Need(t, "ip", "iproute2")
	for _, args := range [][]string{nil, {"-config", "commands"}} {
		out, err := program(t, args...).CombinedOutput()
		for _, want := range []string{
			"listening on [::]:5000 of 10.0.0.50 and fc00::1:50, on mem://echo_example\n",
			" says to 10.0.0.50:5000: hello", "\n10.0.0.50:5000 answers: hello",
			" says to [fc00::1:50]:5000: hello", "\n[fc00::1:50]:5000 answers: hello",
		} {
			if !strings.Contains(string(out), want) {
				t.Errorf("%q: %q is missing", args, want)
			}
		}
		if err != nil || t.Failed() {
			t.Errorf("%q: %v\n%s", args, err, out)
		}
	}
}

func TestWrongUse(t *testing.T) {
	for _, args := range [][]string{{"-config", "magic"}, {"mem://a", "mem://b"}, {"-x"}} {
		cmd := program(t, args...)
		out, _ := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != 2 || !bytes.Contains(out, []byte("usage:")) {
			t.Errorf("%q: got %v and %q, want exit status 2 and the usage", args, cmd.ProcessState, out)
		}
	}
	cmd := program(t, "vde:///no/such/switch")
	if out, _ := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 1 || !bytes.Contains(out, []byte("/no/such/switch")) {
		t.Errorf("got %v and %q, want exit status 1 and what is missing", cmd.ProcessState, out)
	}
}

// TestServe runs the server for a client of another process, until a signal
// ends it with a good-bye to the network.
func TestServe(t *testing.T) {
	const vnl = "vxvde://234.0.0.1"
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		cmd := program(t, vnl)
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Cancel()
		if line, err := bufio.NewReader(stdout).ReadString('\n'); !strings.HasPrefix(line, "listening on ") {
			t.Fatalf("got %q, %v", line, err)
		}
		if err := visit(t.Context(), vnl); err != nil {
			t.Error(err)
		}

		// The client is gone: the next bye is the server's.
		bye := listenBye(t)
		cmd.Process.Signal(sig)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v", sig, err)
		}
		bye.SetReadDeadline(time.Now().Add(10 * time.Second))
		for {
			packet := make([]byte, 10000)
			n, err := bye.Read(packet)
			if err != nil {
				t.Fatalf("%v: no good-bye: %v", sig, err)
			}
			if n == 8 { // the header of a frame without one
				break
			}
		}
	}
}

// listenBye hears the multicast packets of the vxvde network.
func listenBye(t *testing.T) *net.UDPConn {
	t.Helper()
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.ListenMulticastUDP("udp4", lo, &net.UDPAddr{IP: net.IPv4(234, 0, 0, 1), Port: 14789})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestDefaultRoutes finds the gateways, however they were configured.
func TestDefaultRoutes(t *testing.T) {
	testenv.Need(t, "ip", "iproute2")
	for name, configure := range map[string]func(context.Context, *vdestack.Stack) error{
		"commands": byCommands, "netlink": byNetlink,
	} {
		s, err := vdestack.New(t.Context(), vdestack.Config{Interfaces: []vdestack.Interface{{VNL: "mem://", Down: true}}})
		if err != nil {
			testenv.Skip(t, "no interfaces here: %v", err)
		}
		defer s.Close()
		if err := configure(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		nl, err := s.RTNL()
		if err != nil {
			t.Fatal(err)
		}
		defer nl.Close()
		routes, err := nl.Routes()
		if err != nil {
			t.Fatal(err)
		}
		all := fmt.Sprint(routes)
		for _, want := range []string{"default via 10.0.0.60 ", "default via fc00::1:60 "} {
			if !strings.Contains(all, want) {
				t.Errorf("%s: no %q in %s", name, want, all)
			}
		}
	}
}
