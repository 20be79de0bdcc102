package vdeproto

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/teardown"
)

const (
	// dialTimeout bounds the handshake: vde_switch 2.3.2 does not answer when it should
	// refuse.
	dialTimeout = 3 * time.Second
	// sendBuffer is the number of bytes buffered for a slow switch (the kernel doubles
	// it for its own data). It is a little less than a socket of vde_switch holds
	// (net.core.wmem_default), which drops frames that do not fit. Local sockets have no
	// receive buffers.
	sendBuffer = 96 << 10
	// maxUnixPath is the longest path in a socket address.
	maxUnixPath = unixPathLen - 1
)

// Dial connects to the switch in cfg.Dir. If that is empty, it uses the first directory of
// defaults that has a switch. That switch must be root's or this user's, as others can make
// the directories too.
func Dial(ctx context.Context, cfg Config, defaults []string) (*Conn, error) {
	dial, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	d := dialer{cfg: cfg, gid: -1, start: time.Now(), ctx: ctx, dial: dial}
	if cfg.Group != "" {
		var err error
		if d.gid, err = sockio.GroupID(dial, cfg.Group); err != nil {
			return nil, fmt.Errorf("option \"group=%s\": %w", cfg.Group, err)
		}
	}
	d.description = describe(dial, cfg.Description)
	dirs := []string{cfg.Dir}
	if cfg.Dir == "" {
		dirs = defaults
	}
	var conn *Conn
	var err error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn, err = d.connectAny(dirs)
	}()
	select {
	case <-ended:
	case <-dial.Done():
		// The goroutine ends too, unless the kernel holds it.
		if !teardown.Within(func() { <-ended }) {
			go func() {
				if <-ended; err == nil {
					conn.Close()
				}
			}()
			return nil, d.timeout("it has sent descriptors that the kernel takes long to close")
		}
	}
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// connectAny connects to the switch in the first directory that has one.
func (d *dialer) connectAny(dirs []string) (*Conn, error) {
	var failure error
	for _, dir := range dirs {
		conn, err := d.connect(dir)
		if err == nil {
			return conn, nil
		}
		if failure == nil {
			failure = err
		} else {
			failure = fmt.Errorf("%w; %w", failure, err)
		}
		if d.dial.Err() != nil {
			break
		}
	}
	return nil, failure
}

// A dialer does a handshake with a switch.
type dialer struct {
	cfg         Config
	gid         int  // of cfg.Group, or -1
	locked      bool // the caller has locked the directory
	description string
	start       time.Time
	ctx         context.Context // of the caller
	dial        context.Context // ctx with dialTimeout
}

// connect connects to the switch in dir.
func (d *dialer) connect(dir string) (*Conn, error) {
	// The switch has another working directory.
	real, err := filepath.EvalSymlinks(dir)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	path := filepath.Join(real, "ctl")
	if err != nil {
		path = filepath.Join(dir, "ctl")
	}
	switch {
	case err != nil:
	case len(path) > maxUnixPath:
		err = unix.ENAMETOOLONG
	default:
		_, err = os.Stat(path)
	}
	if err != nil {
		return nil, explainConnect(path, err)
	}
	if d.cfg.Dir == "" {
		// Check the owner before others may write to the client's socket, see permit.
		// The owner of the directory could also make ctl a link to another switch of
		// this user, and replace the client's socket.
		for _, name := range []string{dir, real, path} {
			if st, err := os.Lstat(name); err == nil {
				if err := checkOwner(real, st.Sys().(*syscall.Stat_t).Uid); err != nil {
					return nil, err
				}
			}
		}
	}
	// The data socket comes first: some switches break if a client connects and then
	// has no request.
	fd, name, err := bindClient(real)
	if err != nil {
		return nil, err
	}
	defer os.Remove(name) // connected sockets need no name
	if err = d.permit(name, path); err != nil {
		unix.Close(fd)
		return nil, err
	}
	var l handshakeLock
	if !d.locked {
		l = lockHandshake(d.dial, real)
	}
	ctl, port, err := d.connectControl(real)
	if err == nil && d.cfg.Dir == "" {
		if err = checkPeer(real, ctl); err != nil {
			ctl.Close()
		}
	}
	if err != nil {
		unix.Close(fd)
		l.unlock()
		return nil, err
	}
	fd, gso, err := d.handshake(ctl, port, fd, name)
	var data sockio.PollFile
	if err == nil {
		data, err = sockio.NewLocalFile(fd, "vde")
	}
	if err != nil {
		go l.leave(ctl)
		return nil, err
	}
	l.unlock()
	return newConn(real, ctl, data, gso), nil
}

// checkPeer is like checkOwner, for the user at the other end of a connection.
func checkPeer(dir string, ctl *os.File) error {
	peer, err := sockio.Peer(ctl)
	if err != nil {
		return err
	}
	return checkOwner(dir, peer.Uid)
}

// checkOwner refuses a default switch that is neither root's nor this user's: it would
// get all frames.
func checkOwner(dir string, uid uint32) error {
	if uid == 0 || int(uid) == os.Geteuid() {
		return nil
	}
	return fmt.Errorf("the switch in %s belongs to user %d, and by default only switches of root and of this user (%d) are used: name it, vde://%s, if you trust that user: %w",
		dir, uid, os.Geteuid(), dir, unix.EPERM)
}

