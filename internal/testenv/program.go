package testenv

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"testing"
)

// ProgramVariable names in the environment which of Programs the test binary is.
const ProgramVariable = "VDESTACK_TEST_PROGRAM"

// Programs are what else the test binary can be: Main calls the one that
// ProgramVariable names instead of the tests, and exits with status 0 when it
// returns.
var Programs = map[string]func(){}

// Program returns a command that runs the test binary as one of Programs, and is
// killed when ctx is done.
func Program(ctx context.Context, t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	if Programs[name] == nil {
		t.Fatalf("no program %q", name)
	}
	exe := "/proc/self/exe" // can be executed where its directory cannot be read
	if runtime.GOOS != "linux" {
		var err error
		if exe, err = os.Executable(); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(ctx, exe, args...)
	// The race detector would have programs sleep for a second at their end.
	cmd.Env = append(os.Environ(), ProgramVariable+"="+name, "GORACE=atexit_sleep_ms=20 "+os.Getenv("GORACE"))
	return cmd
}

// runProgram becomes the program that the environment names, if there is one.
func runProgram() {
	name := os.Getenv(ProgramVariable)
	if name == "" {
		return
	}
	os.Unsetenv(ProgramVariable)
	Programs[name]()
	os.Exit(0)
}
