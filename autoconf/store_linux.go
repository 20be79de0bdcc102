package autoconf

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openStored opens a file that nobody but the user, or root, can have written. It does not
// wait for the other end of a pipe.
func openStored(name string) (_ *os.File, err error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	var s unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &s); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	switch {
	case s.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, fmt.Errorf("%s is not a file", name)
	case s.Uid != 0 && int(s.Uid) != os.Geteuid():
		return nil, fmt.Errorf("%s belongs to another user, %d", name, s.Uid)
	case s.Mode&0o022 != 0:
		return nil, fmt.Errorf("%s can be written by others: its mode is %#o", name, s.Mode&0o777)
	}
	return f, nil
}
