package vdetest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
)

// Files returns the number of descriptors of a switch's process.
func (s *Switch) Files(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.Cmd.Process.Pid))
	testenv.Check(t, err)
	return len(entries)
}

// Memory returns the bytes of memory of a switch's process.
func (s *Switch) Memory(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Cmd.Process.Pid))
	testenv.Check(t, err)
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	testenv.Check(t, err)
	return n << 10
}

// CPU returns the processor time of a switch's process.
func (s *Switch) CPU(b *testing.B) (total time.Duration) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", s.Cmd.Process.Pid))
	if err != nil || len(tasks) == 0 {
		b.Fatal("no processor time of the switch", err)
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		testenv.Check(b, err)
		ns, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		testenv.Check(b, err)
		total += time.Duration(ns)
	}
	return total
}
