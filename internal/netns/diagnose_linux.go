package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// How the diagnosis asks the system; tests replace these.
var (
	readFile = os.ReadFile
	readLink = os.Readlink
	getpid   = os.Getpid
	geteuid  = os.Geteuid
	// prctl returns the state that an option reads; -1 after an error.
	prctl = func(option int) int {
		v, err := unix.PrctlRetInt(option, 0, 0, 0, 0)
		if err != nil {
			return -1
		}
		return v
	}
	// effectiveCaps returns the effective capabilities of the thread.
	effectiveCaps = func() uint64 {
		var set [2]unix.CapUserData
		unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &set[0])
		return uint64(set[1].Effective)<<32 | uint64(set[0].Effective)
	}
	// softLimit returns a limit of the process.
	softLimit = func(resource int) uint64 {
		var l unix.Rlimit
		if unix.Getrlimit(resource, &l) != nil {
			return unix.RLIM_INFINITY
		}
		return l.Cur
	}
)

// An Explained error has the reason after the text of the kernel: the setting that is in
// the way and, behind a colon, what to do about it. See Cut.
type Explained struct {
	Err     error
	Reason  string
	Refused bool // it is not allowed, or not there; otherwise it was wrong, or see Limit
}

func (e *Explained) Error() string { return e.Err.Error() + " (" + e.Reason + ")" }

func (e *Explained) Unwrap() error { return e.Err }

// Limit reports whether a limit was reached that others may reach and leave.
func (e *Explained) Limit() bool { return isShortage(e.Err) }

// Reached reports whether a limit was reached: one of Limit, or that of namespaces, which an
// administrator sets, and which may be 0.
func (e *Explained) Reached() bool {
	return e.Limit() || errors.Is(e.Err, unix.ENOSPC) || errors.Is(e.Err, unix.EUSERS)
}

// Cut returns the two parts of a reason, or of several with "; or " between them. remedy
// is empty if there is none.
func Cut(reason string) (why, remedy string) {
	var whys, remedies []string
	for each := range strings.SplitSeq(reason, "; or ") {
		if i := strings.LastIndex(each, ": "); i >= 0 {
			remedies = append(remedies, each[i+len(": "):])
			each = each[:i]
		}
		whys = append(whys, each)
	}
	return strings.Join(whys, "; or "), strings.Join(remedies, "; or ")
}

// because explains an error of the kernel, if it is not explained already: by the limit
// that it speaks of, or by what why returns.
func because(err error, why func(unix.Errno) string) error {
	errno, ok := errors.AsType[unix.Errno](err)
	if _, done := errors.AsType[*Explained](err); !ok || done {
		return err
	}
	if text := limit(errno); text != "" {
		return &Explained{err, text, false}
	}
	if text := why(errno); text != "" {
		return &Explained{err, text, isRefusal(errno)}
	}
	return err
}

// isRefusal reports an error that says that something is not allowed, or not there.
func isRefusal(errno unix.Errno) bool {
	return slices.Contains([]unix.Errno{
		unix.EPERM, unix.EACCES, unix.EROFS, unix.ENOSYS, unix.ENOSPC, unix.EUSERS, unix.ENOTTY, unix.ENOPROTOOPT,
		unix.EAFNOSUPPORT, unix.ESOCKTNOSUPPORT, unix.EPROTONOSUPPORT,
	}, errno)
}

// explain says why there is no helper task.
func explain(err error) error {
	why := refusedUser
	if path, ok := errors.AsType[*os.PathError](err); ok && strings.HasPrefix(path.Path, "/proc/") {
		why = func(errno unix.Errno) string { return refusedMap(errno, path.Op) }
	}
	err = because(err, why)
	if e, ok := errors.AsType[*Explained](err); ok && !e.Limit() {
		e.Refused = true // whatever the errno is
	}
	return err
}

// atLimit reports whether a limit of descriptors was reached.
func atLimit(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)
}

// isShortage reports whether an error comes from a limit that others may reach and leave.
func isShortage(err error) bool {
	return atLimit(err) || errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.EAGAIN)
}

// Refused explains an error of an operation that needs a capability over a
// namespace of this package.
func Refused(err error) error { return because(err, refusedUse) }

// Limited explains an error that comes from a limit which any call can reach.
func Limited(err error) error {
	call, _ := errors.AsType[*os.SyscallError](err)
	return because(err, func(errno unix.Errno) string {
		if errno == unix.EAGAIN && call != nil && call.Syscall == "clone" {
			return processes()
		}
		return ""
	})
}

