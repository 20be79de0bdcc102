//go:build amd64 || arm64

package netns

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"io/fs"
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
	paths := make([]string, len(settings))
	for i, s := range settings {
		paths[i] = "/proc/sys/" + s.Path
	}
	files, errs := n.openAll(unix.O_WRONLY, paths...)
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

// openAll opens several files that depend on the namespace in one round trip.
func (n *NS) openAll(flags int, paths ...string) ([]*os.File, []error) {
	files, errs := make([]*os.File, len(paths)), make([]error, len(paths))
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
	names := make([][]byte, len(paths))
	for i, path := range paths {
		names[i] = append([]byte(path), 0)
		r.calls = append(r.calls, openCall(&names[i][0], flags))
	}
	n.h.do(r)
	runtime.KeepAlive(names)
	for i, path := range paths {
		fd, err := r.result(i)
		if err != nil {
			errs[i] = &os.PathError{Op: "open", Path: path, Err: err}
		} else {
			files[i] = os.NewFile(fd, path)
		}
	}
	return files, errs
}

// procSize is room for a file of /proc/net without a line for each socket or interface.
const procSize = 8 << 10

// ReadFiles returns what is in several files that depend on the namespace, such as
// /proc/net/snmp, with one round trip. The text of one that does not exist is empty.
func (n *NS) ReadFiles(paths ...string) ([]string, error) {
	return WithRoom(func() ([]string, error) {
		files, errs := n.openAll(unix.O_RDONLY, paths...)
		defer func() {
			for _, f := range files {
				f.Close() // nil is an error, and no more
			}
		}()
		texts := make([]string, len(paths))
		var buf bytes.Buffer
		buf.Grow(procSize)
		for i, f := range files {
			if errors.Is(errs[i], fs.ErrNotExist) {
				continue
			}
			if errs[i] != nil {
				return nil, errs[i]
			}
			buf.Reset()
			if _, err := buf.ReadFrom(f); err != nil {
				return nil, err
			}
			texts[i] = buf.String()
		}
		return texts, nil
	})
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
