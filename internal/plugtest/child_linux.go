package plugtest

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

const childVariable = "VDEPLUG_TEST_CHILD"

// InChild runs another test of the package, with an argument, in another process in the same
// namespaces, as a user. The test fails if that one does.
func InChild(t *testing.T, name, arg string, user *syscall.Credential) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+name+"$", "-test.v")
	cmd.Env = append(os.Environ(), childVariable+"=+"+arg,
		"VDESTACK_TEST_STAGE=2") // there is a private network already
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

// ChildArg returns the argument of InChild, or skips a test that was not started by it.
func ChildArg(t *testing.T) string {
	t.Helper()
	arg := os.Getenv(childVariable)
	if arg == "" {
		t.Skip("is a part of another test")
	}
	return arg[1:]
}
