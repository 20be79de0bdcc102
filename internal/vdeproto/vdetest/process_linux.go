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
	entries := testenv.Must(os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.Cmd.Process.Pid)))(t)
	return len(entries)
}

// Memory returns the bytes of memory of a switch's process.
func (s *Switch) Memory(t *testing.T) int {
	t.Helper()
	text := testenv.Must(os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Cmd.Process.Pid)))(t)
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	n := testenv.Must(strconv.Atoi(strings.Fields(rest)[0]))(t)
	return n << 10
}

// CPU returns the processor time of a switch's process.
func (s *Switch) CPU(b *testing.B) (total time.Duration) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", s.Cmd.Process.Pid))
	if err != nil || len(tasks) == 0 {
		b.Fatal("no processor time of the switch", err)
	}
	for _, task := range tasks {
		text := testenv.Must(os.ReadFile(task))(b)
		ns := testenv.Must(strconv.ParseInt(strings.Fields(string(text))[0], 10, 64))(b)
		total += time.Duration(ns)
	}
	return total
}
