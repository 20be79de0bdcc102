package vdeplug

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

const childVariable = "VDEPLUG_TEST_CHILD"

// asNobody is inChild as an ordinary user.
func asNobody(t *testing.T, name, arg string) {
	t.Helper()
	inChild(t, name, arg, &syscall.Credential{Uid: 65534, Gid: 65534})
}

// inChild runs another test of the package in another process, in the same
// namespaces, with an argument.
func inChild(t *testing.T, name, arg string, user *syscall.Credential) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+name+"$", "-test.v")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), childVariable+"=+"+arg,
		"VDESTACK_TEST_STAGE=2") // there is a private network already
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s in another process: %v\n%s", name, err, out)
	}
}

// childArg returns the argument of inChild, and skips the test if it was not
// started so.
func childArg(t *testing.T) string {
	t.Helper()
	arg := os.Getenv(childVariable)
	if arg == "" {
		t.Skip("is a part of another test")
	}
	return arg[1:]
}
