package vdeplug

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// ptpSecond is what the second opener adds to the path.
	ptpSecond = "+"
	// ptpMaxPath is the longest path of which both names fit in a socket
	// address.
	ptpMaxPath = 107 - len(ptpSecond)
	// ptpLook is how often an end looks for its peer.
	ptpLook = 200 * time.Millisecond
)

func init() { Register("ptp", openPTP) }

// openPTP connects two ends with each other through a pair of datagram
// sockets, as vdeplug 4.0.1 does. Who comes first has the name path, who comes
// second path+. All of the body is the path.
func openPTP(_ context.Context, l Locator, _ *Options) (Conn, error) {
	if l.Body() == "" {
		return nil, errors.New("no path given")
	}
	path, err := filepath.Abs(l.Body()) // the process may go elsewhere
	if err != nil {
		return nil, err
	}
	if len(path) > ptpMaxPath {
		return nil, fmt.Errorf("path %q has %d bytes, a socket's path at most %d", path, len(path), ptpMaxPath)
	}
	p, fd, err := takePTP(path)
	if err != nil {
		return nil, err
	}
	file, err := newPollFile(fd, "ptp")
	if err != nil {
		p.unlink()
		return nil, err
	}
	return newPTPConn(l.String(), file, p), nil
}

// takePTP takes one of the two roles and returns a socket that is bound to its
// name, and connected to the other if there is one.
func takePTP(path string) (*ptpPeer, int, error) {
	// Others may take and leave the names meanwhile; not for ever.
	for range 10 {
		p := &ptpPeer{own: path, other: unix.SockaddrUnix{Name: path + ptpSecond}}
		used, err := inUse(path)
		if err != nil {
			return nil, -1, err
		}
		if used {
			p = &ptpPeer{own: path + ptpSecond, other: unix.SockaddrUnix{Name: path}}
			if used, err = inUse(p.own); err != nil {
				return nil, -1, err
			}
			if used {
				return nil, -1, fmt.Errorf("%s already has two ends: %w", path, unix.EADDRINUSE)
			}
		}
		fd, err := p.bind()
		if err == nil {
			p.look(fd)
			return p, fd, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, -1, err
		}
	}
	return nil, -1, fmt.Errorf("%s: others open and close it all the time: %w", path, unix.EADDRINUSE)
}

// inUse reports whether a datagram socket with the name path is alive. It
// removes a dead one, which a killed process has left.
func inUse(path string) (bool, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return false, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	switch err {
	case nil, unix.EPERM: // EPERM: it talks to another
		return true, nil
	case unix.ENOENT:
		return false, nil
	case unix.EPROTOTYPE:
		return false, fmt.Errorf("%s is a socket of another kind (later versions of vdeplug have such): %w", path, err)
	case unix.ECONNREFUSED:
		info, err := os.Lstat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return false, nil
		case err != nil:
			return false, err
		case info.Mode().Type() != fs.ModeSocket:
			return false, fmt.Errorf("%s exists and is no socket", path)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, fmt.Errorf("removing a dead socket: %w", err)
		}
		return false, nil
	}
	return false, fmt.Errorf("%s: %w", path, os.NewSyscallError("connect", err))
}

// A ptpPeer is one role in a pair.
type ptpPeer struct {
	own      string
	dev, ino uint64 // of own

	mu        sync.Mutex // guards connecting
	other     unix.SockaddrUnix
	connected bool // to the peer, as far as this end knows
}

// bind makes a socket with the name own.
func (p *ptpPeer) bind() (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	growBuffers(fd)
	// The name gets the mode of the socket, so that there is no moment in
	// which others may write to it.
	err = os.NewSyscallError("fchmod", unix.Fchmod(fd, 0o700))
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrUnix{Name: p.own}))
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("%s: %w", p.own, err)
	}
	p.dev, p.ino = inode(p.own)
	return fd, nil
}

// unlink removes the name own, unless it has become that of another.
func (p *ptpPeer) unlink() {
	if dev, ino := inode(p.own); dev == p.dev && ino == p.ino {
		unix.Unlink(p.own)
	}
}

func inode(path string) (dev, ino uint64) {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return 0, 0
	}
	return uint64(st.Dev), st.Ino
}

// connect connects the socket to who has the other name now. If that is the
// peer it has, nothing changes.
func (p *ptpPeer) connect(fd int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.connectLocked(fd)
}

func (p *ptpPeer) connectLocked(fd int) error {
	err := unix.Connect(fd, &p.other)
	p.connected = err == nil
	return err
}

// look connects the socket to a peer that has come, and lets one go that is
// dead: as long as an end is connected, the kernel lets no other write to it,
// and an opener of the C library gives up. An end that sends finds that out by
// itself.
func (p *ptpPeer) look(fd int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.connectLocked(fd); err == unix.ENOENT || err == unix.ECONNREFUSED {
		// To a dead one this fails and disconnects. One that lives must not get
		// an empty datagram: vdens 0.2 takes it for the end of the network.
		unix.Send(fd, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	}
}

func (p *ptpPeer) reconnect(fd int, _ error) bool { return p.connect(fd) == nil }

func (p *ptpPeer) empty(fd int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// Connecting to the peer it has changes nothing; letting go of it would
	// throw away the frames that wait.
	if p.connectLocked(fd) != nil {
		disconnect(fd)
	}
}

// A ptpConn is one end of a pair.
type ptpConn struct {
	datagramConn
	role *ptpPeer
	stop chan struct{} // closed by Close
	done chan struct{} // closed when watch has ended
}

var (
	_ Conn    = (*ptpConn)(nil)
	_ Dropper = (*ptpConn)(nil)
)

func newPTPConn(vnl string, file pollFile, p *ptpPeer) *ptpConn {
	c := &ptpConn{
		datagramConn: datagramConn{vnl: vnl, file: file, peer: p},
		role:         p,
		stop:         make(chan struct{}),
		done:         make(chan struct{}),
	}
	go c.watch()
	return c
}

// watch looks for the peer now and then.
func (c *ptpConn) watch() {
	defer close(c.done)
	tick := time.NewTicker(ptpLook)
	defer tick.Stop()
	look := func(fd uintptr) { c.role.look(int(fd)) }
	for {
		select {
		case <-c.stop:
			return
		case <-tick.C:
			c.file.raw.Control(look)
		}
	}
}

// Close removes the name of the socket.
func (c *ptpConn) Close() error {
	c.closeOnce.Do(func() {
		c.closing.Store(true)
		close(c.stop)
		<-c.done
		c.role.unlink()
		c.file.close()
	})
	return nil
}
