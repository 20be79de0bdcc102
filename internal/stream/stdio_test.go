package stream

import (
	"io"
	"os"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

// TestStdio reads what it writes, from a pipe that leads from standard output to standard
// input.
func TestStdio(t *testing.T) {
	in, out := os.Stdin, os.Stdout
	defer func() { os.Stdin, os.Stdout = in, out }()
	var err error
	os.Stdin, os.Stdout, err = os.Pipe()
	testenv.Check(t, err)
	defer os.Stdin.Close()
	defer os.Stdout.Close()
	var s Stdio
	_, err = io.WriteString(s, "hello")
	testenv.Check(t, err)
	testenv.Check(t, s.Close())
	b := make([]byte, 10)
	if n, err := s.Read(b); err != nil || string(b[:n]) != "hello" {
		t.Errorf("got %q, %v", b[:n], err)
	}
}
