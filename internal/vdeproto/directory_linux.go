package vdeproto

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/sockio"
)

const (
	// switchBacklog is the number of clients that may wait to be accepted.
	switchBacklog = 128
	// maxSwitchDir is the longest path of a directory, with room for the names in it.
	maxSwitchDir = maxUnixPath - len("/fd1234567")
	// switchProbe bounds the check for a running switch.
	switchProbe = time.Second
)

// leftover matches the data sockets that killed switches and clients leave: fd3 of this
// package and libvdeplug, 003.5 of vde_switch, .01234-00000 of clients.
var leftover = regexp.MustCompile(`^(fd\d+|\d{3,}\.\d+|\.\d{5,}-\d{5})$`)

// A switchDir is the directory of a running switch.
type switchDir struct {
	path     string
	file     *os.File
	mode     int // of the sockets
	gid      int // their group, or -1
	listener int // the socket ctl
	ctl      sockio.FileID
}

// newSwitchDir makes the directory of a switch, or takes over that of a killed switch, and
// listens in it.
func newSwitchDir(ctx context.Context, cfg SwitchConfig) (_ *switchDir, err error) {
	d := &switchDir{path: cfg.Dir, mode: cfg.Mode, gid: -1, listener: -1}
	if cfg.Group != "" {
		if d.gid, err = sockio.GroupID(ctx, cfg.Group); err != nil {
			return nil, fmt.Errorf("option \"grp=%s\": %w", cfg.Group, err)
		}
	}
	made, err := d.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && made {
			unix.Rmdir(d.path)
		}
		if err != nil {
			d.file.Close() // also releases the lock
			if d.listener >= 0 {
				unix.Close(d.listener)
			}
		}
	}()
	if !made {
		if err = d.takeOver(ctx); err != nil {
			return nil, err
		}
	}
	// Nobody else may enter until everything is ready.
	if err = d.own(cfg, 0o2700); err != nil {
		return nil, err
	}
	if err = d.listen(); err != nil {
		return nil, err
	}
	if err = d.own(cfg, cfg.DirMode); err != nil {
		unix.Unlink(d.ctlPath())
		return nil, err
	}
	unix.Flock(int(d.file.Fd()), unix.LOCK_UN)
	return d, nil
}

func (d *switchDir) ctlPath() string { return d.path + "/ctl" }

// enter makes or opens the directory. It locks it against others that do so or remove it at
// the same time.
func (d *switchDir) enter(ctx context.Context) (made bool, err error) {
	for ctx.Err() == nil {
		err = os.Mkdir(d.path, 0o700)
		made = err == nil
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return false, err
		}
		fd, err := unix.Open(d.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		switch err {
		case nil:
		case unix.ENOENT:
			continue // it was removed meanwhile
		case unix.ENOTDIR, unix.ELOOP:
			return false, fmt.Errorf("%s exists and is not a directory: %w", d.path, err)
		default:
			return false, &fs.PathError{Op: "open", Path: d.path, Err: err}
		}
		d.file = os.NewFile(uintptr(fd), d.path)
		if err = d.lock(ctx); err == nil || errors.Is(err, unix.EBUSY) && ctx.Err() == nil {
			err = nil // anyone who may read the directory can keep it locked
			var st unix.Stat_t
			if unix.Fstat(fd, &st) == nil && sockio.IDOf(&st) == sockio.IDAt(d.path) {
				if int(st.Uid) != os.Geteuid() {
					d.file.Close()
					return false, fmt.Errorf("%s belongs to user %d, this is user %d: %w", d.path, st.Uid, os.Geteuid(), fs.ErrPermission)
				}
				return made, nil
			}
		}
		d.file.Close()
		if err != nil {
			return false, err
		}
	}
	return false, ctx.Err()
}

// lock locks the directory. Switches hold the lock for a moment only, so the caller goes on
// without it after a while. The names in the directory are checked anyway: without the lock,
// only two switches that start at the same moment can take each other's.
func (d *switchDir) lock(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*switchProbe)
	defer cancel()
	return sockio.Flock(ctx, d.file)
}

