package forward

import (
	"context"
	"os"

	"github.com/vdestack/vdestack/internal/sockio"
	"golang.org/x/sys/unix"
)

// lockDirectory keeps other forwards from listening in a directory until unlock: one that
// is about to listen looks dead to them, and a new socket may have the inode number of the
// dead one that they are about to remove. Without the right to read the directory there is
// no lock.
func lockDirectory(ctx context.Context, dir string) (unlock func()) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return func() {}
	}
	ctx, cancel := context.WithTimeout(ctx, lockTime)
	defer cancel()
	sockio.Flock(ctx, f) // after lockTime it goes on without
	return func() {
		// A child process that is about to start may have a copy of the descriptor.
		unix.Flock(int(f.Fd()), unix.LOCK_UN)
		f.Close()
	}
}
