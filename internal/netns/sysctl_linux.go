//go:build amd64 || arm64

package netns

import (
	"cmp"
	"errors"
	"io"
	"net"
	"os"
	"runtime"

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

// A Setting is one of a namespace: its path below /proc/sys, and its value.
type Setting struct{ Path, Value string }

// SetSysctls sets several settings in one round trip. It is for a namespace that nobody
// else has: sockets that were made with it stay, and AllowPing is not called. The errors
// are those of the settings, nil where there is none.
func (n *NS) SetSysctls(settings ...Setting) []error {
	files, errs := n.openAll(settings)
	for i, s := range settings {
		if errs[i] != nil && atLimit(errs[i]) {
			errs[i] = n.WriteSysctl(s.Path, s.Value) // which makes room
		}
		if files[i] != nil {
			_, err := files[i].WriteString(s.Value)
			errs[i] = errors.Join(err, files[i].Close())
		}
	}
	return errs
}

// openAll opens the files of settings.
func (n *NS) openAll(settings []Setting) ([]*os.File, []error) {
	files, errs := make([]*os.File, len(settings)), make([]error, len(settings))
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.fd < 0 {
		for i := range errs {
			errs[i] = net.ErrClosed
		}
		return files, errs
	}
	r := newRequest(n)
	defer r.free()
	r.each = true
	names := make([][]byte, len(settings))
	for i, s := range settings {
		names[i] = []byte("/proc/sys/" + s.Path + "\x00")
		r.calls = append(r.calls, openCall(&names[i][0], unix.O_WRONLY))
	}
	n.h.do(r)
	runtime.KeepAlive(names)
	for i, s := range settings {
		fd, err := r.result(i)
		if err != nil {
			errs[i] = &os.PathError{Op: "open", Path: "/proc/sys/" + s.Path, Err: err}
		} else {
			files[i] = os.NewFile(fd, "/proc/sys/"+s.Path)
		}
	}
	return files, errs
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
