package main

import (
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

func TestPin(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	count := func() int {
		var set unix.CPUSet
		testenv.Check(t, unix.SchedGetaffinity(0, &set))
		return set.Count()
	}
	before := count()
	unpin := testenv.Must(pin())(t)
	if got := count(); got != 1 {
		t.Errorf("%d processors, want 1", got)
	}
	out, err := exec.Command("nproc").Output()
	if got := strings.TrimSpace(string(out)); err != nil || got != "1" {
		t.Errorf("a child has %q processors, %v, want 1", got, err)
	}
	unpin()
	if got := count(); got != before {
		t.Errorf("%d processors afterwards, want %d", got, before)
	}
}
