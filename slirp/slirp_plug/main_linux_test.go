package main

import (
	"bytes"
	"strings"
	"syscall"
	"testing"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/vdeplug"
)

func TestMain(m *testing.M) {
	testenv.Programs["slirp_plug"] = main
	testenv.Main(m)
}

// whoHasHost is a question of ARP of 10.0.2.15 for 10.0.2.2.
const whoHasHost = "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01" +
	"\x02\x00\x00\x00\x00\x01\x0a\x00\x02\x0f\x00\x00\x00\x00\x00\x00\x0a\x00\x02\x02"

// TestEnd ends the program in each normal way: it writes nothing, and its status is 0.
func TestEnd(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{
		"end of input": 0, "SIGTERM": syscall.SIGTERM, "SIGINT": syscall.SIGINT, "SIGHUP": syscall.SIGHUP,
	} {
		t.Run(name, func(t *testing.T) {
			cmd := testenv.Program(t.Context(), t, "slirp_plug")
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			stdin := testenv.Must(cmd.StdinPipe())(t)
			stdout := testenv.Must(cmd.StdoutPipe())(t)
			testenv.Check(t, cmd.Start())
			// When it answers, it runs.
			network := vdeplug.NewStream(plugtest.Pipe(stdout, stdin))
			testenv.Check(t, network.Send([]byte(whoHasHost)))
			if _, err := network.Recv(make([]byte, vdeplug.MaxFrame)); err != nil {
				t.Fatal(err)
			}
			if sig == 0 {
				stdin.Close()
			} else {
				cmd.Process.Signal(sig)
			}
			if err := cmd.Wait(); err != nil || stderr.Len() > 0 {
				t.Errorf("it ended with %v and says %q", err, stderr.String())
			}
		})
	}
}

// TestFails starts the program with wrong arguments.
func TestFails(t *testing.T) {
	for _, tt := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"slirp://", "more"}, 2, "usage: slirp_plug [slirp://...]\n"},
		{[]string{"slirp:///nonsense"}, 1, `slirp_plug: vdeplug: open "slirp:///nonsense": slirp option "nonsense": unknown`},
	} {
		cmd := testenv.Program(t.Context(), t, "slirp_plug", tt.args...)
		out, _ := cmd.CombinedOutput()
		if status := cmd.ProcessState.ExitCode(); status != tt.status || !strings.HasPrefix(string(out), tt.want) {
			t.Errorf("%q: got status %d and %q, want %d and %q", tt.args, status, out, tt.status, tt.want)
		}
	}
}
