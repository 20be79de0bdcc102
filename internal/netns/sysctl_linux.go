//go:build amd64 || arm64

package netns

import (
	"cmp"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// WriteSysctl sets a setting of the namespace: path is below /proc/sys, such as
// "net/ipv4/ip_forward". Pooled sockets, which may have the old setting, are closed. The
// kernel takes an empty value as a line, and ignores a write of nothing.
func (n *NS) WriteSysctl(path, value string) error {
	f, err := n.openSysctl(path, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(cmp.Or(value, "\n"))
	n.Refresh()
	return err
}

// ReadSysctl returns a setting of the namespace, as the kernel writes it.
func (n *NS) ReadSysctl(path string) (string, error) {
	f, err := n.openSysctl(path, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if failed, ok := errors.AsType[*os.PathError](err); ok {
		err = explainOpen(failed, unix.O_RDONLY)
	}
	return string(text), err
}

// openSysctl opens the file of a setting, in the namespace of the task that opens it.
func (n *NS) openSysctl(path string, flags int) (*os.File, error) {
	n.AllowPing()
	path = "/proc/sys/" + path
	fd, err := n.Open(path, flags)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}
