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

// Flock locks a file. It waits until ctx ends.
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
		case <-time.After(time.Millisecond): // a blocking flock could not be given up
		case <-ctx.Done():
			return fmt.Errorf("somebody else has locked %s: %w", f.Name(), unix.EBUSY)
		}
	}
}

// OpenSocket opens the file of a local socket with O_PATH, without following a link.
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

// ChmodPath changes the permissions of a file that was opened with O_PATH.
func ChmodPath(fd, mode int) error {
	err := unix.Fchmodat(fd, "", uint32(mode), unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.EOPNOTSUPP) { // Linux before 6.6
		err = unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), uint32(mode))
	}
	return err
}

// InUse reports whether a datagram socket with the name path is alive. It removes one
// that a killed process has left.
func InUse(path string) (bool, error) {
	fd, err := LocalSocket(unix.SOCK_DGRAM)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	switch err {
	case nil, unix.EPERM: // EPERM: it is connected to another peer
		return true, nil
	case unix.ENOENT:
		return false, nil
	case unix.EPROTOTYPE:
		return false, fmt.Errorf("%s is a socket of another kind (later versions of vdeplug make it, see the option seqpacket): %w", path, err)
	case unix.ECONNREFUSED:
		return false, RemoveSocket(path)
	}
	return false, fmt.Errorf("%s: %w", path, os.NewSyscallError("connect", err))
}

// A FileID identifies a file: another may have taken its name.
type FileID struct{ dev, ino uint64 }

// IDOf returns the FileID of a file with the given status.
func IDOf(st *unix.Stat_t) FileID { return FileID{uint64(st.Dev), st.Ino} }

// IDAt returns the FileID of the file at path; it is zero if there is no file.
func IDAt(path string) FileID {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return FileID{}
	}
	return IDOf(&st)
}

// Unlink removes path, unless another file has the name by now.
func (id FileID) Unlink(path string) {
	if IDAt(path) == id {
		unix.Unlink(path)
	}
}

// RemoveSocket removes the file of a dead socket. A missing file is no error.
func RemoveSocket(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s exists and is not a socket", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing a dead socket: %w", err)
	}
	return nil
}
