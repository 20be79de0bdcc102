package main

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
)

func TestMain(m *testing.M) {
	testenv.Programs["http_example"] = main
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
	return testenv.Program(ctx, t, "http_example", args...)
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
		server := program(t, "-serve", vnl)
		server.Stderr = os.Stderr
		stdout, err := server.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		defer server.Cancel()
		if line, err := bufio.NewReader(stdout).ReadString('\n'); !strings.HasPrefix(line, "server: http://10.0.0.1/ ") {
			t.Fatalf("the server says %q, %v", line, err)
		}
		for _, url := range []string{"http://10.0.0.1/", "http://[fc00::1:1]/"} {
			if out, err := program(t, "-get", url, vnl).CombinedOutput(); err != nil || !bytes.Contains(out, []byte("GET "+url+": 200 OK\nHello ")) {
				t.Errorf("%s: %v\n%s", url, err, out)
			}
		}
		server.Process.Signal(sig)
		if err := server.Wait(); err != nil {
			t.Errorf("%v: %v", sig, err)
		}
	}
}

// TestInterrupted ends a client that waits for a server which is not there.
func TestInterrupted(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		client := program(t, "-get", "http://10.0.0.99/", "vxvde://234.0.0.1")
		var said bytes.Buffer
		client.Stderr = &said
		stdout, err := client.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Start(); err != nil {
			t.Fatal(err)
		}
		defer client.Cancel()
		if line, err := bufio.NewReader(stdout).ReadString('\n'); !strings.HasPrefix(line, "client: ") {
			t.Fatalf("the client says %q, %v", line, err)
		}
		client.Process.Signal(sig)
		if err := client.Wait(); err != nil || said.Len() > 0 {
			t.Errorf("%v: it ended with %v, and said %q", sig, err, &said)
		}
	}
}
