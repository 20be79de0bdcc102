package main

import (
	"bufio"
	"bytes"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

func TestMain(m *testing.M) {
	testenv.Programs["http_example"] = main
	testenv.Main(m)
}

func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	return testenv.Program(testenv.Context(t), t, "http_example", args...)
}

// running starts the program, and waits for a line that begins with text. cmd.Stderr gets
// what it says then.
func running(t *testing.T, text string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := program(t, args...)
	cmd.Stderr = new(bytes.Buffer)
	stdout := testenv.Must(cmd.StdoutPipe())(t)
	testenv.Check(t, cmd.Start())
	t.Cleanup(func() { cmd.Cancel() })
	if line, err := bufio.NewReader(stdout).ReadString('\n'); !strings.HasPrefix(line, text) {
		t.Fatalf("%q says %q, %v", args, line, err)
	}
	return cmd
}

// ends interrupts a running program, which says nothing and is successful.
func ends(t *testing.T, cmd *exec.Cmd, sig syscall.Signal) {
	t.Helper()
	cmd.Process.Signal(sig)
	if err := cmd.Wait(); err != nil || cmd.Stderr.(*bytes.Buffer).Len() > 0 {
		t.Errorf("%v: it ended with %v, and said %q", sig, err, cmd.Stderr)
	}
}

// TestBoth runs server and client in one program, as a new user does first.
func TestBoth(t *testing.T) {
	for _, tt := range []struct {
		args, want []string
	}{
		{nil, []string{
			"server: http://10.0.0.1/ and http://[fc00::1:1]/ on mem://http_example\n",
			"client: 10.0.0.2/24 and fc00::1:2/64 on mem://http_example\n",
			"GET http://10.0.0.1/: 200 OK\nHello 10.0.0.2:", ", this is 10.0.0.1:80 ",
			"GET http://[fc00::1:1]/: 200 OK\nHello [fc00::1:2]:", ", this is [fc00::1:1]:80 ",
		}},
		{[]string{"-port", "8080", "-server", "10.1.0.1/16", "-client", "10.1.2.2/16", "vxvde://234.0.0.1"}, []string{
			"GET http://10.1.0.1:8080/: 200 OK\nHello 10.1.2.2:",
		}},
	} {
		out, err := program(t, tt.args...).CombinedOutput()
		for _, want := range tt.want {
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
	for _, tt := range []struct {
		args   string
		status int
		text   string
	}{
		{"-serve", 2, "usage:"},
		{"-get http://10.0.0.1/", 2, "usage:"},
		{"-serve -get http://10.0.0.1/ mem://a", 2, "usage:"},
		{"mem://a mem://b", 2, "usage:"},
		{"-server 10.0.0.1", 1, `"10.0.0.1" is not ADDRESS/LENGTH`},
		{"-port none", 1, "none"},
	} {
		cmd := program(t, strings.Fields(tt.args)...)
		out, _ := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != tt.status || !bytes.Contains(out, []byte(tt.text)) {
			t.Errorf("%q: got %v and %q, want exit status %d and %q", tt.args, cmd.ProcessState, out, tt.status, tt.text)
		}
	}
}

// TestApart runs server and client in programs of their own.
func TestApart(t *testing.T) {
	testenv.Long(t)
	const vnl = "vxvde://234.0.0.1"
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		server := running(t, "server: http://10.0.0.1/ ", "-serve", vnl)
		for _, url := range []string{"http://10.0.0.1/", "http://[fc00::1:1]/"} {
			if out, err := program(t, "-get", url, vnl).CombinedOutput(); err != nil || !bytes.Contains(out, []byte("GET "+url+": 200 OK\nHello ")) {
				t.Errorf("%s: %v\n%s", url, err, out)
			}
		}
		ends(t, server, sig)
	}
}

// TestInterrupted ends a client that waits for a server which is not there.
func TestInterrupted(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		ends(t, running(t, "client: ", "-get", "http://10.0.0.99/", "vxvde://234.0.0.1"), sig)
	}
}
