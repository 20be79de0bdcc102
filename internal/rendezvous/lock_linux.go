package rendezvous

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/vdestack/vdestack/internal/sockio"
	"golang.org/x/sys/unix"
)

const (
	// lockSuffix is what the name of the lock file has more than that of the socket.
	lockSuffix = ".lock"
	// lockMode has the sticky bit, so that systemd-tmpfiles and its like do not remove
	// the file when it is old (XDG Base Directory Specification).
	lockMode = unix.S_ISVTX | 0o600
)

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
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, lockMode)
	var st unix.Stat_t
	switch {
	case err == nil:
	case err == unix.ELOOP:
		return nil, fmt.Errorf("%s is a symbolic link, which is not followed: %w", name, err)
	case err == unix.EACCES && unix.Lstat(name, &st) == nil && int(st.Uid) != os.Geteuid():
		return nil, foreign(name, st.Uid)
	default:
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := &lockFile{File: os.NewFile(uintptr(fd), name)}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &fs.PathError{Op: "fstat", Path: name, Err: err}
	}
	f.id = sockio.IDOf(&st)
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, fmt.Errorf("%s exists and is not a file: %w", name, fs.ErrExist)
	case int(st.Uid) != os.Geteuid():
		return nil, foreign(name, st.Uid)
	case st.Size > 0 || st.Nlink > 1: // the last member would remove it
		return nil, fmt.Errorf("%s exists and is not empty, or has another name: it is no lock file of a network: %w", name, fs.ErrExist)
	case st.Mode&0o7777 == lockMode:
		return f, nil
	}
	// Others could hold its locks.
	if err := unix.Fchmod(fd, lockMode); err != nil {
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

// held reports whether somebody else holds a byte.
func (f *lockFile) held(which int64) bool {
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: unix.SEEK_SET, Start: which, Len: 1}
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l) == nil && l.Type != unix.F_UNLCK
}

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

// knocking has the calls that go on waiting for a door after their callers have given up,
// each of which takes a thread and a descriptor: for each lock file, what is closed when
// the last one has returned.
var knocking = struct {
	mu  sync.Mutex // guards all
	all map[sockio.FileID]chan struct{}
}{all: make(map[sockio.FileID]chan struct{})}

// knock waits for the door. A call that waits for a lock cannot be given up: it keeps the
// file after an error of ctx, and then closes it. Until then, nobody else makes another.
func (f *lockFile) knock(ctx context.Context) error {
	if err := f.set(door, unix.F_WRLCK); err != unix.EAGAIN {
		return err
	}
	busy := fmt.Errorf("another process holds the lock of %s: it is stopped, or waits for one that is (fuser %[1]s shows who has it): %w", f.Name(), unix.EBUSY)
	knocking.mu.Lock()
	over := knocking.all[f.id]
	knocking.mu.Unlock()
	if over != nil {
		select {
		case <-over:
		case <-ctx.Done():
			return busy
		}
	}
	done := make(chan error, 1)
	go func() { done <- f.fcntl(unix.F_OFD_SETLKW, door, unix.F_WRLCK) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	f.kept = true
	over = make(chan struct{})
	knocking.mu.Lock()
	knocking.all[f.id] = over
	knocking.mu.Unlock()
	go func() {
		<-done
		knocking.mu.Lock()
		if knocking.all[f.id] == over {
			delete(knocking.all, f.id)
		}
		knocking.mu.Unlock()
		f.Close()
		close(over)
	}()
	return busy
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

// directory returns the directory of a path. It refuses one in which other users could
// replace the files.
func directory(path string) (id sockio.FileID, err error) {
	dir := filepath.Dir(path)
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return id, &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	id = sockio.IDOf(&st)
	switch {
	case st.Mode&unix.S_ISVTX != 0: // files belong to their users, as in /tmp
		return id, nil
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return id, foreign("the directory "+dir, st.Uid)
	case st.Mode&0o002 != 0:
		return id, fmt.Errorf("everybody may write to the directory %s, and replace what is in it (chmod o-w, or +t as /tmp): %w", dir, fs.ErrPermission)
	}
	return id, nil
}
