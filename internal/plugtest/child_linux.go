package plugtest

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

const childVariable = "VDEPLUG_TEST_CHILD"

// ChildCommand returns a command that runs another test of the package in another
// process, in the same namespaces, with an argument.
func ChildCommand(name, arg string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+name+"$", "-test.v")
	cmd.Env = append(os.Environ(), childVariable+"=+"+arg,
		"VDESTACK_TEST_STAGE=2") // there is a private network already
	return cmd
}

// InChild runs the command of ChildCommand as a user. The test fails if it does.
func InChild(t *testing.T, name, arg string, user *syscall.Credential) {
	t.Helper()
	cmd := ChildCommand(name, arg)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s in another process: %v\n%s", name, err, out)
	}
}

// AsNobody is InChild as an ordinary user.
func AsNobody(t *testing.T, name, arg string) {
	t.Helper()
	InChild(t, name, arg, &syscall.Credential{Uid: 65534, Gid: 65534})
}

// ChildArg returns the argument of ChildCommand, and skips a test that was not
// started by it.
func ChildArg(t *testing.T) string {
	t.Helper()
	arg := os.Getenv(childVariable)
	if arg == "" {
		t.Skip("is a part of another test")
	}
	return arg[1:]
}
