//go:build amd64 || arm64

package stack

import (
	"errors"
	"os"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// TestNamesWithoutDescriptors starts commands with fewer descriptors than they take, up to enough.
// Nothing is left of those that do not start. It is not parallel: the limit is that of all tests.
func TestNamesWithoutDescriptors(t *testing.T) {
	s := testenv.Opened(New(t.Context(), Config{}))(t)
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	var limit unix.Rlimit
	testenv.Check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	for n := uint64(3); ; n++ {
		cmd := s.Command(t.Context(), "/bin/true")
		cmd.Names = true
		testenv.Check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: limit.Max}))
		err := cmd.Run()
		testenv.Check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
		if left := testenv.Must(os.ReadDir(temp))(t); len(left) > 0 {
			t.Fatalf("limit %d: %v, left behind: %v", n, err, left)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EMFILE) || n == 500 {
			t.Fatalf("limit %d: got %v, want EMFILE", n, err)
		}
	}
}
