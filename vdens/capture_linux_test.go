package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/capture/capturetest"
	"github.com/vdestack/vdestack/internal/program"
	"github.com/vdestack/vdestack/internal/testenv"
)

// asks sends a frame on vde1 that asks for a station, and then prints a word.
const asks = `ping -c 1 -W 1 10.1.0.2 >/dev/null; echo said`

// TestCapture records the frames of a command.
func TestCapture(t *testing.T) {
	testenv.Long(t)
	needInterfaces(t)
	testenv.Need(t, "ping", "iputils-ping")
	file := filepath.Join(t.TempDir(), "file.pcapng")
	args := []string{"-addr", "10.0.0.1/24", "-addr", "vde1=10.1.0.1/24", "mem://a", "null://", "--", "/bin/sh", "-c", asks}
	check := func(b []byte) {
		t.Helper()
		f := testenv.Must(capturetest.Read(b))(t)
		if len(f.Interfaces) != 2 || f.Interfaces[0].Name != "vde0" || f.Interfaces[1].Name != "vde1" || !f.Interfaces[1].Closed {
			t.Errorf("got interfaces %+v", f.Interfaces)
		}
		if !slices.ContainsFunc(f.Packets, func(p capturetest.Packet) bool {
			// ARP, and the address that is asked for.
			return p.Interface == 1 && p.Out && bytes.Equal(p.Data[12:14], []byte{8, 6}) && bytes.Equal(p.Data[38:42], []byte{10, 1, 0, 2})
		}) {
			t.Errorf("the question is not among %d frames", len(f.Packets))
		}
	}
	status, stdout, stderr := runVdens(t, "", append([]string{"-w", file}, args...)...)
	if status != 0 || stdout != "said\n" || stderr != "" {
		t.Errorf("status %d, stdout %q, stderr %q", status, stdout, stderr)
	}
	b := testenv.Must(os.ReadFile(file))(t)
	check(b)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("others may use the capture: %v, %v", info.Mode(), err)
	}

	status, stdout, stderr = runVdens(t, "", append([]string{"-w", "-"}, args...)...)
	if status != 0 || stderr != "said\n" {
		t.Errorf("status %d, stderr %q", status, stderr)
	}
	check([]byte(stdout))
}

// TestCaptureFails goes on when the reader of the capture is gone.
func TestCaptureFails(t *testing.T) {
	testenv.Long(t)
	needInterfaces(t)
	testenv.Need(t, "ping", "iputils-ping")
	file := filepath.Join(t.TempDir(), "no", "file")
	status, _, stderr := runVdens(t, "", "-w", file, "mem://", "--", "true")
	if status != program.StatusFailed || stderr != "vdens: open "+file+": no such file or directory\n" {
		t.Errorf("status %d, stderr %q", status, stderr)
	}

	r, w, err := os.Pipe()
	testenv.Check(t, err)
	r.Close()
	cmd := vdens(t, "-w", "-", "-addr", "10.1.0.1/24", "null://", "--", "/bin/sh", "-c", "ping -c 1 -W 1 10.1.0.2 >/dev/null; echo said >&2; exit 7")
	var errs strings.Builder
	cmd.Stdout, cmd.Stderr = w, &errs
	cmd.Run()
	w.Close()
	if status := cmd.ProcessState.ExitCode(); status != 7 || !strings.Contains(errs.String(), "the capture has ended") ||
		!strings.Contains(errs.String(), "broken pipe") || !strings.Contains(errs.String(), "said") {
		t.Errorf("status %d, %v, stderr %q", status, cmd.ProcessState, errs.String())
	}
}

// TestCaptureLimits records one frame, and then another one behind it.
func TestCaptureLimits(t *testing.T) {
	needInterfaces(t)
	testenv.Need(t, "ping", "iputils-ping")
	file := filepath.Join(t.TempDir(), "a,b")
	record := func(capture string) (status int, stdout, stderr string) {
		return runVdens(t, "", "-w", capture, "-addr", "10.1.0.1/24", "null://", "sh", "-c", "ping -c 1 -W 0.1 10.1.0.2 >/dev/null; echo said")
	}
	for n, items := range []string{",count=1", ",append,count=1,size=1M,time=1h", ",append,size=1"} {
		if status, stdout, stderr := record(file + items); status != 0 || stdout != "said\n" || stderr != "" {
			t.Errorf("%s: status %d, stdout %q, stderr %q", items, status, stdout, stderr)
		}
		f := testenv.Must(capturetest.Read(testenv.Must(os.ReadFile(file))(t)))(t)
		if want := min(n+1, 2); f.Sections != want || len(f.Packets) != want {
			t.Errorf("%s: %d sections, %d frames, want %d", items, f.Sections, len(f.Packets), want)
		}
	}
	if status, stdout, stderr := record("-,count=1"); status != 0 || stderr != "said\n" {
		t.Errorf("standard output: status %d, stderr %q", status, stderr)
	} else if f := testenv.Must(capturetest.Read([]byte(stdout)))(t); len(f.Packets) != 1 {
		t.Errorf("standard output: %d frames", len(f.Packets))
	}
	testenv.Check(t, os.WriteFile(file, []byte("hello"), 0o600))
	if status, _, stderr := record(file + ",append"); status != program.StatusFailed || !strings.Contains(stderr, "appending to "+file+": it is not in the format pcapng") {
		t.Errorf("a file with text: status %d, stderr %q", status, stderr)
	}
}
