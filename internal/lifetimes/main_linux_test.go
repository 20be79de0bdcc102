//go:build amd64 || arm64

package lifetimes

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

// programs are what the test binary is when it is executed with the name of one
// of them in the environment. A program that returns was successful.
var programs = map[string]func(){}

const programName = "LIFETIMES_PROGRAM"

func TestMain(m *testing.M) {
	if name := os.Getenv(programName); name != "" {
		os.Unsetenv(programName)
		programs[name]()
		os.Exit(0)
	}
	testenv.Main(m)
}

// check ends a program with an error.
func check(err error) {
	if err != nil {
		fail("%v", err)
	}
}

func fail(format string, args ...any) {
	fmt.Printf("FAIL "+format+"\n", args...)
	os.Exit(1)
}

// program returns a command that executes a program.
func program(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	if programs[name] == nil {
		t.Fatalf("no program %q", name)
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), programName+"="+name)
	cmd.Stderr = os.Stderr
	return cmd
}