// handshake asks for a port, and connects the data socket fd with the given name. It takes
// over fd, and returns the data socket to use: fd, or half of a pair for GSO packets.
func (d *dialer) handshake(ctl *os.File, port, fd int, name string) (data int, gso bool, err error) {
	description := d.description
	if !WithoutGSO.Load() {
		description += gsoMark
	}
	peer, right, err := d.request(ctl, makeRequest(port, name, description), name)
	raw, failure := ctl.SyscallConn()
	if failure == nil {
		raw.Control(func(fd uintptr) { sockio.RefuseRights(int(fd)) }) // no more are expected
	}
	if err == nil && right >= 0 && sockio.AcceptGSO(right) {
		unix.Close(fd)
		sockio.GrowBuffers(right, sockio.GSOBuffer)
		return right, true, nil
	}
	if err == nil {
		err = failure
	}
	if err == nil {
		if failure = raw.Control(func(ctl uintptr) { err = connectData(fd, int(ctl), peer) }); failure != nil {
			err = failure
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, false, err
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer)
	return fd, false, nil
}

// connectControl opens the control connection, and returns the port to request.
func (d *dialer) connectControl(dir string) (ctl *os.File, port int, err error) {
	name := d.cfg.PortGroup
	if d.cfg.Port > 0 {
		// Try a socket with the number as its name first. The request to it does not
		// repeat the number.
		name = fmt.Sprint(d.cfg.Port)
	}
	if name != "" {
		path := filepath.Join(dir, name)
		if ctl, err = d.connectTo(path); err == nil {
			return ctl, AnyPort, nil
		}
		switch {
		case d.cfg.PortGroup == "":
		case errors.Is(err, fs.ErrNotExist):
			return nil, 0, fmt.Errorf("no port group %q: there is no socket %s (few switches have port groups; the options are port=N, portgroup=NAME, group=NAME and mode=OCTAL): %w",
				name, path, err)
		default:
			return nil, 0, fmt.Errorf("port group %q: %w", name, explainConnect(path, err))
		}
	}
	path := filepath.Join(dir, "ctl")
	if ctl, err = d.connectTo(path); err != nil {
		return nil, 0, explainConnect(path, err)
	}
	return ctl, d.cfg.Port, nil
}

// connectTo connects to a listening local socket. It retries while the backlog is full: the
// kernel does not report when there is room.
func (d *dialer) connectTo(path string) (*os.File, error) {
	if len(path) > maxUnixPath {
		return nil, os.NewSyscallError("connect", unix.ENAMETOOLONG)
	}
	fd, err := sockio.LocalSocket(unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	wait := time.Millisecond
	for {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		if err != unix.EAGAIN && err != unix.EINTR {
			break
		}
		select {
		case <-time.After(wait):
			wait = min(2*wait, 50*time.Millisecond)
			continue
		case <-d.dial.Done():
		}
		unix.Close(fd)
		return nil, d.timeout("many clients wait for it")
	}
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// connectData connects to the data socket that the switch has named.
func connectData(fd, ctl int, name string) error {
	err := connectOwned(fd, ctl, name, false)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errNotOwned):
		return fmt.Errorf("the switch's data socket %q: %w", name, err)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.EPERM):
		// Another client's socket may have the name by now.
		return fmt.Errorf("reaching the switch's data socket %q: %w (the switch has closed it at once; vde_switch 2.3.2 does so, until it is started again, if other programs have come and gone at the same moment)",
			name, os.NewSyscallError("connect", err))
	}
	return fmt.Errorf("reaching the switch's data socket %q: %w", name, os.NewSyscallError("connect", err))
}

var errNotOwned = fmt.Errorf("it does not belong to the user at the other end of the control connection: %w", unix.EPERM)

// connectOwned connects fd to the socket that the peer of a control connection has
// named. It must belong to the peer, which could otherwise make this process write to
// sockets that the peer may not write to. Root and this user may; their sockets are checked
// only if always is set, for directories in which others may replace a socket.
func connectOwned(fd, ctl int, name string, always bool) error {
	peer, err := unix.GetsockoptUcred(ctl, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return err
	}
	trusted := peer.Uid == 0 || int(peer.Uid) == os.Geteuid()
	if name[0] == '@' { // abstract names have no owner
		if !trusted {
			return errNotOwned
		}
		return connectUnix(fd, name)
	}
	if trusted && !always {
		return connectUnix(fd, name)
	}
	file, st, err := sockio.OpenSocket(name)
	if err != nil {
		return err
	}
	defer unix.Close(file)
	if st.Uid != peer.Uid {
		return errNotOwned
	}
	// Connect to the file that was checked.
	err = connectUnix(fd, fmt.Sprintf("/proc/self/fd/%d", file))
	if trusted && err == unix.ENOENT { // no /proc, and no other way
		err = connectUnix(fd, name)
	}
	return err
}

