package main

import (
	"bufio"
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
)

func TestMain(m *testing.M) {
	testenv.Programs["echo_example"] = main
	testenv.Main(m)
}

func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	if s, err := vdestack.Open("mem://"); err != nil {
		testenv.Skip(t, "no interfaces here: %v", err)
	} else {
		s.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return testenv.Program(ctx, t, "echo_example", args...)
}

// TestAlone runs the program as a new user does.
func TestAlone(t *testing.T) {
	testenv.Long(t)
	testenv.Need(t, "ip", "iproute2")
	for _, tt := range []struct {
		args         []string
		addr4, addr6 string
	}{
		{nil, "10.0.0.60", "fc00::1:60"},
		{[]string{"-config", "netlink"}, "10.0.0.60", "fc00::1:60"},
		{[]string{"-config", "commands"}, "10.0.0.50", "fc00::1:50"},
	} {
		out, err := program(t, tt.args...).CombinedOutput()
		for _, want := range []string{
			"listening on [::]:5000 of " + tt.addr4 + " and " + tt.addr6 + ", on mem://echo_example\n",
			" says to " + tt.addr4 + ":5000: hello", "\n" + tt.addr4 + ":5000 answers: hello",
			" says to [" + tt.addr6 + "]:5000: hello", "\n[" + tt.addr6 + "]:5000 answers: hello",
		} {
			if !strings.Contains(string(out), want) {
				t.Errorf("%q: %q is missing", tt.args, want)
			}
		}
		if err != nil || t.Failed() {
			t.Errorf("%q: %v\n%s", tt.args, err, out)
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
		if err := visit(t.Context(), vnl, setups["netlink"]); err != nil {
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

// TestTutorial looks at a stack as each of the tutorial's two programs has it:
// addresses and default routes, those and no other.
func TestTutorial(t *testing.T) {
	testenv.Need(t, "ip", "iproute2")
	for name, want := range map[string]struct{ addrs, defaults []string }{
		"commands": {addrs: []string{"10.0.0.50/24", "fc00::1:50/64"}},
		"netlink": {
			addrs:    []string{"10.0.0.60/24", "fc00::1:60/64"},
			defaults: []string{"10.0.0.1", "fc00::1:1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := vdestack.New(t.Context(), vdestack.Config{Interfaces: []vdestack.Interface{{VNL: "mem://", Name: "vde0", Down: true}}})
			if err != nil {
				testenv.Skip(t, "no interfaces here: %v", err)
			}
			defer s.Close()
			if err := setups[name].configure(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			nl, err := s.RTNL()
			if err != nil {
				t.Fatal(err)
			}
			defer nl.Close()
			vde0, err := nl.IfNameToIndex("vde0")
			if err != nil {
				t.Fatal(err)
			}
			if l, err := nl.Link(vde0); err != nil || l.Flags&net.FlagUp == 0 {
				t.Errorf("vde0 is not up: %+v, %v", l, err)
			}
			var addrs, defaults []string
			list, err := nl.Addrs()
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range list {
				if a.IfIndex == vde0 && !a.Prefix.Addr().IsLinkLocalUnicast() {
					addrs = append(addrs, a.Prefix.String())
				}
			}
			routes, err := nl.Routes()
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range routes {
				if r.Gateway.IsValid() {
					defaults = append(defaults, r.Gateway.String())
				}
			}
			slices.Sort(addrs)
			slices.Sort(defaults)
			if !slices.Equal(addrs, want.addrs) || !slices.Equal(defaults, want.defaults) {
				t.Errorf("got addresses %q and gateways %q, want %q and %q", addrs, defaults, want.addrs, want.defaults)
			}
		})
	}
}
