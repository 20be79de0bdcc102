package rendezvous

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/vdestack/vdestack/internal/sockio"
	"golang.org/x/sys/unix"
)

// greeting begins the message that comes with the descriptor. The user namespace of the
// sender follows.
const greeting = "vdestack shares a descriptor 1, from "

// hello returns that message.
func hello() []byte {
	name, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		name = "a process without /proc"
	}
	return []byte(greeting + name + "\n")
}

var (
	// errNobody says that nobody serves the socket.
	errNobody = errors.New("nobody serves it")
	// errBusy says that somebody does, who is just leaving or has many newcomers.
	errBusy = errors.New("it is busy")
)

// dial connects to the member that serves, and returns the descriptor that it sends.
func dial(ctx context.Context, path string) (_ *net.UnixConn, fd int, err error) {
	file, st, err := sockio.OpenSocket(path)
	switch err {
	case nil:
		unix.Close(file)
	case unix.ENOENT:
		return nil, -1, errNobody
	case unix.ENOTSOCK:
		return nil, -1, fmt.Errorf("%s exists and is not a socket (a symbolic link is not followed): %w", path, err)
	default:
		return nil, -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if int(st.Uid) != os.Geteuid() {
		return nil, -1, foreign(path, st.Uid)
	}
	var d net.Dialer
	any, err := d.DialContext(ctx, "unixpacket", path)
	switch {
	case err == nil:
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED):
		return nil, -1, errNobody
	case errors.Is(err, unix.EAGAIN):
		return nil, -1, errBusy
	case errors.Is(err, unix.EPROTOTYPE):
		return nil, -1, fmt.Errorf("%s is the socket of another program: %w", path, err)
	default:
		return nil, -1, err
	}
	conn := any.(*net.UnixConn)
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err = checkPeer(conn, path); err == nil {
		fd, err = receive(conn, path)
	}
	if err != nil {
		conn.Close()
		return nil, -1, err
	}
	return conn, fd, nil
}

// checkPeer refuses a peer of another user.
func checkPeer(c *net.UnixConn, path string) error {
	uid, err := sockio.PeerUID(c)
	if err != nil {
		return err
	}
	if int(uid) != os.Geteuid() {
		return foreign("the process at the other end of "+path, uid)
	}
	return nil
}

// receive takes exactly one descriptor.
func receive(c *net.UnixConn, path string) (int, error) {
	own := hello()
	text := make([]byte, len(own)+64)
	oob := make([]byte, unix.CmsgLen(4)) // CmsgSpace has room for two
	n, oobn, flags, _, err := c.ReadMsgUnix(text, oob)
	fds := sockio.Rights(oob[:oobn])
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET):
		return -1, errBusy
	case errors.Is(err, os.ErrDeadlineExceeded):
		return -1, fmt.Errorf("who serves %s does not answer: it is stopped, or another program: %w", path, err)
	case err != nil:
		return -1, err
	}
	text = text[:n]
	right := bytes.HasPrefix(text, []byte(greeting)) && len(fds) == 1 && flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) == 0
	if right && bytes.Equal(text, own) {
		return fds[0], nil
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	if right {
		return -1, fmt.Errorf("who serves %s is in another user namespace than this process: programs inside and outside of a container, or of two containers, have no networks in common: %w", path, unix.EPERM)
	}
	return -1, fmt.Errorf("who serves %s sends what no network of lan:// does: it is another program, or another version of this package: %w", path, unix.EPROTO)
}

const (
	// backlog is how many newcomers may wait; they come one at a time.
	backlog = 128
	// sendTime bounds the answer to a newcomer that does not read.
	sendTime = time.Second
)

// listen makes the socket, in the place of a dead one. The caller holds serves.
func listen(path string) (_ *net.UnixListener, id sockio.FileID, err error) {
	if err := removeDead(path); err != nil {
		return nil, id, err
	}
	fd, err := sockio.LocalSocket(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, id, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	sockio.RefuseRights(fd) // and the sockets that it accepts
	if err := sockio.Bind(fd, path, 0o700); err != nil {
		return nil, id, fmt.Errorf("%s: %w", path, err)
	}
	id = sockio.IDAt(path)
	err = os.NewSyscallError("listen", unix.Listen(fd, backlog))
	var l net.Listener
	if err == nil {
		l, err = net.FileListener(f)
	}
	if err != nil {
		id.Unlink(path)
		return nil, id, err
	}
	ul := l.(*net.UnixListener)
	ul.SetUnlinkOnClose(false)
	return ul, id, nil
}

// removeDead removes the socket of a member that was killed, if there is one. It is an
// error if somebody serves it.
func removeDead(path string) error {
	fd, err := sockio.LocalSocket(unix.SOCK_SEQPACKET)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	switch err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err {
	case unix.ENOENT:
		return nil
	case unix.ECONNREFUSED:
		return sockio.RemoveSocket(path)
	}
	return fmt.Errorf("%s is in use: %w", path, unix.EADDRINUSE)
}
