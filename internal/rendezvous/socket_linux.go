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

// newHello returns that message.
func newHello() ([]byte, error) {
	name, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		return nil, fmt.Errorf("processes that share a network must be in the same user namespace, and without /proc this one does not know its own: %w", err)
	}
	return []byte(greeting + name + "\n"), nil
}

var (
	// errNobody says that nobody serves the socket.
	errNobody = errors.New("nobody serves it")
	// errBusy says that somebody does, who is just leaving or has many newcomers.
	errBusy = errors.New("it is busy")
)

// look returns nil if there is a socket of this user, dead or alive, and errNobody if there
// is nothing.
func look(path string) error {
	file, st, err := sockio.OpenSocket(path)
	switch err {
	case nil:
		unix.Close(file)
	case unix.ENOENT:
		return errNobody
	case unix.ENOTSOCK:
		return fmt.Errorf("%s exists and is not a socket (a symbolic link is not followed): %w", path, err)
	default:
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	if int(st.Uid) != os.Geteuid() {
		return foreign(path, st.Uid)
	}
	return nil
}

// dial connects to the member that serves, and returns the descriptor that it sends.
func (m *Member) dial(ctx context.Context) (_ *net.UnixConn, fd int, err error) {
	path := m.path
	if err := look(path); err != nil {
		return nil, -1, err
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
	peer, err := checkPeer(conn, path)
	if err == nil {
		conn.Write([]byte{0}) // asks; an error comes again in receive
		fd, err = m.receive(conn, int(peer.Pid))
	}
	if err != nil {
		conn.Close()
		return nil, -1, err
	}
	return conn, fd, nil
}

// checkPeer refuses a peer of another user.
func checkPeer(c *net.UnixConn, path string) (*unix.Ucred, error) {
	peer, err := sockio.Peer(c)
	if err == nil && int(peer.Uid) != os.Geteuid() {
		err = foreign("the process at the other end of "+path, peer.Uid)
	}
	return peer, err
}

// receive takes exactly one descriptor, from a process.
func (m *Member) receive(c *net.UnixConn, pid int) (int, error) {
	text := make([]byte, len(m.hello)+64)
	oob := make([]byte, unix.CmsgLen(4)) // CmsgSpace has room for two
	n, oobn, flags, _, err := c.ReadMsgUnix(text, oob)
	if errors.Is(err, unix.ECONNRESET) {
		// Whoever was there has not read what this one has sent. That comes before what
		// they have sent themselves.
		n, oobn, flags, _, err = c.ReadMsgUnix(text, oob)
	}
	fds := sockio.Rights(oob[:oobn])
	serves := func() string {
		server, _ := sockio.Process(pid)
		return server + " serves " + m.path
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET):
		return -1, errBusy
	case errors.Is(err, os.ErrDeadlineExceeded):
		return -1, fmt.Errorf("%s and does not answer: it may be stopped (SIGCONT continues it) or have no descriptors left; when it has ended another member serves: %w", serves(), os.ErrDeadlineExceeded)
	case err != nil:
		return -1, err
	}
	text = text[:n]
	if len(fds) == 0 && flags&unix.MSG_CTRUNC != 0 { // it had no number for the descriptor
		return -1, os.NewSyscallError("recvmsg", unix.EMFILE)
	}
	right := bytes.HasPrefix(text, []byte(greeting)) && len(fds) == 1 && flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) == 0
	if right && bytes.Equal(text, m.hello) {
		return fds[0], nil
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	if right {
		return -1, fmt.Errorf("%s and is in another user namespace than this process: programs inside and outside of a container, or of two containers, have no networks in common: %w", serves(), unix.EPERM)
	}
	return -1, fmt.Errorf("%s and sends what no network of lan:// does: it is another program, or has another version of this package: %w", serves(), unix.EPROTO)
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
	if err := look(path); err == errNobody {
		return nil
	} else if err != nil {
		return err
	}
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
