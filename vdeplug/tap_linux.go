package vdeplug

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const tunDevice = "/dev/net/tun"

// tapConn is the network side of a TAP interface.
type tapConn struct {
	dropCounter
	vnl  string
	name string // of the interface
	file pollFile

	closing   atomic.Bool
	closeOnce sync.Once
}

var (
	_ Conn    = (*tapConn)(nil)
	_ Dropper = (*tapConn)(nil)
)

func openTAP(l Locator) (Conn, error) {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, explainTunDevice(err)
	}
	// The ioctl must come first: a descriptor registered with the poller
	// before TUNSETIFF reports an error for ever.
	name, err := attachTAP(fd, l.Body())
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	file, err := newPollFile(fd, "tap "+name)
	if err != nil {
		return nil, err
	}
	return &tapConn{vnl: l.String(), name: name, file: file}, nil
}

// attachTAP makes fd the descriptor of an interface, and returns its name.
func attachTAP(fd int, name string) (string, error) {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return "", fmt.Errorf("interface %q: %w", name, err)
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return "", explainAttach(name, err)
	}
	// An earlier owner of a persistent interface may have allowed frames that
	// are larger than the network's.
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0); err != nil {
		return "", fmt.Errorf("interface %q: %w", name, os.NewSyscallError("ioctl TUNSETOFFLOAD", err))
	}
	return req.Name(), nil
}

func explainTunDevice(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("no %s: load its module (modprobe tun), or pass the device into the container: %w", tunDevice, err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		mode := "not for this user"
		var st unix.Stat_t
		if unix.Stat(tunDevice, &st) == nil {
			mode = fmt.Sprintf("mode %04o, owner %d:%d", st.Mode&0o7777, st.Uid, st.Gid)
		}
		return fmt.Errorf("no access to %s (%s; usual is 0666): %w", tunDevice, mode, err)
	}
	return fmt.Errorf("opening %s: %w", tunDevice, err)
}

func explainAttach(name string, err error) error {
	err = os.NewSyscallError("ioctl TUNSETIFF", err)
	switch {
	case errors.Is(err, unix.EPERM):
		if name == "" {
			name = "tap0"
		}
		return fmt.Errorf("no permission: it takes CAP_NET_ADMIN, or an interface made for this user (ip tuntap add mode tap user %d name %s): %w",
			os.Geteuid(), name, err)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("interface %q is in use by another program: %w", name, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("interface %q is no TAP interface, or one of another kind (multi queue): %w", name, err)
	}
	return fmt.Errorf("interface %q: %w", name, err)
}

func (c *tapConn) Recv(frame []byte) (int, error) {
	n, err := c.file.recv(c, frame)
	return n, c.final("recv", err)
}

func (c *tapConn) final(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case c.closing.Load():
		return net.ErrClosed
	case errors.Is(err, unix.EBADFD):
		err = fmt.Errorf("interface %s was removed: %w", c.name, err)
	case errors.Is(err, net.ErrClosed):
		// Nobody closed it: the poller gives up on a file that has nothing but
		// an error for it. A TAP has that as soon as its interface is gone.
		err = fmt.Errorf("interface %s was removed: %w", c.name, os.NewSyscallError("poll", unix.EBADFD))
	}
	return &Error{op, c.vnl, err}
}

func (c *tapConn) tryRecv(fd int, t *transfer) bool {
	for !c.closing.Load() {
		n, err := t.read(fd)
		switch {
		case err == unix.EAGAIN:
			return false
		case err != nil:
			t.err = os.NewSyscallError("read", err)
			return true
		case n < HeaderLen || n > len(t.frame) || n > MaxFrame:
			c.droppedRecv.Add(1)
		default:
			t.n = n
			return true
		}
	}
	t.err = net.ErrClosed
	return true
}

func (c *tapConn) Send(frame []byte) error {
	return c.final("send", c.file.send(c, frame))
}

func (c *tapConn) trySend(fd int, t *transfer) {
	if len(t.frame) < HeaderLen || len(t.frame) > MaxFrame {
		c.droppedSend.Add(1)
		return
	}
	// Only a removed interface is the end. One that is down (EIO) may come up
	// again; other errors are of the frame.
	switch err := t.write(fd); err {
	case nil:
	case unix.EBADFD:
		t.err = os.NewSyscallError("write", err)
	default:
		c.droppedSend.Add(1)
	}
}

// Close takes the interface away, unless it is persistent.
func (c *tapConn) Close() error {
	c.closeOnce.Do(func() {
		c.closing.Store(true)
		c.file.close()
	})
	return nil
}
