package regular

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	pipe, file, link := filepath.Join(dir, "pipe"), filepath.Join(dir, "file"), filepath.Join(dir, "link")
	testenv.Check(t, unix.Mkfifo(pipe, 0o600))
	testenv.Check(t, os.WriteFile(file, []byte("text"), 0o600))
	testenv.Check(t, os.Symlink("/dev/zero", link))
	for path, want := range map[string]string{
		pipe:        "open " + pipe + ": not a regular file", // nobody writes, or ever will
		dir:         "open " + dir + ": not a regular file",
		link:        "open " + link + ": not a regular file",
		dir + "/no": "open " + dir + "/no: no such file or directory",
	} {
		if _, err := Open(path); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	f := testenv.Opened(Open(file))(t)
	if text, err := io.ReadAll(f); string(text) != "text" || err != nil {
		t.Errorf("got %q, %v", text, err)
	}
}