// connectUnix connects to a local socket. Package syscall allows abstract names of the
// full length, package unix does not.
func connectUnix(fd int, name string) error {
	for {
		err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: name})
		if err != syscall.EINTR {
			return err
		}
	}
}

// request sends the request in one piece, and returns the switch's address, and the
// descriptor that came with it or -1.
func (d *dialer) request(ctl *os.File, request []byte, path string) (peer string, right int, err error) {
	_, err = ctl.Write(request) // a new connection has room for it
	stop := context.AfterFunc(d.dial, func() { ctl.SetDeadline(time.Unix(1, 0)) })
	reply, right := make([]byte, unixAddrLen), -1
	if err == nil {
		right, err = readRight(ctl, reply)
	}
	if !stop() && err == nil {
		// The deadline passed while the reply arrived: that is too late too.
		err = os.ErrDeadlineExceeded
	}
	if err == nil {
		peer, err = parseReply(reply)
	} else {
		err = d.unanswered(ctl, err, path)
	}
	if err != nil && right >= 0 {
		unix.Close(right)
	}
	return peer, right, err
}

// unanswered explains why there is no reply.
func (d *dialer) unanswered(ctl *os.File, err error, path string) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		if peer, perr := sockio.Peer(ctl); perr == nil {
			if process, stopped := sockio.Process(int(peer.Pid)); stopped {
				return d.timeout("it is " + process)
			}
		}
		return d.timeout("it may be full, or " + d.portTrouble())
	case err == io.EOF || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE):
		return fmt.Errorf("the switch refused the connection: it cannot reach the socket %s, it is full, or %s: %w",
			path, d.portTrouble(), err)
	case err == io.ErrUnexpectedEOF:
		return fmt.Errorf("the switch closed the connection in its answer: %w", err)
	}
	return fmt.Errorf("asking the switch: %w", err)
}

// readRight is like [io.ReadFull], and also returns a descriptor that was sent along, or -1.
func readRight(f *os.File, b []byte) (right int, err error) {
	right = -1
	raw, err := f.SyscallConn()
	if err != nil {
		return right, err
	}
	oob := make([]byte, unix.CmsgLen(4)) // CmsgSpace has room for two
	for n := 0; n < len(b) && err == nil; {
		var got, oobn int
		closed := raw.Read(func(fd uintptr) bool {
			got, oobn, _, _, err = unix.Recvmsg(int(fd), b[n:], oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
			return err != unix.EAGAIN && err != unix.EINTR
		})
		if closed != nil {
			return right, closed
		}
		for _, fd := range sockio.Rights(oob[:max(oobn, 0)]) {
			if right >= 0 {
				unix.Close(right)
			}
			right = fd
		}
		switch {
		case err != nil:
			err = os.NewSyscallError("recvmsg", err)
		case got == 0 && n == 0:
			err = io.EOF
		case got == 0:
			err = io.ErrUnexpectedEOF
		}
		n += got
	}
	return right, err
}

func (d *dialer) portTrouble() string {
	if d.cfg.Port == AnyPort {
		return "its ports may belong to other users"
	}
	return fmt.Sprintf("port %d may not exist or belong to another user", d.cfg.Port)
}

// timeout returns the error of a handshake that has taken too long.
func (d *dialer) timeout(why string) error {
	waited, err := dialTimeout, d.ctx.Err()
	switch deadline, ok := d.ctx.Deadline(); {
	case errors.Is(err, context.Canceled):
		return err
	case err == nil:
		err = os.ErrDeadlineExceeded
	case ok:
		waited = deadline.Sub(d.start).Round(100 * time.Millisecond)
	}
	return fmt.Errorf("the switch did not answer within %v: %s: %w", waited, why, err)
}

// explainConnect says what is wrong with the control socket of a switch.
func explainConnect(path string, err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("no switch there: %s does not exist: %w", path, err)
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("no switch there: stale socket %s, the switch that made it is gone: %w", path, err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("no permission: %s: %w", whoMay(path), err)
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%s is not the directory of a switch: %w", filepath.Dir(path), err)
	case errors.Is(err, unix.EPROTOTYPE):
		return fmt.Errorf("%s is not the control socket of a switch: %w", path, err)
	case errors.Is(err, unix.ENAMETOOLONG):
		return fmt.Errorf("the path %s has %d bytes, a socket address has room for %d: use a shorter one (a link does not help): %w",
			path, len(path), maxUnixPath, err)
	}
	return fmt.Errorf("connecting to %s: %w", path, err)
}

// whoMay describes the first part of a path for which this user has no permission.
func whoMay(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	for i := 1; i <= len(path); i++ {
		if i < len(path) && path[i] != '/' {
			continue
		}
		need := uint32(unix.X_OK)
		if i == len(path) {
			need = unix.W_OK
		}
		part := path[:i]
		if unix.Faccessat(unix.AT_FDCWD, part, need, unix.AT_EACCESS) == nil {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(part, &st) != nil {
			return part
		}
		return fmt.Sprintf("%s has mode %04o and owner %d:%d, this is user %d group %d (see the options -m, -g and --dirmode of vde_switch)",
			part, st.Mode&0o7777, st.Uid, st.Gid, os.Geteuid(), os.Getegid())
	}
	return path
}
