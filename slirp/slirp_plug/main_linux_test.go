package main

import (
	"bytes"
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
			stdin, err := cmd.StdinPipe()
			testenv.Check(t, err)
			stdout, err := cmd.StdoutPipe()
			testenv.Check(t, err)
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
