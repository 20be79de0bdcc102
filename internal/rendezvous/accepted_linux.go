package rendezvous

import (
	"container/list"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// accepted has the connections to the members of this process that serve. They may take a
// quarter of its descriptors. The oldest one on which nobody has asked for the
// descriptor gives way to the next.
var accepted connections

type connections struct {
	mu     sync.Mutex // guards the rest
	count  int
	silent list.List // of *net.UnixConn, nobody has asked, the oldest first
}

// add returns the place of a connection, nil if there is none.
func (cs *connections) add(c *net.UnixConn) *list.Element {
	var gone *net.UnixConn
	defer func() { closeSilent(gone) }() // without the lock
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.count >= maxConnections() {
		if gone = cs.takeSilent(); gone == nil {
			return nil
		}
	}
	cs.count++
	return cs.silent.PushBack(c)
}

// hear waits until the newcomer asks. It returns false if the connection ends before.
func (cs *connections) hear(c *net.UnixConn, place *list.Element) (asked bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	raw.Read(func(fd uintptr) bool {
		cs.mu.Lock() // takeSilent looks for what is read here
		defer cs.mu.Unlock()
		n, err := unix.Read(int(fd), []byte{0})
		if asked = n > 0; asked {
			cs.silent.Remove(place)
		}
		return err != unix.EAGAIN && err != unix.EINTR
	})
	return asked
}

func (cs *connections) remove(place *list.Element) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.silent.Remove(place)
	cs.count--
}

// dropSilent closes the oldest connection on which nobody has asked, if there is one.
func (cs *connections) dropSilent() {
	cs.mu.Lock()
	c := cs.takeSilent()
	cs.mu.Unlock()
	closeSilent(c)
}

// closeSilent closes a connection, if there is one. It waits for hear, which waits for the
// lock.
func closeSilent(c *net.UnixConn) {
	if c != nil {
		c.Close()
	}
}

func (cs *connections) takeSilent() *net.UnixConn {
	for first := cs.silent.Front(); first != nil; first = cs.silent.Front() {
		if c := cs.silent.Remove(first).(*net.UnixConn); !asks(c) {
			return c
		}
	}
	return nil
}

// asks reports whether there is something to read.
func asks(c *net.UnixConn) (yes bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	raw.Control(func(fd uintptr) {
		n, _, err := unix.Recvfrom(int(fd), []byte{0}, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		yes = err == nil && n > 0
	})
	return yes
}

func maxConnections() int {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return 256
	}
	return int(min(max(l.Cur/4, 4), 1<<20))
}