// takeOver checks that a killed switch has left the directory, and removes its sockets.
func (d *switchDir) takeOver(ctx context.Context) error {
	entries, err := d.file.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Type() != fs.ModeSocket {
			return fmt.Errorf("%s contains %s, which no switch has left: a switch needs a directory of its own, which it makes: %w",
				d.path, e.Name(), fs.ErrExist)
		}
	}
	if err = d.free(ctx); err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(d.path, e.Name())
		if e.Name() == "ctl" {
			err = os.Remove(path)
		} else if leftover.MatchString(e.Name()) {
			_, err = sockio.InUse(path) // removes it
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// free returns an error if a switch runs in the directory, which is locked. It completes
// the handshake: some switches break if a client connects and sends no request.
func (d *switchDir) free(ctx context.Context) error {
	dial, cancel := context.WithTimeout(ctx, switchProbe)
	defer cancel()
	client := dialer{
		cfg: Config{Dir: d.path, Port: AnyPort, Mode: -1}, gid: -1, locked: true,
		description: "vdestack looks whether this switch runs",
		start:       time.Now(), ctx: ctx, dial: dial,
	}
	conn, err := client.connect(d.path)
	switch {
	case err == nil:
		conn.leave(handshakeLock{})
		return fmt.Errorf("%s is the directory of a running switch: %w", d.path, unix.EADDRINUSE)
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOENT):
		return nil
	}
	return fmt.Errorf("%s may be the directory of a running switch: %w", d.path, err)
}

// own gives the directory its group and permissions.
func (d *switchDir) own(cfg SwitchConfig, mode int) error {
	fd := int(d.file.Fd())
	if d.gid >= 0 {
		if err := unix.Fchown(fd, -1, d.gid); err != nil {
			return fmt.Errorf("option \"grp=%s\": giving %s to it (users can give files to their own groups only): %w", cfg.Group, d.path, err)
		}
	}
	if err := unix.Fchmod(fd, uint32(mode)); err != nil {
		return &fs.PathError{Op: "chmod", Path: d.path, Err: err}
	}
	return nil
}

// listen makes the socket ctl.
func (d *switchDir) listen() (err error) {
	if d.listener, err = sockio.LocalSocket(unix.SOCK_STREAM); err != nil {
		return err
	}
	sockio.RefuseRights(d.listener) // and the sockets that it accepts
	if d.ctl, err = d.bind(d.listener, d.ctlPath()); err != nil {
		return err
	}
	if err = unix.Listen(d.listener, switchBacklog); err != nil {
		unix.Unlink(d.ctlPath())
		return os.NewSyscallError("listen", err)
	}
	return nil
}

// bind gives a socket a name in the directory, with the group and permissions of the
// switch.
func (d *switchDir) bind(fd int, path string) (id sockio.FileID, err error) {
	if err = sockio.Bind(fd, path, d.mode); err != nil {
		return id, fmt.Errorf("%s: %w", path, err)
	}
	// Others may be able to write to the directory.
	file, st, err := sockio.OpenSocket(path)
	if err == nil {
		defer unix.Close(file)
		if d.gid >= 0 && int(st.Gid) != d.gid {
			err = unix.Fchownat(file, "", -1, d.gid, unix.AT_EMPTY_PATH)
		}
		if err == nil && int(st.Mode&0o777) != d.mode { // the umask
			err = sockio.ChmodPath(file, d.mode)
		}
	}
	if err != nil {
		unix.Unlink(path)
		return id, &fs.PathError{Op: "chmod", Path: path, Err: err}
	}
	return sockio.IDOf(&st), nil
}

// remove removes everything that newSwitchDir has made. The directory stays if others have
// put files into it.
func (d *switchDir) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), switchProbe)
	defer cancel()
	var st unix.Stat_t
	d.lock(ctx) // or without: the identity of files is checked
	d.ctl.Unlink(d.ctlPath())
	unix.Close(d.listener)
	if unix.Fstat(int(d.file.Fd()), &st) == nil && sockio.IDOf(&st) == sockio.IDAt(d.path) {
		unix.Rmdir(d.path)
	}
	d.file.Close()
}
