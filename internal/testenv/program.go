package testenv

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// ProgramVariable names in the environment which of Programs the test binary is.
const ProgramVariable = "VDESTACK_TEST_PROGRAM"

// Programs are other programs that the test binary can be. Main calls the one that
// ProgramVariable names instead of the tests, and exits with status 0 when it returns.
var Programs = map[string]func(){}

// Program returns a command that runs the test binary as one of Programs. It is killed
// when ctx is done.
func Program(ctx context.Context, t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	if Programs[name] == nil {
		t.Fatalf("no program %q", name)
	}
	exe := "/proc/self/exe" // works where the directory of the program cannot be read
	if runtime.GOOS != "linux" {
		var err error
		if exe, err = os.Executable(); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(ctx, exe, args...)
	// With the race detector programs would sleep for a second at their end.
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

// Build returns the path of a program, ./NAME in the module in a directory. It is in the
// directory that VDESTACK_PROGRAMS names, or is built with the go command.
func Build(t testing.TB, module, name string) string {
	t.Helper()
	if dir := os.Getenv("VDESTACK_PROGRAMS"); dir != "" {
		return filepath.Join(dir, name)
	}
	exe := filepath.Join(t.TempDir(), name)
	build := exec.Command("go", "build", "-C", module, "-o", exe, "./"+name)
	build.Env = append(os.Environ(), "GOPROXY=off") // there is no network here
	if out, err := build.CombinedOutput(); err != nil {
		Skip(t, "%s cannot be built here: %v: %s (set VDESTACK_PROGRAMS to a directory that go build has filled)", name, err, out)
	}
	return exe
}
