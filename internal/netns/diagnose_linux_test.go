//go:build amd64 || arm64

package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"testing"
	"unsafe"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// A machine is what the diagnosis sees of a system: an ordinary one if it is
// zero.
type machine struct {
	files    map[string]string // overlays; "-" hides a file
	noProc   bool
	self     string // where /proc/self leads to
	root     bool
	seccomp  int // prctl's word for it
	notDump  bool
	noLimits bool
	caps     uint64 // where /proc does not say it
}

var ordinary = map[string]string{
	"/proc/sys/kernel/ostype":            "Linux\n",
	"/proc/sys/fs/file-max":              "100000\n",
	"/proc/sys/user/max_user_namespaces": "1000\n",
	"/proc/sys/user/max_net_namespaces":  "2000\n",
	"/proc/self/status":                  "Name:\tx\nCapEff:\t0000000000000000\nSeccomp:\t0\n",
	"/proc/self/mountinfo":               "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n23 22 0:5 / /proc rw - proc proc rw\n",
	"/proc/self/uid_map":                 "         0          0 4294967295\n",
	"/proc/self/attr/current":            "unconfined\n",
}

// install makes the diagnosis look at the machine.
func (m machine) install() (restore func()) {
	EmptyPool() // which are made by functions that are about to be replaced
	f, l, p, u, c, s, e := readFile, readLink, getpid, geteuid, prctl, softLimit, effectiveCaps
	readFile = func(name string) ([]byte, error) {
		text, ok := m.files[name]
		if !ok {
			text, ok = ordinary[name]
		}
		if !ok || m.noProc || text == "-" {
			return nil, &fs.PathError{Op: "open", Path: name, Err: unix.ENOENT}
		}
		return []byte(text), nil
	}
	readLink = func(name string) (string, error) {
		if name == "/proc/self/exe" {
			return "/opt/program", nil
		}
		if name != "/proc/self" || m.noProc || m.self == "-" {
			return "", &fs.PathError{Op: "readlink", Path: name, Err: unix.ENOENT}
		}
		if m.self != "" {
			return m.self, nil
		}
		return "42", nil
	}
	getpid = func() int { return 42 }
	geteuid = func() int {
		if m.root {
			return 0
		}
		return 1000
	}
	prctl = func(option int) int {
		switch {
		case option == unix.PR_GET_SECCOMP:
			return m.seccomp
		case m.notDump:
			return 0
		}
		return 1
	}
	softLimit = func(int) uint64 {
		if m.noLimits {
			return unix.RLIM_INFINITY
		}
		return 256
	}
	effectiveCaps = func() uint64 { return m.caps }
	return func() { readFile, readLink, getpid, geteuid, prctl, softLimit, effectiveCaps = f, l, p, u, c, s, e }
}

// sysctls returns files of settings, given as in /etc/sysctl.conf.
func sysctls(settings ...string) map[string]string {
	files := make(map[string]string)
	for _, s := range settings {
		name, value, _ := strings.Cut(s, "=")
		files["/proc/sys/"+strings.ReplaceAll(name, ".", "/")] = value + "\n"
	}
	return files
}

func status(caps uint64, seccomp int) map[string]string {
	return map[string]string{"/proc/self/status": fmt.Sprintf("CapEff:\t%016x\nSeccomp:\t%d\n", caps, seccomp)}
}

// mapError is an error of a file of the helper in /proc.
func mapError(op string, errno unix.Errno) error {
	return fmt.Errorf("mapping: %w", &os.PathError{Op: op, Path: "/proc/43/uid_map", Err: errno})
}

func joinError(errno unix.Errno) error {
	return &os.PathError{Op: "open", Path: "/run/netns/x", Err: errno}
}

func mounting(err error) error { return explainBind(err, "/", "/nonexistent") }

func executing(err error) error {
	return explainExec(&os.PathError{Op: "exec", Path: "/nonexistent", Err: err})
}

func setting(err error) error {
	return explainOpen(&os.PathError{Op: "open", Path: "/proc/sys/net/ipv4/x", Err: err}, unix.O_WRONLY)
}

func reading(err error) error {
	return explainOpen(&os.PathError{Op: "read", Path: "/proc/sys/net/ipv4/x", Err: err}, unix.O_RDONLY)
}

