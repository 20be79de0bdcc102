package autoconf

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// TestStorePipe has a pipe in the place of a stored lease, which nobody writes to.
func TestStorePipe(t *testing.T) {
	dir := t.TempDir()
	testenv.Check(t, unix.Mkfifo(filepath.Join(dir, "lab.json"), 0o600))
	if data, err := load(DirStore(dir), "lab"); data != nil || err == nil || !strings.Contains(err.Error(), "is not a file") {
		t.Errorf("%q, %v", data, err)
	}
}
