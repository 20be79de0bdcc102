//go:build amd64 || arm64

package netns

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A capSet is a set of capabilities.
type capSet uint64

func capsOf(list ...int) (s capSet) {
	for _, c := range list {
		s |= 1 << c
	}
	return s
}

// commandCaps are the capabilities of commands, over their namespace only: with
// them, ip, ping and their like work for an ordinary user.
var commandCaps = capsOf(unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_BROADCAST)

// withheldCaps are those that no command has: root's commands could read the program's
// memory, through the helper that shares it.
var withheldCaps = capsOf(unix.CAP_SYS_PTRACE)

// enterCaps are needed between entering a user namespace and the exec.
var enterCaps = capsOf(unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP)

// creds are what a thread may do, see capabilities(7).
type creds struct {
	euid                                                 int
	effective, permitted, inheritable, ambient, bounding capSet
	last                                                 int // the last capability that the kernel knows
	securebits                                           int
	noNewPrivs                                           bool
	err                                                  error // why they are unknown
}

// threadCreds reads the credentials of the calling thread, without /proc, which may be
// missing after a chroot.
func threadCreds() (c creds) {
	c.euid = unix.Geteuid()
	c.effective, c.permitted, c.inheritable = capget()
	get := func(option, arg2, arg3 int) int {
		v, _, errno := unix.RawSyscall6(unix.SYS_PRCTL, uintptr(option), uintptr(arg2), uintptr(arg3), 0, 0, 0)
		// It is EINVAL beyond the last capability; a seccomp filter may forbid all.
		if errno != 0 && (errno != unix.EINVAL || option != unix.PR_CAPBSET_READ || arg2 == 0) && c.err == nil {
			c.err = os.NewSyscallError("prctl", errno)
		}
		if errno != 0 {
			return -1
		}
		return int(v)
	}
	for i := range 64 {
		has := get(unix.PR_CAPBSET_READ, i, 0)
		if has < 0 {
			break
		}
		c.last = i
		if has == 1 {
			c.bounding |= 1 << i
		}
	}
	for i := range 64 {
		// The ambient set is a subset of both.
		if c.permitted&c.inheritable&(1<<i) != 0 && get(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_IS_SET, i) == 1 {
			c.ambient |= 1 << i
		}
	}
	c.securebits = get(unix.PR_GET_SECUREBITS, 0, 0)
	c.noNewPrivs = get(unix.PR_GET_NO_NEW_PRIVS, 0, 0) == 1
	return c
}

// enter has the command enter the namespaces, to have more capabilities there; user is -1 if
// the program is in the user namespace of the stack. Entering another one gives all capabilities, in all sets:
// they are reduced so that, until the exec, the command has the program's own rights
// over files.
func (p *plan) enter(user, net int, c *creds, more capSet) {
	if user >= 0 {
		p.add("setns", unix.SYS_SETNS, uintptr(user), unix.CLONE_NEWUSER)
	}
	p.add("setns", unix.SYS_SETNS, uintptr(net), unix.CLONE_NEWNET)
	if user >= 0 {
		p.capset("capset", c.effective|more|enterCaps, ^capSet(0), c.inheritable|more)
	} else {
		p.capset("", c.effective, c.permitted, c.inheritable|more&c.inheritables())
	}
}

// inheritables are the capabilities that the thread may pass on in its own user
// namespace.
func (c *creds) inheritables() capSet { return c.permitted & (c.bounding | c.inheritable) }

// confine leaves the command the capabilities of the thread that starts it, and more over
// the stack only. If the program is in the user namespace of the
// stack, they would cover more than the stack, and are passed on only if the program
// has them; errors do not matter there.
func (p *plan) confine(entered bool, c *creds, more capSet) {
	had := ^capSet(0)
	name := func(what string) string { return what }
	if !entered {
		more, had = more&c.inheritables(), c.bounding
		name = func(string) string { return "" }
	}
	bounding := (c.bounding | more) &^ withheldCaps
	ambient := (c.ambient | more) &^ withheldCaps
	inheritable := (c.inheritable | more) &^ withheldCaps
	permitted := c.permitted | more
	for i := range c.last + 1 {
		bit := capSet(1) << i
		if had&^bounding&bit != 0 {
			p.add(name("prctl PR_CAPBSET_DROP"), unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(i))
		}
		if ambient&bit != 0 {
			p.add(name("prctl PR_CAP_AMBIENT_RAISE"), unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(i))
		}
	}
	if entered {
		p.add("prctl PR_SET_SECUREBITS", unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, uintptr(c.securebits))
		// Until the exec the command has the program's memory. Only a process with all
		// its capabilities could trace it: with this one, no other command can. The
		// exec drops it, as it is in no other set.
		permitted |= withheldCaps
		if !c.noNewPrivs {
			// As root's exec gives: a process whose permitted set grows in exec loses
			// its parent-death signal. With no_new_privs it does not grow.
			permitted |= bounding | inheritable
		}
	}
	p.capset(name("capset"), c.effective&permitted&^withheldCaps|more, permitted, inheritable)
}

func (p *plan) capset(what string, effective, permitted, inheritable capSet) {
	data := new([2]unix.CapUserData)
	for i := range data {
		data[i] = unix.CapUserData{
			Effective:   uint32(effective >> (32 * i)),
			Permitted:   uint32(permitted >> (32 * i)),
			Inheritable: uint32(inheritable >> (32 * i)),
		}
	}
	p.add(what, unix.SYS_CAPSET, pointer(p, &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}), pointer(p, &data[0]))
}

// admit refuses a thread that the kernel does not let into the namespaces, and another
// user. With CAP_SYS_ADMIN that one would be let in, but its credentials would grow,
// which makes the memory that the command shares with the program until the exec not
// dumpable.
func (h *helper) admit(c *creds) error {
	switch {
	case c.err != nil:
		return fmt.Errorf("reading the credentials that the command is to have: %w", Refused(c.err))
	case h.entered && c.euid != h.owner:
		return fmt.Errorf("the user namespace of the stack belongs to user %d, and the program has become user %d: %w (change the user before the first stack is made, or after the last command was started)",
			h.owner, c.euid, unix.EPERM)
	case !h.entered && c.effective&capsOf(unix.CAP_SYS_ADMIN) == 0:
		return fmt.Errorf("the program has given up CAP_SYS_ADMIN, which it needs to enter the stack, for there are no user namespaces: %w (give it up before the first stack is made, or after the last command was started)", unix.EPERM)
	}
	return nil
}
