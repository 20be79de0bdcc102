package netns

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// readFile reads a setting of the system; tests replace it.
var readFile = os.ReadFile

// explain adds to an error of the kernel the setting that is in the way, and
// what to do about it.
func explain(err error) error {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return err
	}
	text := limit(errno)
	if text == "" {
		text = reason(errno)
	}
	return annotate(err, text)
}

// explainLimit is explain for calls that are not about namespaces.
func explainLimit(err error) error {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return err
	}
	return annotate(err, limit(errno))
}

func annotate(err error, text string) error {
	if text == "" {
		return err
	}
	return fmt.Errorf("%w (%s)", err, text)
}

// limit names the limit that a call of any kind can reach.
func limit(errno unix.Errno) string {
	switch errno {
	case unix.EMFILE:
		return "too many open files: raise the limit of descriptors, ulimit -n"
	case unix.ENFILE:
		return "too many open files in the system: raise fs.file-max"
	}
	return ""
}

// reason says why a namespace was refused.
func reason(errno unix.Errno) string {
	switch errno {
	case unix.ENOSPC, unix.EUSERS:
		for _, name := range []string{"user.max_user_namespaces", "user.max_net_namespaces"} {
			if v := sysctl(name); v == "0" {
				return name + "=0: namespaces are switched off; the administrator can set a limit above 0"
			}
		}
		return "limit of namespaces reached: raise user.max_user_namespaces or user.max_net_namespaces"
	case unix.EPERM, unix.EACCES:
		switch {
		case sysctl("kernel.unprivileged_userns_clone") == "0":
			return "kernel.unprivileged_userns_clone=0: the administrator can set it to 1"
		case sysctl("kernel.apparmor_restrict_unprivileged_userns") == "1":
			return "kernel.apparmor_restrict_unprivileged_userns=1: load an AppArmor profile for this program that allows userns, or set it to 0"
		case field("/proc/self/status", "Seccomp:") == "2":
			return "a seccomp filter is active: start the container with a profile that allows clone and unshare with namespaces, or with CAP_SYS_ADMIN"
		}
		return "user namespaces are refused to this process: a chroot, a container or a security module forbids them"
	case unix.EINVAL, unix.ENOSYS:
		return "the kernel lacks user or network namespaces: CONFIG_USER_NS, CONFIG_NET_NS"
	}
	return ""
}

// sysctl returns a setting, "" if there is no such.
func sysctl(name string) string {
	text, err := readFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// field returns the first word after a label in a file.
func field(file, label string) string {
	text, err := readFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, label); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}
