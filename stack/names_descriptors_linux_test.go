//go:build amd64 || arm64

package stack

import (
	"errors"
	"os"
	"testing"

	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// TestNamesWithoutDescriptors checks that nothing is left where the files cannot be opened. It is
// not parallel: the limit is that of all tests.
func TestNamesWithoutDescriptors(t *testing.T) {
	s := testenv.Opened(New(t.Context(), Config{}))(t)
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	var limit unix.Rlimit
	testenv.Check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	testenv.Check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: limit.Max}))
	_, _, err := s.mountNames(&netns.Exec{})
	testenv.Check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
	if !errors.Is(err, unix.EMFILE) {
		t.Errorf("got %v, want EMFILE", err)
	}
	if left := testenv.Must(os.ReadDir(temp))(t); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