func packet(err error) error { return explainSocket(err, unix.AF_PACKET, unix.SOCK_RAW, 3) }

func netfilter(err error) error {
	return explainSocket(err, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)
}

func multipath(err error) error {
	return explainSocket(err, unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
}

func TestDiagnosis(t *testing.T) {
	const (
		apparmor = "kernel.apparmor_restrict_unprivileged_userns=1 takes the capabilities in user namespaces from programs without a profile: load one as root, printf %s 'abi <abi/4.0>, \"/opt/program\" flags=(unconfined) { userns, }' | apparmor_parser -r, or set it to 0"
		filter   = "a seccomp filter is active and may forbid it: let it allow this call, and clone, unshare, setns, mount and sethostname, for a container by its seccomp profile, for a systemd unit by RestrictNamespaces=no and SystemCallFilter"
		unknown  = "a chroot, the rules of a container or a security module (see journalctl -k) forbid it, no setting says which: allow it there, or give the program CAP_SYS_ADMIN and CAP_NET_ADMIN"
	)
	restricted := sysctls("kernel.apparmor_restrict_unprivileged_userns=1")
	both := sysctls("kernel.apparmor_restrict_unprivileged_userns=1")
	both["/proc/self/status"] = "CapEff:\t0\nSeccomp:\t2\n"
	tests := []struct {
		name    string
		machine machine
		explain func(error) error
		err     error
		want    string // what comes behind the error
	}{
		{"Debian's setting", machine{files: sysctls("kernel.unprivileged_userns_clone=0")}, explain, unix.EPERM,
			"kernel.unprivileged_userns_clone=0 keeps user namespaces to root: sysctl -w kernel.unprivileged_userns_clone=1, or CAP_SYS_ADMIN for the program"},
		{"Debian's setting, later", machine{files: sysctls("kernel.unprivileged_userns_clone=0")}, Refused, unix.EPERM, unknown},
		{"AppArmor, no user namespace", machine{files: restricted}, explain, unix.EACCES, apparmor},
		{"AppArmor, no network namespace", machine{files: restricted}, Refused, unix.EPERM, apparmor},
		{"AppArmor, no map", machine{files: restricted}, explain, mapError("write", unix.EPERM), apparmor},
		{"AppArmor, no descriptor", machine{files: restricted}, explain, os.NewSyscallError("ioctl SIOCGSKNS", unix.EPERM), apparmor},
		{"AppArmor, no TAP", machine{files: restricted}, Refused, os.NewSyscallError("ioctl TUNSETIFF", unix.EPERM), apparmor},
		{"AppArmor and seccomp", machine{files: both}, explain, unix.EPERM, apparmor + "; or " + filter},
		{"AppArmor off", machine{files: sysctls("kernel.apparmor_restrict_unprivileged_userns=0")}, explain, unix.EPERM, unknown},
		{"SELinux", machine{files: map[string]string{"/proc/self/attr/current": "user_u:user_r:user_t:s0\x00"}}, explain, unix.EACCES,
			`a security module forbids it to the label "user_u:user_r:user_t:s0": change its rules for this program; the kernel's log has the one, journalctl -k`},
		{"no module shows itself", machine{files: map[string]string{"/proc/self/attr/current": "-"}}, explain, unix.EACCES, unknown},
		{"seccomp", machine{files: status(0, 2)}, explain, unix.EPERM, filter},
		{"seccomp without /proc", machine{noProc: true, seccomp: 2}, explain, unix.EPERM, filter},
		{"seccomp, ENOSYS", machine{files: status(0, 2)}, explain, unix.ENOSYS, filter},
		{"chroot", machine{files: map[string]string{"/proc/self/mountinfo": "23 22 0:5 / /proc rw - proc proc rw\n"}}, explain, unix.EPERM,
			"the process is in a chroot, where the kernel makes no user namespace: change the root with pivot_root, as containers do, or give the program CAP_SYS_ADMIN and CAP_NET_ADMIN"},
		{"chroot with capabilities", machine{files: map[string]string{"/proc/self/mountinfo": "23 22 0:5 / /proc rw - proc proc rw\n", "/proc/self/status": "CapEff:\t000001ffffffffff\n"}}, explain, unix.EPERM,
			"the process is in a chroot, where the kernel makes no user namespace: change the root with pivot_root, as containers do"},
		{"CAP_NET_ADMIN", machine{files: status(1<<unix.CAP_NET_ADMIN, 0)}, explain, unix.EPERM, strings.TrimSuffix(unknown, " and CAP_NET_ADMIN")},
		{"id outside", machine{files: map[string]string{"/proc/self/uid_map": "0 100000 1000\n2000 101000 1\n"}}, explain, unix.EPERM,
			"the user id 1000 of the process is not in its user namespace, /proc/self/uid_map: map it there"},
		{"id inside", machine{files: map[string]string{"/proc/self/uid_map": "0 100000 1000\n1000 101000 1\n"}}, explain, unix.EPERM, unknown},
		{"nothing known", machine{noProc: true}, explain, unix.EPERM, unknown},
		{"nothing known, root", machine{noProc: true, caps: 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN}, explain, unix.EPERM, strings.TrimSuffix(unknown, ", or give the program CAP_SYS_ADMIN and CAP_NET_ADMIN")},

		{"user namespaces off", machine{files: sysctls("user.max_user_namespaces=0")}, explain, unix.ENOSPC,
			"namespaces are switched off by user.max_user_namespaces=0: sysctl -w user.max_user_namespaces=1000 allows them"},
		{"network namespaces off", machine{files: sysctls("user.max_net_namespaces=0")}, Refused, unix.ENOSPC,
			"namespaces are switched off by user.max_net_namespaces=0: sysctl -w user.max_net_namespaces=1000 allows them"},
		{"both off", machine{files: sysctls("user.max_user_namespaces=0", "user.max_net_namespaces=0")}, explain, unix.EUSERS,
			"namespaces are switched off by user.max_user_namespaces=0 and user.max_net_namespaces=0: sysctl -w user.max_user_namespaces=1000 user.max_net_namespaces=1000 allows them"},
		{"too many", machine{}, Refused, unix.ENOSPC,
			"no more namespaces for this user (user.max_user_namespaces=1000, user.max_net_namespaces=2000, maybe less outside of the container; user namespaces nest 32 deep): close some stacks, or raise the limit"},
		{"too many, no settings", machine{noProc: true}, Refused, unix.ENOSPC,
			"no more namespaces for this user (maybe less outside of the container; user namespaces nest 32 deep): close some stacks, or raise the limit"},
		{"UTS namespaces off", machine{files: sysctls("user.max_uts_namespaces=0")}, explainUTS, unix.ENOSPC,
			"namespaces are switched off by user.max_uts_namespaces=0: sysctl -w user.max_uts_namespaces=1000 allows them"},
		{"mount namespaces off", machine{files: sysctls("user.max_mnt_namespaces=0")}, explainMount, unix.ENOSPC,
			"namespaces are switched off by user.max_mnt_namespaces=0: sysctl -w user.max_mnt_namespaces=1000 allows them"},
		{"mount in a chroot", machine{}, explainMount, os.NewSyscallError("mount", unix.EINVAL),
			"the root directory is no mount, as in a chroot: change the root with pivot_root, as containers do"},
		{"kernel without", machine{}, explain, unix.EINVAL, "the kernel has no user or no network namespaces: CONFIG_USER_NS and CONFIG_NET_NS"},
		{"kernel without clone", machine{}, explain, unix.ENOSYS, "the kernel has no user or no network namespaces: CONFIG_USER_NS and CONFIG_NET_NS"},
		{"old kernel", machine{}, Refused, os.NewSyscallError("getsockopt SO_NETNS_COOKIE", unix.ENOPROTOOPT), "Linux 5.14 or later is needed"},

		{"processes", machine{}, explain, unix.EAGAIN,
			"the limit of processes and threads, ulimit -u, is 256, or pids.max of the container is reached: raise it, or end some"},
		{"processes, command", machine{noLimits: true}, Limited, os.NewSyscallError("clone", unix.EAGAIN),
			"the limit of processes and threads, ulimit -u, is unlimited, or pids.max of the container is reached: raise it, or end some"},
		{"no process", machine{}, Limited, os.NewSyscallError("recvfrom", unix.EAGAIN), ""},
		{"descriptors", machine{}, Limited, unix.EMFILE, "the limit of descriptors is 256: close some, or raise it, ulimit -n"},
		{"files", machine{}, explain, unix.ENFILE, "the limit of the whole system, fs.file-max=100000: the administrator can raise it"},
		{"files, no settings", machine{noProc: true}, explain, unix.ENFILE, "the limit of the whole system, fs.file-max: the administrator can raise it"},
		{"memory", machine{}, Refused, unix.ENOMEM, "no memory: the machine's, the container's or that of ulimit -v is used up"},

		{"/proc missing", machine{noProc: true}, explain, mapError("open", unix.ENOENT), "/proc is missing: mount -t proc proc /proc"},
		{"/proc read-only", machine{}, explain, mapError("open", unix.EROFS), "/proc is read-only: mount -o remount,rw /proc"},
		{"/proc of a parent", machine{self: "4711"}, explain, mapError("open", unix.EACCES),
			"/proc is that of another PID namespace: mount the own one, mount -t proc proc /proc"},
		{"/proc of a sibling", machine{self: "-"}, explain, mapError("open", unix.ENOENT),
			"/proc is that of another PID namespace: mount the own one, mount -t proc proc /proc"},
		{"not dumpable", machine{notDump: true}, explain, mapError("open", unix.EACCES),
			"the process is not dumpable, as setuid leaves it, so that its files in /proc are root's: start the program as this user, or call prctl(PR_SET_DUMPABLE, 1) before the first stack"},
		{"user id 0", machine{root: true}, explain, mapError("write", unix.EPERM),
			"user id 0 is mapped only with CAP_SETFCAP: give it to the program (docker --cap-add SETFCAP), or run it as another user"},
		{"user id 0 with capability", machine{root: true, files: status(1<<unix.CAP_SETFCAP, 0)}, explain, mapError("write", unix.EPERM), unknown},
		{"helper gone", machine{}, explain, mapError("open", unix.ENOENT), "the helper task has gone, or /proc hides it: was it killed, for want of memory?"},

		{"domain", machine{}, packet, unix.EAFNOSUPPORT, "the kernel has no sockets of domain 17, see socket(2)"},
		{"domain, seccomp", machine{files: status(0, 2)}, packet, unix.EAFNOSUPPORT,
			"domain 17, type 0x3, protocol 3: a seccomp filter is active and may forbid it: let it allow socket and setns, for a systemd unit by RestrictAddressFamilies"},
		{"no netlink family", machine{}, netfilter, unix.EPROTONOSUPPORT, "the kernel has no netlink family 12: modprobe net-pf-16-proto-12, where there is such a module"},
		{"no MPTCP", machine{}, multipath, unix.EPROTONOSUPPORT, "the kernel has no MPTCP: it takes CONFIG_MPTCP"},
		{"MPTCP off", machine{}, multipath, unix.ENOPROTOOPT, "net.mptcp.enabled is 0 in the stack: Stack.Sysctl sets it to 1"},
		{"socket, AppArmor", machine{files: restricted}, packet, unix.EPERM, "domain 17, type 0x3, protocol 3: " + apparmor},

		{"no namespace", machine{}, explainJoin, joinError(unix.ENOENT), "no such namespace: /run/netns has those of ip netns, /proc/PID/ns/net is that of a process that lives"},
		{"namespace of another", machine{}, explainJoin, joinError(unix.EACCES), "it belongs to another user or to a process with privileges: that takes CAP_SYS_ADMIN, for a process CAP_SYS_PTRACE too"},
		{"namespace, descriptors", machine{}, explainJoin, joinError(unix.EMFILE), "the limit of descriptors is 256: close some, or raise it, ulimit -n"},

		{"bind, nothing there", machine{}, mounting, unix.ENOENT, "both must exist: stat /nonexistent: no such file or directory"},
		{"bind, file and directory", machine{}, mounting, unix.ENOTDIR, "both must be directories, or neither"},
		{"bind, seccomp", machine{files: status(0, 2)}, mounting, unix.EPERM, filter},
		{"bind, other", machine{}, mounting, unix.EBUSY, ""},

		{"exec, no program", machine{}, executing, unix.ENOENT, "no such program"},
		{"exec, below a file", machine{}, executing, unix.ENOTDIR, "no such program"},
		{"exec, seccomp", machine{files: status(0, 2)}, executing, unix.EPERM, filter},
		{"exec, mode", machine{}, executing, unix.EACCES, "it must be a file that this user may execute, chmod +x, not on a file system mounted noexec"},
		{"exec, format", machine{}, executing, unix.ENOEXEC, "neither a program for this machine nor a script that begins with #!"},
		{"exec, too long", machine{}, executing, unix.E2BIG, "the arguments and the environment are too long, see execve(2)"},
		{"exec, busy", machine{}, executing, unix.ETXTBSY, "somebody has it open for writing"},
		{"exec, processes", machine{}, executing, unix.EAGAIN, "the limit of processes and threads, ulimit -u, is 256, or pids.max of the container is reached: raise it, or end some"},

		{"setting, /proc missing", machine{noProc: true}, setting, unix.ENOENT, "/proc is missing: mount -t proc proc /proc"},
		{"setting, no settings in /proc", machine{files: map[string]string{"/proc/sys/kernel/ostype": "-"}}, setting, unix.ENOENT,
			"/proc is there without /proc/sys: mount -t proc proc /proc, in a systemd unit ProcSubset=all"},
		{"setting, none", machine{}, setting, unix.ENOENT, "no such setting in a stack; /proc/sys/net/ipv4 may have what is meant"},
		{"setting, read-only", machine{}, setting, unix.EROFS, "/proc/sys is read-only, as in containers: make it writable, docker --security-opt systempaths=unconfined, podman --security-opt unmask=/proc/sys, in a systemd unit ProtectKernelTunables=no"},
		{"setting, refused", machine{}, setting, unix.EACCES, "the kernel lets nobody set it in a network namespace, or it is for reading only"},
		{"setting, AppArmor", machine{files: map[string]string{"/proc/self/attr/current": "docker-default (enforce)\n"}}, setting, unix.EACCES,
			`the kernel lets nobody set it in a network namespace, or it is for reading only; or AppArmor forbids it to the profile "docker-default": change that, docker --security-opt apparmor=unconfined`},
		{"setting, not to be read", machine{}, reading, unix.EACCES, "it is for setting only"},
		{"setting, not to be read as a user", machine{}, reading, unix.EPERM, "it is for setting only"},
		{"setting, directory", machine{}, reading, unix.EISDIR, "no such setting in a stack; /proc/sys/net/ipv4 may have what is meant"},

		{"no error", machine{}, explain, nil, ""},
		{"other error", machine{}, explain, net.ErrClosed, ""},
		{"other errno", machine{}, Refused, unix.EFAULT, ""},
		{"explained already", machine{}, Refused, fmt.Errorf("stack: %w", &Explained{unix.EMFILE, "raise it", false}), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			defer tt.machine.install()()
			got := tt.explain(tt.err)
			if tt.err == nil || tt.want == "" {
				if got != tt.err {
					t.Errorf("got %v, want %v", got, tt.err)
				}
				return
			}
			// Some put a path before the error.
			if want := tt.err.Error() + " (" + tt.want + ")"; !strings.HasSuffix(got.Error(), want) {
				t.Errorf("got\n\t%v\nwant\n\t%s", got, want)
			}
			if !errors.Is(got, tt.err) {
				t.Errorf("%v does not wrap %v", got, tt.err)
			}
		})
	}
}

