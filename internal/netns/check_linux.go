//go:build amd64 || arm64

package netns

import (
	"fmt"
	"os"
	"unsafe"

	"github.com/vdestack/vdestack/internal/rlimit"
	"golang.org/x/sys/unix"
)

var rootDir, noDevice, tmpfs, someName = []byte("/\x00"), []byte("none\x00"), []byte("tmpfs\x00"), []byte("x")

// Try makes a helper with a user namespace of its own, as an isolated stack has it, and in
// that a network namespace. There it tries what commands may have: a mount namespace, for
// files of their own, and a name of the machine. Then it ends all of that. It returns what
// the kernel refuses.
func Try() (user, mounts, hostname error) {
	h, user := isolatedHelper()
	if user == nil {
		defer h.release()
		user = explainMount(h.try(call{nr: unix.SYS_UNSHARE, args: [6]uintptr{unix.CLONE_NEWNET}}))
	} else {
		helpers.mu.Lock()
		defer helpers.mu.Unlock()
		var err error
		if h, err = startHelper(unix.CLONE_NEWNET); err != nil {
			return user, user, user // there are no capabilities either
		}
		defer h.stop()
	}
	mounts = explainMount(h.try(
		call{nr: unix.SYS_UNSHARE, args: [6]uintptr{unix.CLONE_NEWNS}},
		call{nr: unix.SYS_MOUNT, args: [6]uintptr{uintptr(unsafe.Pointer(&noDevice[0])), uintptr(unsafe.Pointer(&rootDir[0])), 0, unix.MS_REC | unix.MS_PRIVATE}},
		call{nr: unix.SYS_MOUNT, args: [6]uintptr{uintptr(unsafe.Pointer(&noDevice[0])), uintptr(unsafe.Pointer(&rootDir[0])), uintptr(unsafe.Pointer(&tmpfs[0])), coverFlags}}))
	hostname = explainUTS(h.try(
		call{nr: unix.SYS_UNSHARE, args: [6]uintptr{unix.CLONE_NEWUTS}},
		call{nr: unix.SYS_SETHOSTNAME, args: [6]uintptr{uintptr(unsafe.Pointer(&someName[0])), uintptr(len(someName))}}))
	return user, mounts, hostname
}

// try has the helper make calls, up to the first that fails, and leaves it where that leads.
func (h *helper) try(calls ...call) error {
	r := newRequest(nil)
	defer r.free()
	r.enter = false
	r.calls = append(r.calls, calls...)
	h.do(r)
	for i, c := range calls {
		if _, err := r.result(i); err != nil {
			return os.NewSyscallError(callNames[c.nr], err)
		}
	}
	return nil
}

// Limits says what the limits are that stacks may reach.
func Limits() string {
	text := amount(softLimit(unix.RLIMIT_NOFILE)) + " descriptors"
	if rlimit.Known && rlimit.Nofile[0] != softLimit(unix.RLIMIT_NOFILE) {
		text += fmt.Sprintf(" (%s for commands)", amount(rlimit.Nofile[0]))
	}
	text += ", " + amount(softLimit(unix.RLIMIT_NPROC)) + " processes and threads"
	for _, kind := range []string{"user", "net"} {
		if n := sysctl("user.max_" + kind + "_namespaces"); n != "" {
			text += ", user.max_" + kind + "_namespaces=" + n
		}
	}
	return text
}