// limit names a limit that any call can reach.
func limit(errno unix.Errno) string {
	switch errno {
	case unix.EMFILE:
		return fmt.Sprintf("the limit of descriptors is %s: close some, or raise it, ulimit -n", amount(softLimit(unix.RLIMIT_NOFILE)))
	case unix.ENFILE:
		return "the limit of the whole system, " + strings.TrimSuffix("fs.file-max="+sysctl("fs.file-max"), "=") + ": the administrator can raise it"
	case unix.ENOMEM:
		return "no memory: the machine's, the container's or that of ulimit -v is used up"
	}
	return ""
}

// processes names the limits of new tasks.
func processes() string {
	return fmt.Sprintf("the limit of processes and threads, ulimit -u, is %s, or pids.max of the container is reached: raise it, or end some",
		amount(softLimit(unix.RLIMIT_NPROC)))
}

func amount(n uint64) string {
	if n == unix.RLIM_INFINITY {
		return "unlimited"
	}
	return strconv.FormatUint(n, 10)
}

// refusedUser says why the kernel makes no user namespace.
func refusedUser(errno unix.Errno) string {
	if errno == unix.EPERM {
		switch {
		case sysctl("kernel.unprivileged_userns_clone") == "0" && !capable(unix.CAP_SYS_ADMIN):
			return "kernel.unprivileged_userns_clone=0 keeps user namespaces to root: sysctl -w kernel.unprivileged_userns_clone=1, or CAP_SYS_ADMIN for the program"
		case chrooted():
			return "the process is in a chroot, where the kernel makes no user namespace: change the root with pivot_root, as containers do" + instead()
		case unmapped(geteuid()):
			return fmt.Sprintf("the user id %d of the process is not in its user namespace, /proc/self/uid_map: map it there", geteuid())
		}
	}
	return refusedUse(errno)
}

// instead is the other remedy where there is no user namespace: what a stack takes without one,
// as far as the program lacks it.
func instead() string {
	lacks := ", or give the program "
	switch admin, net := capable(unix.CAP_SYS_ADMIN), capable(unix.CAP_NET_ADMIN); {
	case admin && net:
		return ""
	case admin:
		return lacks + "CAP_NET_ADMIN"
	case net:
		return lacks + "CAP_SYS_ADMIN"
	}
	return lacks + "CAP_SYS_ADMIN and CAP_NET_ADMIN"
}

// refusedUse says why the kernel makes no network namespace, or does not let
// the owner of one work in it.
func refusedUse(errno unix.Errno) string {
	switch errno {
	case unix.ENOSPC, unix.EUSERS:
		return tooMany("user.max_user_namespaces", "user.max_net_namespaces")
	case unix.EAGAIN:
		return processes()
	case unix.EPERM, unix.EACCES:
		return forbidden(errno)
	case unix.ENOSYS:
		if filtered() {
			return seccompText
		}
		return configText
	case unix.EINVAL:
		return configText
	case unix.ENOTTY, unix.ENOPROTOOPT:
		return "Linux 5.14 or later is needed"
	}
	return ""
}

const (
	seccompText = "a seccomp filter is active and may forbid it: let it allow this call, and clone, unshare, setns, mount and sethostname, " +
		"for a container by its seccomp profile, for a systemd unit by RestrictNamespaces=no and SystemCallFilter"
	notDumpableText = "the process is not dumpable, as setuid leaves it, so that its files in /proc are root's: start the program as this user, or call prctl(PR_SET_DUMPABLE, 1) before the first stack"
	configText      = "the kernel has no user or no network namespaces: CONFIG_USER_NS and CONFIG_NET_NS"
)

// apparmorText has the profile that the program needs, for a shell. Its echo might take
// backslashes away.
func apparmorText() string {
	program, err := readLink("/proc/self/exe")
	if err != nil {
		program = "/PROGRAM"
	}
	profile := "abi <abi/4.0>, " + apparmorHead(program) + " flags=(unconfined) { userns, }"
	return "kernel.apparmor_restrict_unprivileged_userns=1 takes the capabilities in user namespaces from programs without a profile: " +
		"load one as root, printf %s '" + strings.ReplaceAll(profile, "'", `'\''`) + "' | apparmor_parser -r, or set it to 0"
}

