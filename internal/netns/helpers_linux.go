//go:build amd64 || arm64

package netns

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// helpers are the helper tasks of the process. Most have the first only; the
// others enter namespaces that are not of the process's making.
var helpers struct {
	mu  sync.Mutex // guards all; held while a helper is made
	own *helper    // makes namespaces
	// plain is in the process's own user namespace, which takes CAP_SYS_ADMIN.
	plain *helper
	// foreign are in the user namespaces of other processes, as long as they
	// have users. Nobody can enter two of them.
	foreign map[nsID]*foreign
}

type foreign struct {
	*helper
	users int
}

// theHelper returns the helper that makes namespaces, made at the first call. A
// user namespace is asked for first; a process with CAP_SYS_ADMIN does without.
func theHelper() (*helper, error) {
	helpers.mu.Lock()
	defer helpers.mu.Unlock()
	if helpers.own != nil {
		return helpers.own, nil
	}
	if err := startPoller(); err != nil {
		return nil, err
	}
	h, err := startHelper(unix.CLONE_NEWUSER | unix.CLONE_NEWNET)
	if err != nil && !atLimit(err) {
		if plain, perr := startHelper(unix.CLONE_NEWNET); perr == nil {
			h, err = plain, nil
			helpers.plain = plain
		}
	}
	if err != nil {
		return nil, fmt.Errorf("making a user namespace: %w", explain(err))
	}
	helpers.own = h
	return h, nil
}

// startPoller makes sure that the runtime has its poller, which it makes when it
// first meets a socket or the like; it crashes the program where the limit of
// descriptors does not allow that.
func startPoller() error {
	var fds [3]int // the poller's two, and the one that it meets
	for i := range fds {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			for _, fd := range fds[:i] {
				unix.Close(fd)
			}
			return Limited(os.NewSyscallError("eventfd", err))
		}
		fds[i] = fd
	}
	unix.Close(fds[1])
	unix.Close(fds[2])
	return os.NewFile(uintptr(fds[0]), "eventfd").Close()
}

// atLimit reports an error that has nothing to do with what was tried.
func atLimit(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)
}

// helperFor returns the helper that can enter a network namespace of any origin.
// It is given back by release.
func helperFor(ns int) (*helper, error) {
	if typ, err := unix.IoctlRetInt(ns, nsGetNSType); err != nil || typ != unix.CLONE_NEWNET {
		return nil, errors.New("it is no network namespace")
	}
	user, err := ownerOf(ns)
	if err == unix.EPERM {
		return nil, fmt.Errorf("it belongs to a user namespace that the process is not in, that of another user or container; CAP_SYS_ADMIN opens those below: %w", err)
	}
	if err != nil {
		return nil, Limited(os.NewSyscallError("ioctl NS_GET_USERNS", err))
	}
	defer unix.Close(user)
	id, err := idOf(user)
	if err != nil {
		return nil, err
	}

	helpers.mu.Lock()
	defer helpers.mu.Unlock()
	if h := helpers.own; h != nil && h.user == id {
		return h, nil
	}
	if f := helpers.foreign[id]; f != nil {
		f.users++
		return f.helper, nil
	}
	if err := startPoller(); err != nil {
		return nil, err
	}
	if helpers.plain == nil {
		h, err := startHelper(unix.CLONE_NEWNET)
		switch {
		case err == nil:
			helpers.plain = h
		case !errors.Is(err, unix.EPERM):
			return nil, Refused(err)
		}
	}
	if helpers.plain != nil {
		return helpers.plain, nil
	}
	var own unix.Stat_t
	if err := unix.Stat("/proc/self/ns/user", &own); err == nil && id == (nsID{own.Dev, own.Ino}) {
		return nil, fmt.Errorf("it belongs to the process's own user namespace, not to one made by this user: that takes CAP_SYS_ADMIN: %w", unix.EPERM)
	}
	// The task has all capabilities in there, and makes itself a home.
	h, err := startHelper(0,
		call{nr: unix.SYS_SETNS, args: [6]uintptr{uintptr(user), unix.CLONE_NEWUSER}},
		call{nr: unix.SYS_UNSHARE, args: [6]uintptr{unix.CLONE_NEWNET}})
	if errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("entering the user namespace that it belongs to: %w (it must be one of the same user)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("entering the user namespace that it belongs to: %w", Refused(err))
	}
	if helpers.foreign == nil {
		helpers.foreign = make(map[nsID]*foreign)
	}
	helpers.foreign[id] = &foreign{helper: h, users: 1}
	return h, nil
}

// release gives a helper back. One in a foreign user namespace ends with its
// last user: it would keep that alive, and programs can meet many.
func (h *helper) release() {
	helpers.mu.Lock()
	f := helpers.foreign[h.user]
	if f == nil || f.helper != h {
		helpers.mu.Unlock()
		return
	}
	f.users--
	last := f.users == 0
	if last {
		delete(helpers.foreign, h.user)
	}
	helpers.mu.Unlock()
	if last {
		h.stop()
	}
}

// An nsID identifies a namespace that is alive.
type nsID struct{ dev, ino uint64 }

// Of linux/nsfs.h.
const (
	nsGetUserNS = 0xb701
	nsGetNSType = 0xb703
)

func ownerOf(ns int) (user int, err error) { return unix.IoctlRetInt(ns, nsGetUserNS) }

func idOf(ns int) (nsID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(ns, &st); err != nil {
		return nsID{}, os.NewSyscallError("fstat", err)
	}
	return nsID{st.Dev, st.Ino}, nil
}

// ownerID returns which user namespace a network namespace belongs to.
func ownerID(ns int) (nsID, error) {
	user, err := ownerOf(ns)
	if err != nil {
		return nsID{}, os.NewSyscallError("ioctl NS_GET_USERNS", err)
	}
	defer unix.Close(user)
	return idOf(user)
}
