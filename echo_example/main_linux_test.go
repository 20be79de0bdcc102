package main

import (
	"bufio"
	"bytes"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
)

func TestMain(m *testing.M) {
	testenv.Programs["echo_example"] = main
	testenv.Main(m)
}

func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	return testenv.Program(testenv.Context(t), t, "echo_example", args...)
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
		stdout := testenv.Must(cmd.StdoutPipe())(t)
		cmd.Stderr = os.Stderr
		testenv.Check(t, cmd.Start())
		defer cmd.Cancel()
		if line, err := bufio.NewReader(stdout).ReadString('\n'); !strings.HasPrefix(line, "listening on ") {
			t.Fatalf("got %q, %v", line, err)
		}
		testenv.Check(t, visit(t.Context(), vnl, setups["netlink"]))

		// The client is gone: the next bye is the server's.
		lo := testenv.Must(net.InterfaceByName("lo"))(t)
		bye := testenv.Opened(net.ListenMulticastUDP("udp4", lo, &net.UDPAddr{IP: net.IPv4(234, 0, 0, 1), Port: 14789}))(t)
		cmd.Process.Signal(sig)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v", sig, err)
		}
		bye.SetReadDeadline(time.Now().Add(10 * time.Second))
		for {
			n := testenv.Must(bye.Read(make([]byte, 10000)))(t)
			if n == 8 { // the header of a frame without one
				break
			}
		}
	}
}