// apparmorHead begins the profile of a program, see apparmor.d(5). A path alone is the name of
// the profile, which the kernel compares with the program's as it is written, backslashes
// and all; only a second one is read as a pattern then.
func apparmorHead(program string) string {
	var b strings.Builder
	for _, c := range []byte(program) {
		switch {
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, `\%03o`, c)
			continue
		case strings.IndexByte(`\"*?[]{}`, c) >= 0:
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	path := `"` + b.String() + `"`
	if b.Len() == len(program) {
		return path
	}
	return "profile " + path + " " + path
}

// tooMany names the limit of namespaces that is reached. If there are several, only a
// limit of 0 shows which.
func tooMany(limits ...string) string {
	var off, have []string
	for _, name := range limits {
		switch v := sysctl(name); v {
		case "":
		case "0":
			off = append(off, name)
		default:
			have = append(have, name+"="+v)
		}
	}
	if len(off) > 0 {
		return "namespaces are switched off by " + strings.Join(off, "=0 and ") + "=0: sysctl -w " + strings.Join(off, "=1000 ") + "=1000 allows them"
	}
	have = append(have, "maybe less outside of the container; user namespaces nest 32 deep")
	return "no more namespaces for this user (" + strings.Join(have, ", ") + "): close some stacks, or raise the limit"
}

// forbidden says what may have refused a call that the kernel itself would allow.
func forbidden(errno unix.Errno) string {
	if text := GivenUp(); text != "" {
		return text
	}
	var who []string
	if sysctl("kernel.apparmor_restrict_unprivileged_userns") == "1" && !capable(unix.CAP_SYS_ADMIN) {
		who = append(who, apparmorText())
	}
	if filtered() {
		who = append(who, seccompText)
	}
	if len(who) > 0 {
		return strings.Join(who, "; or ")
	}
	// Only a security module returns this errno, and each of them shows its label.
	if label := securityLabel(); errno == unix.EACCES && label != "" {
		return fmt.Sprintf("a security module forbids it to the label %q: change its rules for this program; the kernel's log has the one, journalctl -k", label)
	}
	return "a chroot, the rules of a container or a security module (see journalctl -k) forbid it, no setting says which: allow it there" + instead()
}

// refusedMap says why the ids of a user namespace cannot be written to /proc.
func refusedMap(errno unix.Errno, op string) string {
	pid, err := readLink("/proc/self")
	switch {
	case err != nil && sysctl("kernel.ostype") == "":
		return "/proc is missing: mount -t proc proc /proc"
	case pid != strconv.Itoa(getpid()): // or no number at all
		return "/proc is that of another PID namespace: mount the own one, mount -t proc proc /proc"
	case errno == unix.EROFS:
		return "/proc is read-only: mount -o remount,rw /proc"
	case op == "open" && prctl(unix.PR_GET_DUMPABLE) != 1:
		if text := GivenUp(); text != "" {
			return text + "; another user namespace takes prctl(PR_SET_DUMPABLE, 1), for setuid has left the process not dumpable, and its files in /proc to root"
		}
		return notDumpableText
	case errno == unix.EPERM && geteuid() == 0 && !capable(unix.CAP_SETFCAP):
		return "user id 0 is mapped only with CAP_SETFCAP: give it to the program (docker --cap-add SETFCAP), or run it as another user"
	case errno == unix.EPERM, errno == unix.EACCES:
		return forbidden(errno)
	case errno == unix.ENOENT, errno == unix.ESRCH:
		return "the helper task has gone, or /proc hides it: was it killed, for want of memory?"
	}
	return ""
}

// explainSocket explains why there is no socket of a kind.
func explainSocket(err error, domain, typ, proto int) error {
	return because(err, func(errno unix.Errno) string {
		kind := fmt.Sprintf("domain %d, type %#x, protocol %d", domain, typ, proto)
		switch errno {
		case unix.EPERM, unix.EACCES, unix.ENOSYS, unix.EAFNOSUPPORT:
			switch {
			case errno == unix.EACCES && isPing(domain, typ, proto):
				return fmt.Sprintf("%s: the setting net.ipv4.ping_group_range of the stack says which groups may: %q is that of this process", kind, pingRange())
			case filtered():
				return kind + ": a seccomp filter is active and may forbid it: let it allow socket and setns, for a systemd unit by RestrictAddressFamilies"
			case errno != unix.EAFNOSUPPORT:
				return kind + ": " + refusedUse(errno)
			}
			return fmt.Sprintf("the kernel has no sockets of domain %d, see socket(2)", domain)
		case unix.ESOCKTNOSUPPORT:
			return fmt.Sprintf("the kernel has no sockets of type %#x in domain %d, see socket(2)", typ, domain)
		case unix.EINVAL:
			return fmt.Sprintf("there is no type %#x, or no protocol %d, see socket(2)", typ, proto)
		case unix.ENOPROTOOPT:
			if proto == unix.IPPROTO_MPTCP {
				return "net.mptcp.enabled is 0 in the stack: Stack.Sysctl sets it to 1"
			}
		case unix.EPROTONOSUPPORT, unix.EPROTOTYPE:
			switch {
			case domain == unix.AF_NETLINK:
				return fmt.Sprintf("the kernel has no netlink family %d: modprobe net-pf-16-proto-%[1]d, where there is such a module", proto)
			case proto == unix.IPPROTO_MPTCP:
				return "the kernel has no MPTCP: it takes CONFIG_MPTCP"
			}
			return fmt.Sprintf("the kernel has no protocol %d for type %#x in domain %d, see socket(2)", proto, typ, domain)
		}
		return kind
	})
}

// pingRange is the range of the process's own group.
func pingRange() string { return fmt.Sprintf("%d %[1]d", unix.Getegid()) }

// isPing reports whether it is a socket of ICMP that needs no privilege.
func isPing(domain, typ, proto int) bool {
	return typ&^(unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC) == unix.SOCK_DGRAM &&
		(domain == unix.AF_INET && proto == unix.IPPROTO_ICMP || domain == unix.AF_INET6 && proto == unix.IPPROTO_ICMPV6)
}

// explainJoin explains why the file of a namespace cannot be opened.
func explainJoin(err error) error {
	return because(err, func(errno unix.Errno) string {
		switch errno {
		case unix.ENOENT, unix.ENOTDIR, unix.ESRCH:
			return "no such namespace: /run/netns has those of ip netns, /proc/PID/ns/net is that of a process that lives"
		case unix.EACCES, unix.EPERM:
			return "it belongs to another user or to a process with privileges: that takes CAP_SYS_ADMIN, for a process CAP_SYS_PTRACE too"
		}
		return ""
	})
}

// explainOpen explains why the file of a setting cannot be opened with the flags, or read.
// The users of devices explain those.
func explainOpen(err *os.PathError, flags int) error {
	return because(err, func(errno unix.Errno) string {
		switch {
		case !strings.HasPrefix(err.Path, "/proc/sys/"):
			return ""
		case errno == unix.EROFS:
			return "/proc/sys is read-only, as in containers: make it writable, docker --security-opt systempaths=unconfined, podman --security-opt unmask=/proc/sys, in a systemd unit ProtectKernelTunables=no"
		case (errno == unix.EACCES || errno == unix.EPERM) && flags&unix.O_ACCMODE == unix.O_RDONLY:
			return "it is for setting only"
		case errno == unix.EACCES, errno == unix.EPERM:
			text := "the kernel lets nobody set it in a network namespace, or it is for reading only"
			if label := securityLabel(); strings.HasSuffix(label, " (enforce)") { // as docker-default has it
				text += fmt.Sprintf("; or AppArmor forbids it to the profile %q: change that, docker --security-opt apparmor=unconfined", strings.TrimSuffix(label, " (enforce)"))
			}
			return text
		case errno == unix.ENOENT && sysctl("kernel.ostype") == "":
			if _, err := readLink("/proc/self"); err == nil { // mounted with subset=pid
				return "/proc is there without /proc/sys: mount -t proc proc /proc, in a systemd unit ProcSubset=all"
			}
			return "/proc is missing: mount -t proc proc /proc"
		case errno == unix.ENOENT, errno == unix.ENOTDIR, errno == unix.EISDIR:
			return "no such setting in a stack; " + filepath.Dir(err.Path) + " may have what is meant"
		}
		return ""
	})
}

// explainUnshare explains why a command gets no namespace of its own; limit is the setting that
// bounds how many there are.
func explainUnshare(limit string) func(error) error {
	return func(err error) error {
		return because(err, func(errno unix.Errno) string {
			if errno == unix.ENOSPC {
				return tooMany(limit)
			}
			return refusedUse(errno)
		})
	}
}

// explainUTS is for UTS namespaces.
var explainUTS = explainUnshare("user.max_uts_namespaces")

// explainMount is for mount namespaces, and for making the mounts in them private, which the root
// directory has to be one of.
func explainMount(err error) error {
	if errors.Is(err, unix.EINVAL) {
		return &Explained{err, "the root directory is no mount, as in a chroot: change the root with pivot_root, as containers do", true}
	}
	return explainUnshare("user.max_mnt_namespaces")(err)
}

// explainBind explains why a file cannot be mounted over another.
func explainBind(err error, from, to string) error {
	return because(err, func(errno unix.Errno) string {
		switch errno {
		case unix.ENOENT, unix.EACCES:
			for _, path := range []string{from, to} {
				if _, err := os.Stat(path); err != nil {
					return "both must exist: " + err.Error()
				}
			}
		case unix.ENOTDIR:
			return "both must be directories, or neither"
		case unix.EPERM:
			return refusedUse(errno)
		}
		return ""
	})
}

// explainSysfs explains why the command has the machine's sysfs.
func explainSysfs(err error) error {
	return because(err, func(errno unix.Errno) string {
		if errno == unix.EPERM || errno == unix.EACCES {
			return "the kernel allows it only where the whole of /sys is visible, which it is not in most containers, and not to threads under Landlock"
		}
		return ""
	})
}

// explainThread explains why there is no watcher for a command.
func explainThread(err error) error {
	return Limited(because(err, func(errno unix.Errno) string {
		if errno == unix.EINVAL {
			return "the thread has made a PID namespace for its children: start commands from another goroutine, or unshare in the command"
		}
		return ""
	}))
}

// explainExec explains why a program cannot be executed.
func explainExec(err *os.PathError) error {
	return because(err, func(errno unix.Errno) string {
		switch errno {
		case unix.ENOENT, unix.ENOTDIR:
			if _, err := os.Stat(err.Path); err == nil {
				return "the file is there, but not the interpreter that it names in its first line or its ELF header"
			}
			return "no such program"
		case unix.EPERM:
			return forbidden(errno)
		case unix.EACCES:
			return "it must be a file that this user may execute, chmod +x, not on a file system mounted noexec"
		case unix.ENOEXEC:
			return "neither a program for this machine nor a script that begins with #!"
		case unix.E2BIG:
			return "the arguments and the environment are too long, see execve(2)"
		case unix.ETXTBSY:
			return "somebody has it open for writing"
		case unix.EAGAIN:
			return processes()
		}
		return ""
	})
}

// securityLabel is what the security module calls the process; "" if there is none.
func securityLabel() string { return strings.TrimRight(textOf("/proc/self/attr/current"), "\x00\n") }

// textOf returns a file; "" if it cannot be read.
func textOf(file string) string {
	text, err := readFile(file)
	if err != nil {
		return ""
	}
	return string(text)
}

// sysctl returns a setting; "" if it does not exist.
func sysctl(name string) string {
	return strings.TrimSpace(textOf("/proc/sys/" + strings.ReplaceAll(name, ".", "/")))
}

// field returns the text after a label in a file.
func field(file, label string) string {
	for line := range strings.Lines(textOf(file)) {
		if rest, ok := strings.CutPrefix(line, label); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// filtered reports whether a seccomp filter is active.
func filtered() bool {
	if mode := field("/proc/self/status", "Seccomp:"); mode != "" {
		return mode == "2"
	}
	return prctl(unix.PR_GET_SECCOMP) == 2
}

// capable reports whether the process has a capability.
func capable(capability int) bool {
	set, err := strconv.ParseUint(field("/proc/self/status", "CapEff:"), 16, 64)
	if err != nil { // /proc may be missing, as in a chroot
		set = effectiveCaps()
	}
	return set&(1<<capability) != 0
}

// chrooted reports whether the root directory is not a mount, as that of a mount
// namespace always is. It does not detect a chroot to a mount.
func chrooted() bool {
	text, err := readFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == "/" {
			return false
		}
	}
	return true
}

// unmapped reports whether the user namespace of the process does not have an id.
func unmapped(id int) bool {
	text, err := readFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		var first, outside, count int
		if n, _ := fmt.Sscan(line, &first, &outside, &count); n == 3 && id >= first && id-first < count {
			return false
		}
	}
	return true
}
