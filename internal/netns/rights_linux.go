//go:build amd64 || arm64

package netns

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// first is the origin of the first helper.
var first atomic.Pointer[origin]

// An origin says who has the capabilities over namespaces: the user who made their user
// namespace, and those with the capabilities over that of the process.
type origin struct {
	owner   int
	entered bool   // there is a user namespace
	caps    capSet // of its maker: CAP_NET_ADMIN and CAP_SYS_ADMIN
}

func originNow(entered bool) origin {
	return origin{unix.Geteuid(), entered, effective() & capsOf(unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN)}
}

// has reports whether the calling thread has the capabilities over the namespaces.
func (o *origin) has() bool {
	euid := unix.Geteuid()
	return o.entered && euid == o.owner || o.givenUp(euid, effective()) == ""
}

// givenUp says what a thread with the user id and capabilities has given up; "" if
// nothing.
func (o *origin) givenUp(euid int, caps capSet) string {
	switch {
	case !o.entered && caps&o.caps != o.caps:
		return "the program has given up the capabilities with which it made the first stack: give them up before that, or keep CAP_NET_ADMIN and CAP_SYS_ADMIN"
	case o.entered && euid != o.owner && caps&capsOf(unix.CAP_NET_ADMIN) == 0:
		return fmt.Sprintf("user %d made the first stack and has the capabilities over it, the program has become user %d: change the user before the first stack is made, or keep it",
			o.owner, euid)
	}
	return ""
}

// effective returns the effective capabilities of the calling thread, without /proc,
// which may be missing.
func effective() capSet {
	s, _, _ := capget()
	return s
}

func capget() (effective, permitted, inheritable capSet) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	unix.RawSyscall(unix.SYS_CAPGET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&data[0])), 0)
	runtime.KeepAlive(&hdr)
	for i, d := range data {
		effective |= capSet(d.Effective) << (32 * i)
		permitted |= capSet(d.Permitted) << (32 * i)
		inheritable |= capSet(d.Inheritable) << (32 * i)
	}
	return effective, permitted, inheritable
}

// GivenUp says that the program has given up its capabilities over stacks since the
// first was made, and what to do; "" if it has not. It explains refusals.
func GivenUp() string {
	if o := first.Load(); o != nil {
		return o.givenUp(unix.Geteuid(), effective())
	}
	return ""
}
