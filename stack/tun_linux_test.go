//go:build amd64 || arm64

package stack

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestExplainTUN has errors of the device that this machine may not have; those
// that can be provoked are in internal/test/permissions.
func TestExplainTUN(t *testing.T) {
	opening := func(errno unix.Errno) error { return &os.PathError{Op: "open", Path: tunDevice, Err: errno} }
	attaching := func(errno unix.Errno) error { return os.NewSyscallError("ioctl TUNSETIFF", errno) }
	const (
		missing = " (there is no such device: modprobe tun, or pass it into the container, docker --device /dev/net/tun)"
		driver  = " (the kernel has no driver for it: modprobe tun)"
		other   = " (this is not the TUN device: mknod /dev/net/tun c 10 200)"
		taken   = " (the namespace may have an interface of this name already: give this one another Name)"
	)
	for _, tt := range []struct {
		err  error
		want string // what comes behind the error
	}{
		{opening(unix.ENOENT), missing},
		{opening(unix.ENOTDIR), missing},
		{opening(unix.ENODEV), driver},
		{opening(unix.ENXIO), driver},
		{opening(unix.EISDIR), other},
		{attaching(unix.ENOTTY), other},
		{attaching(unix.EBUSY), taken},
		{attaching(unix.EINVAL), taken},
		{attaching(unix.EFAULT), ""},
		{errors.New("other"), ""},
		{nil, ""},
	} {
		got := explainTUN(tt.err)
		if !errors.Is(got, tt.err) || got != nil && got.Error() != tt.err.Error()+tt.want {
			t.Errorf("got %v, want %v%s", got, tt.err, tt.want)
		}
	}
}
