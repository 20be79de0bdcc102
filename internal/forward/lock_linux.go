package forward

import (
	"context"

	"golang.org/x/sys/unix"
)

// lockDirectory keeps other forwards from listening in a directory until unlock: one that
// is about to listen looks dead to them, and a new socket may have the inode number of the
// dead one that they are about to remove. Without the right to read the directory there is
// no lock.
func lockDirectory(ctx context.Context, dir string) (unlock func()) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return func() {}
	}
	ctx, cancel := context.WithTimeout(ctx, lockTime)
	defer cancel()
	p := pause(0)
	for unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) == unix.EWOULDBLOCK && p.wait(ctx) {
	}
	return func() { unix.Close(fd) }
}
