//go:build amd64 || arm64

// Package permissions provokes every way in which a system can refuse stacks, and checks
// that each error says what is in the way and what to do about it.
package permissions

import (
	"errors"
	"os"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// A refusal is a process that is refused what it asks for.
type refusal struct {
	name string

	uid0     bool      // the process has user id 0 and no capabilities
	unmapped bool      // the process has no user id in its user namespace
	flags    uintptr   // namespaces besides those for users and mounts
	keep     []uintptr // its capabilities over its user namespace
	helper   bool      // the helper task exists in spite of the refusal

	prepare func() error // with capabilities, before the process
	refuse  func() error // in the process, before it asks
	ask     func() error // nil asks for a stack without interfaces
	check   bool         // it asks what works instead, and prints that
	remedy  func() error // does what the error advises

	want string // the whole error, with … for what varies; "" means that it works
}

const (
	user    = "stack: making a user namespace: "
	mapping = user + "mapping ids into the user namespace: "
	seccomp = " (a seccomp filter is active and may forbid it: let it allow this call, and clone, unshare, setns, mount and sethostname, for a container by its seccomp profile, for a systemd unit by RestrictNamespaces=no and SystemCallFilter)"
	sockets = "a seccomp filter is active and may forbid it: let it allow socket and setns, for a systemd unit by RestrictAddressFamilies)"
	noTUN   = "stack: interface vde0: open /dev/net/tun: "
)

var refusals = []refusal{
	{name: "none"},
	{name: "no_new_privs", refuse: filter()},
	{
		name: "user.max_user_namespaces=0", keep: []uintptr{unix.CAP_SYS_RESOURCE},
		refuse: sysctl("max_user_namespaces", "0"), remedy: sysctl("max_user_namespaces", "1000"),
		want: user + "no space left on device (namespaces are switched off by user.max_user_namespaces=0: sysctl -w user.max_user_namespaces=1000 allows them)",
	},
	{
		name: "user.max_net_namespaces=0", keep: []uintptr{unix.CAP_SYS_RESOURCE},
		refuse: sysctl("max_net_namespaces", "0"), remedy: sysctl("max_net_namespaces", "1000"),
		want: user + "no space left on device (namespaces are switched off by user.max_net_namespaces=0: sysctl -w user.max_net_namespaces=1000 allows them)",
	},
	{
		name: "both 0", keep: []uintptr{unix.CAP_SYS_RESOURCE},
		refuse: func() error {
			return errors.Join(sysctl("max_user_namespaces", "0")(), sysctl("max_net_namespaces", "0")())
		},
		remedy: func() error {
			return errors.Join(sysctl("max_user_namespaces", "1000")(), sysctl("max_net_namespaces", "1000")())
		},
		want: user + "no space left on device (namespaces are switched off by user.max_user_namespaces=0 and user.max_net_namespaces=0: sysctl -w user.max_user_namespaces=1000 user.max_net_namespaces=1000 allows them)",
	},
	{
		name: "too many stacks", keep: []uintptr{unix.CAP_SYS_RESOURCE}, helper: true,
		refuse: func() error { return errors.Join(sysctl("max_net_namespaces", "3")(), holdStacks(2)) }, // and the helper's
		remedy: closeOne,
		want:   "stack: making a network namespace: no space left on device (no more namespaces for this user (user.max_user_namespaces=2147483647, user.max_net_namespaces=3, maybe less outside of the container; user namespaces nest 32 deep): close some stacks, or raise the limit)",
	},
	{
		name: "user.max_mnt_namespaces=0", keep: []uintptr{unix.CAP_SYS_RESOURCE}, helper: true,
		refuse: sysctl("max_mnt_namespaces", "0"), ask: commandWithFiles, remedy: sysctl("max_mnt_namespaces", "1000"),
		want: "stack: starting /bin/true: unshare: no space left on device (namespaces are switched off by user.max_mnt_namespaces=0: sysctl -w user.max_mnt_namespaces=1000 allows them)",
	},

	{name: "seccomp, clone EPERM", refuse: filter(clone(unix.EPERM)), want: user + "operation not permitted" + seccomp},
	{name: "seccomp, clone ENOSYS", refuse: filter(clone(unix.ENOSYS)), want: user + "function not implemented" + seccomp},
	{
		name: "seccomp, unshare EPERM", refuse: filter(testenv.Rule{Call: unix.SYS_UNSHARE, Err: unix.EPERM}), helper: true,
		want: "stack: making a network namespace: operation not permitted" + seccomp,
	},
	{
		name: "seccomp, unshare ENOSYS", refuse: filter(testenv.Rule{Call: unix.SYS_UNSHARE, Err: unix.ENOSYS}), helper: true,
		want: "stack: making a network namespace: function not implemented" + seccomp,
	},
	{
		name: "seccomp, setns", refuse: filter(testenv.Rule{Call: unix.SYS_SETNS, Err: unix.EPERM}), helper: true, ask: twoStacks,
		want: "stack: socket: setns: operation not permitted" + seccomp,
	},
	{
		name: "seccomp, setns, setting", refuse: filter(testenv.Rule{Call: unix.SYS_SETNS, Err: unix.EPERM}), helper: true, ask: twoForwarding,
		want: "stack: sysctl net.ipv4.ip_forward: open /proc/sys/net/ipv4/ip_forward: setns: operation not permitted" + seccomp,
	},
	{
		name: "seccomp, waitid", refuse: filter(testenv.Rule{Call: unix.SYS_WAITID, Err: unix.EPERM}),
		want: user + "waitid: operation not permitted" + seccomp,
	},
	{
		name: "seccomp, set_tid_address", refuse: filter(testenv.Rule{Call: unix.SYS_SET_TID_ADDRESS, Err: unix.ENOSYS}),
		want: user + "set_tid_address: function not implemented" + seccomp,
	},
	{
		name: "seccomp, netlink", refuse: filter(testenv.Rule{Call: unix.SYS_SOCKET, Mask: unix.AF_NETLINK, Equal: true, Err: unix.EAFNOSUPPORT}),
		helper: true, ask: interfaceUp,
		want: "stack: rtnl: dial: stack: socket: address family not supported by protocol (domain 16, type 0x3, protocol 0: " + sockets,
	},
	{name: "seccomp, SIOCGSKNS", refuse: filter(ioctl(unix.SIOCGSKNS)), want: user + "ioctl SIOCGSKNS: operation not permitted" + seccomp},
	{
		name: "seccomp, loopback", refuse: filter(ioctl(unix.SIOCSIFFLAGS)), helper: true,
		want: "stack: setting up a network namespace: ioctl SIOCSIFFLAGS lo: operation not permitted" + seccomp,
	},
	{
		name: "seccomp, TUNSETIFF", refuse: filter(ioctl(unix.TUNSETIFF)), helper: true, ask: interfaceUp,
		want: "stack: interface vde0: making interface vde0: ioctl TUNSETIFF: operation not permitted" + seccomp,
	},

	{
		name: "not dumpable", refuse: dumpable(0), remedy: dumpable(1),
		want: mapping + "open /proc/PID/uid_map: permission denied (the process is not dumpable, as setuid leaves it, so that its files in /proc are root's: start the program as this user, or call prctl(PR_SET_DUMPABLE, 1) before the first stack)",
	},
	{
		name: "not dumpable, after a stack", refuse: func() error { return errors.Join(holdStacks(1), dumpable(0)()) },
	},
	{
		name: "proc missing", prepare: func() error { return mount("none", "/proc", "tmpfs", 0) },
		want: mapping + "open /proc/PID/uid_map: no such file or directory (/proc is missing: mount -t proc proc /proc)",
	},
	{
		name: "proc read-only", prepare: func() error { return bind("/proc", "/proc", unix.MS_RDONLY) },
		want: mapping + "open /proc/PID/uid_map: read-only file system (/proc is read-only: mount -o remount,rw /proc)",
	},
	{
		name: "proc of another PID namespace", flags: unix.CLONE_NEWPID,
		want: mapping + "open /proc/PID/uid_map: … (/proc is that of another PID namespace: mount the own one, mount -t proc proc /proc)",
	},
	{name: "proc with hidepid", flags: unix.CLONE_NEWPID, prepare: hidepid},
	{
		name: "proc with hidepid, not dumpable", flags: unix.CLONE_NEWPID, prepare: hidepid, refuse: dumpable(0), remedy: dumpable(1),
		want: mapping + "open /proc/PID/uid_map: no such file or directory (the process is not dumpable, as setuid leaves it, so that its files in /proc are root's: start the program as this user, or call prctl(PR_SET_DUMPABLE, 1) before the first stack)",
	},
	{
		name: "no user id", unmapped: true,
		want: user + "operation not permitted (the user id 65534 of the process is not in its user namespace, /proc/self/uid_map: map it there)",
	},
	{
		name: "user id 0 without capabilities", uid0: true,
		want: mapping + "write /proc/PID/uid_map: operation not permitted (user id 0 is mapped only with CAP_SETFCAP: give it to the program (docker --cap-add SETFCAP), or run it as another user)",
	},
	{name: "user id 0 with CAP_SETFCAP", uid0: true, keep: []uintptr{unix.CAP_SETFCAP}},
	{
		name: "chroot", keep: []uintptr{unix.CAP_SYS_CHROOT}, prepare: jail, refuse: func() error { return unix.Chroot("/tmp/jail") },
		want: user + "operation not permitted (the process is in a chroot, where the kernel makes no user namespace: change the root with pivot_root, as containers do, or give the program CAP_SYS_ADMIN and CAP_NET_ADMIN)",
	},
	{
		name: "chroot with CAP_SYS_ADMIN", keep: []uintptr{unix.CAP_SYS_CHROOT, unix.CAP_SYS_ADMIN},
		prepare: jail, refuse: func() error { return unix.Chroot("/tmp/jail") }, ask: openOnly,
		want: user + "operation not permitted (the process is in a chroot, where the kernel makes no user namespace: change the root with pivot_root, as containers do, or give the program CAP_NET_ADMIN)",
	},
	{
		name: "chroot with CAP_SYS_ADMIN and CAP_NET_ADMIN", keep: []uintptr{unix.CAP_SYS_CHROOT, unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN},
		prepare: jail, refuse: func() error { return unix.Chroot("/tmp/jail") }, ask: openOnly,
	},
	{
		name: "chroot with both capabilities, isolated", helper: true, keep: []uintptr{unix.CAP_SYS_CHROOT, unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN},
		prepare: jail, refuse: func() error { return unix.Chroot("/tmp/jail") }, ask: openIsolated,
		want: "stack: isolating takes a user namespace: making it: operation not permitted (the process is in a chroot, where the kernel makes no user namespace: change the root with pivot_root, as containers do)",
	},
	{
		name: "chroot with both, user.max_net_namespaces=0", keep: []uintptr{unix.CAP_SYS_CHROOT, unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_SYS_RESOURCE},
		prepare: jail, refuse: func() error { return errors.Join(sysctl("max_net_namespaces", "0")(), unix.Chroot("/tmp/jail")) },
		ask: openOnly, remedy: sysctl("max_net_namespaces", "1000"),
		want: "stack: making a network namespace: no space left on device (namespaces are switched off by user.max_net_namespaces=0: sysctl -w user.max_net_namespaces=1000 allows them)",
	},
	{
		name: "chroot to a mount, with both, isolated", helper: true, keep: []uintptr{unix.CAP_SYS_CHROOT, unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN},
		prepare: func() error { return mount("none", "/tmp", "tmpfs", 0) }, ask: openIsolated,
		refuse: func() error {
			return errors.Join(os.Mkdir("/tmp/proc", 0o755), bind("/proc", "/tmp/proc", 0), unix.Chroot("/tmp"))
		},
		want: "stack: isolating takes a user namespace: making it: operation not permitted (a chroot, the rules of a container or a security module (see journalctl -k) forbid it, no setting says which: allow it there)",
	},
	{
		name: "chroot without /proc, with both, isolated", helper: true, keep: []uintptr{unix.CAP_SYS_CHROOT, unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN},
		prepare: func() error { return mount("none", "/tmp", "tmpfs", 0) }, refuse: func() error { return unix.Chroot("/tmp") }, ask: openIsolated,
		want: "stack: isolating takes a user namespace: making it: operation not permitted (a chroot, the rules of a container or a security module (see journalctl -k) forbid it, no setting says which: allow it there)",
	},
	{
		name: "chroot with both, command with files", helper: true, keep: []uintptr{unix.CAP_SYS_CHROOT, unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN},
		prepare: func() error {
			return errors.Join(jail(), os.Mkdir("/tmp/jail/dev", 0o755), bind("/dev", "/tmp/jail/dev", 0))
		},
		refuse: func() error { return unix.Chroot("/tmp/jail") }, ask: commandWithFiles,
		want: "stack: starting /bin/true: mount: invalid argument (the root directory is no mount, as in a chroot: change the root with pivot_root, as containers do)",
	},
	{
		name: "chroot to a mount, without /proc", keep: []uintptr{unix.CAP_SYS_CHROOT},
		prepare: func() error { return mount("none", "/tmp", "tmpfs", 0) }, refuse: func() error { return unix.Chroot("/tmp") },
		want: user + "operation not permitted (a chroot, the rules of a container or a security module (see journalctl -k) forbid it, no setting says which: allow it there, or give the program CAP_SYS_ADMIN and CAP_NET_ADMIN)",
	},

	{
		name: "limit of processes", refuse: fewProcesses, remedy: limit(unix.RLIMIT_NPROC, 1000),
		want: user + "resource temporarily unavailable (the limit of processes and threads, ulimit -u, is 1, or pids.max of the container is reached: raise it, or end some)",
	},
	{
		name: "limit of descriptors", refuse: fewDescriptors, remedy: limit(unix.RLIMIT_NOFILE, 100),
		want: "stack: …: too many open files (the limit of descriptors is …: close some, or raise it, ulimit -n)",
	},
	{
		name: "limit of descriptors, netlink", ask: routing, helper: true,
		refuse: filter(testenv.Rule{Call: unix.SYS_FCNTL, Arg: 1, Mask: unix.F_DUPFD_CLOEXEC, Equal: true, Err: unix.EMFILE}),
		want:   "rtnl: dial: fcntl: too many open files (the limit of descriptors is …: close some, or raise it, ulimit -n)",
	},
	{
		name: "another's namespace", ask: joinParent,
		want: "stack: …it belongs to …",
	},
	{
		name: "seccomp, mount", refuse: filter(testenv.Rule{Call: unix.SYS_MOUNT, Err: unix.EPERM}), helper: true, ask: commandWithFiles,
		want: "stack: starting /bin/true: mount: operation not permitted" + seccomp,
	},
	{
		name: "seccomp, execve", refuse: filter(testenv.Rule{Call: unix.SYS_EXECVE, Err: unix.EPERM}), helper: true, ask: commandWithFiles,
		want: "stack: exec /bin/true: operation not permitted" + seccomp,
	},
	{
		name: "proc missing, after a stack", keep: []uintptr{unix.CAP_SYS_ADMIN},
		refuse: func() error { return errors.Join(holdStacks(1), mount("none", "/proc", "tmpfs", 0)) }, ask: forwarding, helper: true,
		remedy: func() error { return unix.Unmount("/proc", 0) },
		want:   "stack: sysctl net.ipv4.ip_forward: open /proc/sys/net/ipv4/ip_forward: no such file or directory (/proc is missing: mount -t proc proc /proc)",
	},
	{
		name: "read-only /proc/sys", prepare: func() error { return bind("/proc/sys", "/proc/sys", unix.MS_RDONLY) }, ask: forwarding, helper: true,
		want: "stack: sysctl net.ipv4.ip_forward: open /proc/sys/net/ipv4/ip_forward: read-only file system (/proc/sys is read-only, as in containers: make it writable, docker --security-opt systempaths=unconfined, podman --security-opt unmask=/proc/sys, in a systemd unit ProtectKernelTunables=no)",
	},

	{
		name: "no TUN", ask: interfaceUp, helper: true, prepare: func() error { return mount("none", "/dev/net", "tmpfs", 0) },
		want: noTUN + "no such file or directory (there is no such device: modprobe tun, or pass it into the container, docker --device /dev/net/tun)",
	},
	{
		name: "TUN is another device", ask: interfaceUp, helper: true, prepare: func() error { return bind("/dev/null", "/dev/net/tun", 0) },
		want: "stack: interface vde0: making interface vde0: ioctl TUNSETIFF: inappropriate ioctl for device (this is not the TUN device: mknod /dev/net/tun c 10 200)",
	},
	{
		name: "TUN is a directory", ask: interfaceUp, helper: true,
		prepare: func() error {
			return errors.Join(mount("none", "/dev/net", "tmpfs", 0), os.Mkdir("/dev/net/tun", 0o755))
		},
		want: noTUN + "is a directory (this is not the TUN device: mknod /dev/net/tun c 10 200)",
	},
	{
		// A file of root, not of the user: the helper may open the user's files.
		name: "TUN without permission", ask: interfaceUp, helper: true, prepare: func() error { return bind("/proc/kmsg", "/dev/net/tun", 0) },
		want: noTUN + "permission denied (it has mode 0400 and owner 65534:65534, this is user 1000 group 1000: chmod 0666 /dev/net/tun lets every user make TAPs)",
	},
	{
		name: "TUN on nodev", ask: interfaceUp, helper: true, prepare: func() error { return bind("/dev/null", "/dev/net/tun", unix.MS_NODEV) },
		want: noTUN + "permission denied (its mode allows it, but the file system is mounted nodev, or the container has no right to devices: docker --device /dev/net/tun)",
	},
}

// clone refuses user namespaces.
func clone(errno unix.Errno) testenv.Rule {
	return testenv.Rule{Call: unix.SYS_CLONE, Mask: unix.CLONE_NEWUSER, Err: errno}
}

func ioctl(request uint32) testenv.Rule {
	return testenv.Rule{Call: unix.SYS_IOCTL, Arg: 1, Mask: request, Equal: true, Err: unix.EPERM}
}

func TestRefusals(t *testing.T) {
	testenv.Long(t)
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		testenv.Skip(t, "/dev/net/tun is missing (modprobe tun)")
	}
	for _, r := range refusals {
		t.Run(r.name, func(t *testing.T) { r.run(t) })
	}
}
