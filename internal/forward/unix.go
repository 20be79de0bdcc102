package forward

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// ListenUnix listens at path, in the place of a socket that a killed process has left.
// Close removes the file, unless another one has the name by then.
func ListenUnix(ctx context.Context, path string) (net.Listener, error) {
	if path[0] != '@' {
		defer lockDirectory(ctx, filepath.Dir(path))()
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if errors.Is(err, syscall.EADDRINUSE) && removeDead(ctx, path) {
		l, err = lc.Listen(ctx, "unix", path)
	}
	if err != nil || path[0] == '@' { // an abstract name is no file
		return l, err
	}
	ul := &unixListener{UnixListener: l.(*net.UnixListener)}
	ul.SetUnlinkOnClose(false)
	if ul.path, err = filepath.Abs(path); err == nil { // the directory may change
		ul.file, err = os.Lstat(ul.path)
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return ul, nil
}

// lockTime bounds the wait for the lock of a directory, which a forward holds for less than
// a millisecond. Others may hold it for longer; no forward is at work there then.
const lockTime = time.Second

// removeDead removes a socket that nobody has open. It reports whether it did.
func removeDead(ctx context.Context, path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != fs.ModeSocket {
		return false
	}
	c, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED) && isFile(path, info) && os.Remove(path) == nil
}

// isFile reports whether path is still the same file.
func isFile(path string, file fs.FileInfo) bool {
	info, err := os.Lstat(path)
	return err == nil && os.SameFile(info, file)
}

type unixListener struct {
	*net.UnixListener
	path string
	file fs.FileInfo
}

func (l *unixListener) Close() error {
	if isFile(l.path, l.file) {
		os.Remove(l.path)
	}
	return l.UnixListener.Close()
}
