package recipes

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

// TestFilter has the program itself, in a stack, let nothing out of that. It is in the
// documentation of package vdestack.
func TestFilter(t *testing.T) {
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	server, st := lab(t)
	testenv.ListenPacket(t, server, "udp", ":9")
	c := testenv.Dial(t, st, "udp", "10.0.0.1:9")
	testenv.Must(c.Write([]byte("before")))(t)

	ctx := testenv.Context(t)
	cmd := st.Command(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), "APP_FILTER=1")
	err := cmd.Run()
	testenv.Check(t, err)
	if _, err := c.Write([]byte("after")); !errors.Is(err, syscall.EPERM) {
		t.Errorf("what is sent gets %v, want %v", err, syscall.EPERM)
	}
}
