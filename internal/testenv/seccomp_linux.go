package testenv

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Rule of a seccomp filter gives a system call an error.
type Rule struct {
	Call uint32
	// The rule applies if one of the bits of Mask is set in argument number Arg; with
	// Equal, if the argument equals Mask. Mask 0 without Equal applies always.
	Arg   uint32
	Mask  uint32
	Equal bool
	Err   unix.Errno
}

// Refuse installs a seccomp filter for all threads of the process, as container programs
// do. It cannot be removed. Refuse sets no_new_privs, without which only root may do it.
func Refuse(rules ...Rule) error {
	const loadWord = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	const number, args = 0, 16 // of struct seccomp_data; 8 bytes an argument
	var filter []unix.SockFilter
	for _, r := range rules {
		test := uint16(unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K)
		switch {
		case r.Equal:
			test = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		case r.Mask == 0:
			test = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K // any is not below 0
		}
		filter = append(filter,
			unix.SockFilter{Code: loadWord, K: number},
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: r.Call, Jf: 3},
			unix.SockFilter{Code: loadWord, K: args + 8*r.Arg}, // the low half
			unix.SockFilter{Code: test, K: r.Mask, Jf: 1},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(r.Err)})
	}
	filter = append(filter, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	runtime.LockOSThread() // no_new_privs is set for this thread; TSYNC copies it to all
	defer runtime.UnlockOSThread()
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl: %w", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}
