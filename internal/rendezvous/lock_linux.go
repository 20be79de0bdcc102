package rendezvous

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/vdestack/vdestack/internal/sockio"
	"golang.org/x/sys/unix"
)

// lockSuffix is what the name of the lock file has more than that of the socket.
const lockSuffix = ".lock"

// Bytes of the lock file.
const (
	door = iota
	serves
	members
)

// A lockFile is the lock file of a path. Its locks are those of the open file.
type lockFile struct {
	*os.File
	id   sockio.FileID
	kept bool // by knock
}

// enter opens the lock file, makes it if necessary, and waits for the door.
func enter(ctx context.Context, path string) (*lockFile, error) {
	for {
		f, err := openLock(path + lockSuffix)
		if err != nil {
			return nil, err
		}
		if err := f.knock(ctx); err != nil {
			f.close()
			return nil, err
		}
		if f.named() {
			return f, nil
		}
		f.Close() // the last member has removed it meanwhile
	}
}

func openLock(name string) (_ *lockFile, err error) {
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err == unix.ELOOP {
		return nil, fmt.Errorf("%s is a symbolic link, which is not followed: %w", name, err)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := &lockFile{File: os.NewFile(uintptr(fd), name)}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &fs.PathError{Op: "fstat", Path: name, Err: err}
	}
	f.id = sockio.IDOf(&st)
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, fmt.Errorf("%s exists and is not a file: %w", name, fs.ErrExist)
	case int(st.Uid) != os.Geteuid():
		return nil, foreign(name, st.Uid)
	case st.Mode&0o777 == 0o600:
		return f, nil
	}
	// Others could hold its locks.
	if err := unix.Fchmod(fd, 0o600); err != nil {
		return nil, &fs.PathError{Op: "chmod", Path: name, Err: err}
	}
	return f, nil
}

func foreign(name string, owner uint32) error {
	return fmt.Errorf("%s belongs to user %d, this is user %d: %w", name, owner, os.Geteuid(), fs.ErrPermission)
}

// named reports whether the file is still the one with its name.
func (f *lockFile) named() bool { return sockio.IDAt(f.Name()) == f.id }

// set changes what this member holds of a byte: F_RDLCK, F_WRLCK or F_UNLCK. It does not
// wait: EAGAIN says that somebody else has the lock.
func (f *lockFile) set(which int64, typ int16) error { return f.fcntl(unix.F_OFD_SETLK, which, typ) }

func (f *lockFile) fcntl(command int, which int64, typ int16) error {
	for {
		err := unix.FcntlFlock(f.Fd(), command, &unix.Flock_t{Type: typ, Whence: unix.SEEK_SET, Start: which, Len: 1})
		switch err {
		case nil:
			return nil
		case unix.EINTR:
		case unix.EACCES, unix.EAGAIN:
			return unix.EAGAIN
		default:
			return &fs.PathError{Op: "fcntl F_OFD_SETLK", Path: f.Name(), Err: err}
		}
	}
}

// knock waits for the door. A call that waits for a lock cannot be given up: it keeps the
// file after an error of ctx, and then closes it.
func (f *lockFile) knock(ctx context.Context) error {
	if err := f.set(door, unix.F_WRLCK); err != unix.EAGAIN {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- f.fcntl(unix.F_OFD_SETLKW, door, unix.F_WRLCK) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	f.kept = true
	go func() {
		<-done
		f.Close()
	}()
	return fmt.Errorf("somebody else holds the lock of %s, and waits for a process that does not answer: %w", f.Name(), unix.EBUSY)
}

// close closes the file, unless knock has kept it.
func (f *lockFile) close() {
	if !f.kept {
		f.Close()
	}
}

// A pause is a wait between two attempts, which grows.
type pause struct{ d time.Duration }

const (
	firstPause = time.Millisecond
	lastPause  = 64 * time.Millisecond
)

func (p *pause) wait(ctx context.Context) error {
	p.d = min(max(2*p.d, firstPause), lastPause)
	select {
	case <-time.After(p.d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// checkDirectory refuses a directory in which other users could replace the files.
func checkDirectory(path string) error {
	dir := filepath.Dir(path)
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	switch {
	case st.Mode&unix.S_ISVTX != 0: // files belong to their users, as in /tmp
		return nil
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return foreign("the directory "+dir, st.Uid)
	case st.Mode&0o002 != 0:
		return fmt.Errorf("everybody may write to the directory %s, and replace what is in it (chmod o-w, or +t as /tmp): %w", dir, fs.ErrPermission)
	}
	return nil
}