// TestKinds tells what is not allowed, or not there, from limits and from mistakes.
func TestKinds(t *testing.T) {
	for _, tt := range []struct {
		name    string
		explain func(error) error
		err     unix.Errno
		want    string
	}{
		{"socket, no domain", packet, unix.EAFNOSUPPORT, "refused"},
		{"socket, no type", packet, unix.ESOCKTNOSUPPORT, "refused"},
		{"socket, no protocol", packet, unix.EPROTONOSUPPORT, "refused"},
		{"socket, no netlink family", netfilter, unix.EPROTONOSUPPORT, "refused"},
		{"socket, no MPTCP", multipath, unix.EPROTONOSUPPORT, "refused"},
		{"socket, MPTCP off", multipath, unix.ENOPROTOOPT, "refused"},
		{"socket, forbidden", packet, unix.EPERM, "refused"},
		{"socket, wrong type", packet, unix.EPROTOTYPE, ""},
		{"socket, wrong number", packet, unix.EINVAL, ""},
		{"socket, descriptors", packet, unix.EMFILE, "limit"},
		{"socket, memory", packet, unix.ENOMEM, "limit"},
		{"user namespace, any errno", explain, unix.EINVAL, "refused"},
		{"user namespace, processes", explain, unix.EAGAIN, "limit"},
		{"UTS namespace, none in the kernel", explainUTS, unix.EINVAL, ""},
		{"setting, none", setting, unix.ENOENT, ""},
		{"setting, read-only", setting, unix.EROFS, "refused"},
	} {
		defer machine{}.install()()
		got := ""
		e, ok := errors.AsType[*Explained](tt.explain(tt.err))
		switch {
		case !ok:
			t.Errorf("%s: %v is not explained", tt.name, tt.err)
		case e.Refused && e.Limit():
			got = "refused and limit"
		case e.Refused:
			got = "refused"
		case e.Limit():
			got = "limit"
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestAppArmorHead writes paths that mean something else in a profile.
func TestAppArmorHead(t *testing.T) {
	for program, want := range map[string]string{
		"/opt/program":    `"/opt/program"`,
		"/opt/my prog,#^": `"/opt/my prog,#^"`,
		"/opt/é":          `"/opt/é"`,
		"/opt/a*":         `profile "/opt/a\*" "/opt/a\*"`,
		"/opt/[a]{b,c}?":  `profile "/opt/\[a\]\{b,c\}\?" "/opt/\[a\]\{b,c\}\?"`,
		`/opt/a\"@{b}`:    `profile "/opt/a\\\"@\{b\}" "/opt/a\\\"@\{b\}"`,
		"/opt/a\nb\x1b":   `profile "/opt/a\012b\033" "/opt/a\012b\033"`,
	} {
		if got := apparmorHead(program); got != want {
			t.Errorf("%q: got %s, want %s", program, got, want)
		}
	}
	defer machine{}.install()()
	readLink = func(string) (string, error) { return "/opt/it's", nil }
	if text := apparmorText(); !strings.Contains(text, `, printf %s 'abi <abi/4.0>, "/opt/it'\''s" flags=(unconfined) { userns, }' | apparmor_parser`) {
		t.Errorf("in a shell: %s", text)
	}
}

// TestAppArmor has the kernel refuse what it refuses a program that AppArmor
// restricts, which gets its user namespace and may do nothing in it: its helper drops its
// capabilities, or a seccomp filter stands in for AppArmor. AppArmor's setting is played.
func TestAppArmor(t *testing.T) {
	const setting = ": operation not permitted (kernel.apparmor_restrict_unprivileged_userns=1 takes the capabilities in user namespaces from programs without a profile: " +
		"load one as root, printf %s 'abi <abi/4.0>, \"/opt/program\" flags=(unconfined) { userns, }' | apparmor_parser -r, or set it to 0)"
	for step, want := range map[string]string{
		"capabilities": "making a network namespace" + setting,
		"SIOCGSKNS":    "making a user namespace: ioctl SIOCGSKNS" + setting,
		"SIOCSIFFLAGS": "setting up a network namespace: ioctl SIOCSIFFLAGS lo" + setting,
	} {
		t.Run(step, func(t *testing.T) {
			out, err := testenv.Program(t.Context(), t, "apparmor", step).CombinedOutput()
			if err != nil || string(out) != want {
				t.Errorf("%v, got\n\t%s\nwant\n\t%s", err, out, want)
			}
		})
	}
}

func apparmored() {
	machine{files: sysctls("kernel.apparmor_restrict_unprivileged_userns=1")}.install()
	request := map[string]uint32{"SIOCGSKNS": unix.SIOCGSKNS, "SIOCSIFFLAGS": unix.SIOCSIFFLAGS}[os.Args[1]]
	var err error
	if request == 0 {
		err = powerless()
	} else {
		err = testenv.Refuse(testenv.Rule{Call: unix.SYS_IOCTL, Arg: 1, Mask: request, Equal: true, Err: unix.EPERM})
	}
	if err == nil {
		_, err = New()
	}
	fmt.Print(err)
}

// For capset: no capabilities. The helper reads them, so they must not move.
var (
	capHeader = unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	noCaps    [2]unix.CapUserData
)

// powerless makes a helper without capabilities the one that makes namespaces.
func powerless() error {
	h, err := startHelper(unix.CLONE_NEWUSER|unix.CLONE_NEWNET,
		call{nr: unix.SYS_CAPSET, args: [6]uintptr{uintptr(unsafe.Pointer(&capHeader)), uintptr(unsafe.Pointer(&noCaps[0]))}})
	if err == nil {
		helpers.own = h
	}
	return err
}

// TestCut splits reasons.
func TestCut(t *testing.T) {
	for reason, want := range map[string][2]string{
		"it is off: switch it on":              {"it is off", "switch it on"},
		"it is old":                            {"it is old", ""},
		"socket 3: it is off: switch it on":    {"socket 3: it is off", "switch it on"},
		"a is off: do this; or b is off: do b": {"a is off; or b is off", "do this; or do b"},
	} {
		if why, remedy := Cut(reason); [2]string{why, remedy} != want {
			t.Errorf("%q: got %q, %q, want %q", reason, why, remedy, want)
		}
	}
}

// FuzzProc diagnoses with files of /proc that have anything in them. There is
// always an explanation.
func FuzzProc(f *testing.F) {
	for _, name := range []string{"/proc/self/status", "/proc/self/mountinfo", "/proc/self/uid_map", "/proc/sys/user/max_net_namespaces"} {
		f.Add(ordinary[name], "42", uint16(unix.EPERM))
	}
	f.Add("CapEff:\nSeccomp:\t2\n", "self", uint16(unix.EACCES))
	f.Add("0 100000 1000\n1000 1", "", uint16(unix.ENOSPC))
	f.Fuzz(func(t *testing.T, text, self string, n uint16) {
		files := make(map[string]string)
		for name := range ordinary {
			files[name] = text
		}
		defer machine{files: files, self: self}.install()()
		errno := unix.Errno(n)
		for _, explain := range []func(error) error{explain, Refused, explainJoin, explainMount, explainUTS, Limited, executing, setting, packet, mounting} {
			for _, err := range []error{errno, mapError("open", errno), os.NewSyscallError("clone", errno)} {
				if got := explain(err); !errors.Is(got, errno) {
					t.Errorf("%v does not wrap %v", got, errno)
				}
			}
		}
		for _, errno := range []unix.Errno{unix.EPERM, unix.ENOSPC, unix.EAGAIN, unix.EMFILE, unix.ENOSYS} {
			if got := explain(errno).Error(); !strings.HasPrefix(got, errno.Error()+" (") {
				t.Errorf("got %q", got)
			}
		}
	})
}

// FuzzIdentity wants a map of ids to lead each to itself.
func FuzzIdentity(f *testing.F) {
	f.Add("         0          0 4294967295\n")
	f.Add("0 100000 1000\n2000 101000 1")
	f.Fuzz(func(t *testing.T, ids string) {
		out, err := identityOf(ids)
		if err != nil {
			return
		}
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) != 3 || f[0] != f[1] {
				t.Errorf("line %q of %q", line, ids)
			}
		}
		if again, err := identityOf(out); err != nil || again != out {
			t.Errorf("got %q, %v from %q", again, err, out)
		}
	})
}

// TestGivenUp has programs that are not what they were at their first helper.
func TestGivenUp(t *testing.T) {
	all := capsOf(unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN)
	for _, tt := range []struct {
		name  string
		first origin
		euid  int
		caps  capSet
		want  string // a part; "" if nothing is given up
	}{
		{name: "the same user", first: origin{1000, true, 0}, euid: 1000},
		{name: "root without capabilities", first: origin{0, true, all}},
		{name: "another user", first: origin{0, true, all}, euid: 1000, want: "user 0 made the first stack and has the capabilities over it, the program has become user 1000"},
		{name: "another user with CAP_NET_ADMIN", first: origin{0, true, all}, euid: 1000, caps: capsOf(unix.CAP_NET_ADMIN)},
		{name: "no user namespace", first: origin{0, false, all}, caps: all},
		{name: "no user namespace, another user", first: origin{0, false, all}, euid: 1000, caps: all},
		{name: "no user namespace, one capability less", first: origin{0, false, all}, caps: capsOf(unix.CAP_NET_ADMIN), want: "given up the capabilities"},
		{name: "no user namespace, never had it", first: origin{0, false, capsOf(unix.CAP_SYS_ADMIN)}, caps: capsOf(unix.CAP_SYS_ADMIN)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.first.givenUp(tt.euid, tt.caps); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
