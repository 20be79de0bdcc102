//go:build amd64 || arm64

package rlimit_test

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/rlimit"
)

// TestNofile compares with what a child of os/exec gets.
func TestNofile(t *testing.T) {
	out, err := exec.Command("sh", "-c", "ulimit -S -n").Output()
	if err != nil {
		t.Fatal(err)
	}
	got, want := strconv.FormatUint(rlimit.Nofile[0], 10), strings.TrimSpace(string(out))
	if want == "unlimited" {
		want = strconv.FormatUint(1<<64-1, 10)
	}
	if !rlimit.Known || got != want {
		t.Errorf("soft limit = %s (known %t), a child of os/exec has %s", got, rlimit.Known, want)
	}
}
