package sockio

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Flock locks a file against others that lock it too.
func Flock(ctx context.Context, f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch err {
		case nil:
			return nil
		case unix.EINTR:
			continue
		case unix.EWOULDBLOCK:
		default:
			return &fs.PathError{Op: "flock", Path: f.Name(), Err: err}
		}
		select {
		case <-time.After(time.Millisecond): // the kernel has no better way that can be given up
		case <-ctx.Done():
			return fmt.Errorf("somebody else has locked %s: %w", f.Name(), unix.EBUSY)
		}
	}
}

// OpenSocket opens the file of a local socket, without following a link.
func OpenSocket(path string) (fd int, st unix.Stat_t, err error) {
	fd, err = unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, st, err
	}
	if err = unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		err = unix.ENOTSOCK
	}
	if err != nil {
		unix.Close(fd)
		return -1, st, err
	}
	return fd, st, nil
}

// ChmodPath changes the permissions of what was opened with O_PATH.
func ChmodPath(fd, mode int) error {
	err := unix.Fchmodat(fd, "", uint32(mode), unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.EOPNOTSUPP) { // Linux before 6.6
		err = unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), uint32(mode))
	}
	return err
}

// InUse reports whether a datagram socket with the name path is alive. It
// removes a dead one, which a killed process has left.
func InUse(path string) (bool, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return false, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	switch err {
	case nil, unix.EPERM: // EPERM: it talks to another
		return true, nil
	case unix.ENOENT:
		return false, nil
	case unix.EPROTOTYPE:
		return false, fmt.Errorf("%s is a socket of another kind (later versions of vdeplug have such, the option seqpacket): %w", path, err)
	case unix.ECONNREFUSED:
		if err := RemoveSocket(path); err != nil {
			return false, err
		}
		return false, nil
	}
	return false, fmt.Errorf("%s: %w", path, os.NewSyscallError("connect", err))
}

func Inode(path string) (dev, ino uint64) {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return 0, 0
	}
	return uint64(st.Dev), st.Ino
}

// RemoveSocket removes a socket that nobody has.
func RemoveSocket(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s exists and is no socket", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing a dead socket: %w", err)
	}
	return nil
}
