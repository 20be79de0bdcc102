package vdeproto

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/sockio"
)

// clientSerial numbers the data sockets of the process, for their names.
var clientSerial atomic.Uint32

// bindClient makes a data socket in the directory of the switch or, if that is not
// writable or its name too long, in the directories that libvdeplug uses.
func bindClient(dir string) (fd int, path string, err error) {
	if fd, err = sockio.LocalSocket(unix.SOCK_DGRAM); err != nil {
		return -1, "", err
	}
	sockio.RefuseRights(fd)
	// The file inherits this mode: nobody else may send to it before permit.
	if err := unix.Fchmod(fd, 0o700); err != nil {
		unix.Close(fd)
		return -1, "", os.NewSyscallError("fchmod", err)
	}
	var failures []string
	for _, prefix := range []string{dir + "/.", "/var/run/vde.", "/var/tmp/vde.", "/tmp/vde."} {
		path, err = bindUnique(fd, prefix)
		if err == nil {
			return fd, path, nil
		}
		failures = append(failures, fmt.Sprintf("%s*: %v", prefix, err))
	}
	unix.Close(fd)
	return -1, "", fmt.Errorf("no place for the client's socket (%s): %w",
		strings.Join(failures, ", "), os.NewSyscallError("bind", err))
}

// bindUnique binds to the first free name with the prefix. Processes in different pid
// namespaces may choose the same names.
func bindUnique(fd int, prefix string) (string, error) {
	var err error
	for range 100 {
		path := fmt.Sprintf("%s%05d-%05d", prefix, os.Getpid(), clientSerial.Add(1)%100000)
		if len(path) > maxUnixPath {
			return "", unix.ENAMETOOLONG
		}
		if err = unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != unix.EADDRINUSE {
			return path, err
		}
	}
	return "", err
}

// permit lets the switch write to the client's socket, and others as configured.
func (d *dialer) permit(path, ctl string) error {
	mode := d.cfg.Mode
	if mode < 0 {
		mode = 0o700
	}
	// The owner of the directory may have put a link there: change only a socket of
	// this user.
	fd, st, err := sockio.OpenSocket(path)
	if err == unix.ENOTSOCK || err == nil && int(st.Uid) != os.Geteuid() {
		if err == nil {
			unix.Close(fd)
		}
		return fmt.Errorf("somebody has replaced the client's socket %s", path)
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if d.gid >= 0 {
		if err := unix.Fchownat(fd, "", -1, d.gid, unix.AT_EMPTY_PATH); err != nil {
			return fmt.Errorf("option \"group=%s\": giving %s to it (users can give files to their own groups only): %w",
				d.cfg.Group, path, os.NewSyscallError("chown", err))
		}
	} else if mode&0o077 == 0 {
		mode |= switchAccess(fd, ctl)
	}
	if err := sockio.ChmodPath(fd, mode); err != nil {
		return &fs.PathError{Op: "chmod", Path: path, Err: err}
	}
	return nil
}

// switchAccess returns the permissions with which the switch of another user can write to
// the client's socket: those of its group, if the socket can be given to that group.
func switchAccess(fd int, ctl string) int {
	var st unix.Stat_t
	if unix.Stat(ctl, &st) != nil || st.Uid == 0 || int(st.Uid) == os.Geteuid() {
		return 0
	}
	if unix.Fchownat(fd, "", -1, int(st.Gid), unix.AT_EMPTY_PATH) == nil {
		return 0o070
	}
	return 0o077
}
