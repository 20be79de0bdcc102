//go:build amd64 || arm64

package netns

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// helpers are the helper tasks of the process. Most programs have the first only; the
// others are for namespaces that the process did not make.
var helpers = struct {
	mu  sync.Mutex // guards all; held while a helper is made
	own *helper    // makes namespaces
	// plain is in the process's own user namespace, which takes CAP_SYS_ADMIN. Both stay
	// when they are not used.
	plain *helper
	// in has the helpers by their user namespaces, also those in the user namespaces of
	// other processes. A task cannot be in two of them.
	in map[nsID]*helper
}{in: make(map[nsID]*helper)}

// theHelper returns the helper that makes namespaces. It is made at the first call,
// after it was killed, and after the process has become another user, who could not
// configure the namespaces of the old one. It has a user namespace, unless there are
// none and the process has CAP_SYS_ADMIN. The caller releases it.
func theHelper() (*helper, error) {
	helpers.mu.Lock()
	defer helpers.mu.Unlock()
	drop(&helpers.own)
	if h := helpers.own; h != nil && h.has() {
		h.users++
		return h, nil
	}
	if err := startPoller(); err != nil {
		return nil, err
	}
	h, err := startHelper(unix.CLONE_NEWUSER | unix.CLONE_NEWNET)
	if err != nil && !atLimit(err) {
		switch plain, perr := thePlain(); {
		case perr == nil:
			h, err = plain, nil
		case errors.Is(err, unix.EPERM) && !errors.Is(perr, unix.EPERM):
			// The program needs no user namespace: it is something else that it lacks.
			return nil, fmt.Errorf("making a network namespace: %w", Refused(perr))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("making a user namespace: %w", explain(err))
	}
	old := helpers.own
	helpers.own = h
	use(h)
	if old != nil && old.unused() {
		old.stop()
	}
	first.CompareAndSwap(nil, &h.origin)
	return h, nil
}

// hasHelper reports whether theHelper makes none.
func hasHelper() bool {
	helpers.mu.Lock()
	defer helpers.mu.Unlock()
	h := helpers.own
	return h != nil && !h.calls.lost() && h.has()
}

// isolatedHelper makes a helper for one namespace, in a user namespace beside the others:
// capabilities in one are worth nothing in another. The caller releases it.
func isolatedHelper() (*helper, error) {
	helpers.mu.Lock()
	defer helpers.mu.Unlock()
	if err := startPoller(); err != nil {
		return nil, err
	}
	h, err := startHelper(unix.CLONE_NEWUSER | unix.CLONE_NEWNET)
	if err != nil {
		return nil, fmt.Errorf("isolating takes a user namespace: making it: %w", explain(err))
	}
	use(h)
	return h, nil
}

// thePlain returns the helper without a user namespace. helpers.mu is held.
func thePlain() (*helper, error) {
	drop(&helpers.plain)
	switch h := helpers.plain; {
	case h == nil:
		h, err := startHelper(unix.CLONE_NEWNET)
		if err != nil {
			return nil, err
		}
		helpers.plain = h
	case !h.has(): // it has capabilities that the program has given up
		return nil, unix.EPERM
	}
	return helpers.plain, nil
}

// drop forgets a helper that was killed. helpers.mu is held.
func drop(kept **helper) {
	if h := *kept; h != nil && h.calls.lost() {
		*kept = nil
		if h.unused() {
			h.stop()
		}
	}
}

// unused reports whether a helper neither stays nor has users. It then cannot be found
// any more, and is to be stopped. helpers.mu is held.
func (h *helper) unused() bool {
	if h.users > 0 || h == helpers.own || h == helpers.plain {
		return false
	}
	if helpers.in[h.user] == h {
		delete(helpers.in, h.user)
	}
	return true
}

// use counts a user of a helper. helpers.mu is held.
func use(h *helper) {
	h.users++
	helpers.in[h.user] = h
}

// release ends a use of a helper. A helper that does not stay ends with its last user:
// it would keep its user namespace alive, and a program may meet many.
func (h *helper) release() {
	helpers.mu.Lock()
	h.users--
	last := h.unused()
	helpers.mu.Unlock()
	if last {
		h.stop()
	}
}

// startPoller makes sure that the runtime has its poller, which it makes for the first
// socket or the like: it crashes the program if the limit of descriptors does not allow
// that.
func startPoller() error {
	var fds [3]int // the poller's two, and one for it to poll
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

// helperFor returns a helper that can enter a network namespace of any origin. The
// caller releases it.
func helperFor(ns int) (*helper, error) {
	if !isNetNS(ns) {
		return nil, errNoNetNS
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
	if h := helpers.in[id]; h != nil && !h.calls.lost() && (h.entered || h.has()) {
		h.users++
		return h, nil
	}
	if err := startPoller(); err != nil {
		return nil, err
	}
	h, err := thePlain()
	if err == nil {
		use(h)
		return h, nil
	}
	if !errors.Is(err, unix.EPERM) {
		return nil, Refused(err)
	}
	if here, err := ownUser(); err == nil && id == here {
		return nil, fmt.Errorf("it belongs to the process's own user namespace, not to one made by this user: that takes CAP_SYS_ADMIN: %w", unix.EPERM)
	}
	// The task has all capabilities in there, and makes its base.
	h, err = startHelper(0,
		call{nr: unix.SYS_SETNS, args: [6]uintptr{uintptr(user), unix.CLONE_NEWUSER}},
		call{nr: unix.SYS_UNSHARE, args: [6]uintptr{unix.CLONE_NEWNET}})
	if errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("entering the user namespace that it belongs to: %w (it must be one of the same user)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("entering the user namespace that it belongs to: %w", Refused(err))
	}
	use(h)
	return h, nil
}

// An nsID identifies a namespace that is alive.
type nsID struct{ dev, ino uint64 }

// Of linux/nsfs.h.
const (
	nsGetUserNS   = 0xb701
	nsGetParent   = 0xb702
	nsGetNSType   = 0xb703
	nsGetOwnerUID = 0xb704
)

func isNetNS(fd int) bool {
	typ, err := unix.IoctlRetInt(fd, nsGetNSType)
	return err == nil && typ == unix.CLONE_NEWNET
}

// ownUser returns the user namespace of the process.
func ownUser() (nsID, error) {
	const path = "/proc/self/ns/user"
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nsID{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return nsID{st.Dev, st.Ino}, nil
}

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
