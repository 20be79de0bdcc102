//go:build amd64 || arm64

package netns

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// sysMount is where programs look for sysfs.
const sysMount = "/sys"

// addSysfs has the child mount the sysfs of its network namespace at /sys. It is
// prepared in the directory dir: mounts below the old /sys, such as cgroups and those
// that cover parts of it, are bound over the new one. If a call fails, the rest is
// skipped, the child keeps the old one, and what was mounted at dir stays there.
// If /sys is not sysfs, it is not replaced. An error says that it cannot be tried.
func (p *plan) addSysfs(dir string) error {
	text, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return err
	}
	old := findSysfs(string(text))
	if old == nil {
		return nil
	}
	p.sysfs = make(map[int]string)
	first := len(p.calls)
	add := func(what, from, to, fstype string, flags uintptr) {
		p.sysfs[len(p.calls)] = what
		p.mount("", from, to, fstype, flags, "")
	}
	add("mounting the sysfs of the stack", "sysfs", dir, "sysfs", old.flags)
	for _, path := range old.below {
		add("binding "+path, path, dir+strings.TrimPrefix(path, sysMount), "", unix.MS_BIND|unix.MS_REC)
	}
	add("moving the sysfs of the stack to "+sysMount, dir, sysMount, "", unix.MS_MOVE)
	for i := first; i < len(p.calls); i++ {
		p.calls[i].skip = uintptr(len(p.calls) - i - 1)
	}
	return nil
}

// A sysfsMount is a whole sysfs at /sys.
type sysfsMount struct {
	flags uintptr  // for mount(2); a new one must have them
	below []string // mount points in it
}

// findSysfs looks for sysfs in a proc_pid_mountinfo(5); nil means that it is not at /sys.
func findSysfs(mountinfo string) *sysfsMount {
	type mount struct{ id, parent, point string }
	var all []mount
	var found *sysfsMount
	var id string
	for line := range strings.Lines(mountinfo) {
		// 36 35 98:0 ROOT POINT OPTIONS [optional…] - TYPE SOURCE OPTIONS
		head, tail, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(head), strings.Fields(tail)
		if !ok || len(f) < 6 || len(g) < 1 {
			continue
		}
		m := mount{f[0], f[1], unescape.Replace(f[4])}
		all = append(all, m)
		if m.point != sysMount {
			continue
		}
		// The last one is on top.
		found, id = nil, m.id
		if g[0] == "sysfs" && f[3] == "/" {
			found = &sysfsMount{flags: mountFlags(f[5])}
		}
	}
	if found == nil {
		return nil
	}
	for _, m := range all {
		if m.parent == id && strings.HasPrefix(m.point, sysMount+"/") {
			found.below = append(found.below, m.point)
		}
	}
	return found
}

// mountFlags returns the flags of a new sysfs that replaces one with these options.
func mountFlags(options string) uintptr {
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	atime := uintptr(unix.MS_STRICTATIME)
	for o := range strings.SplitSeq(options, ",") {
		switch o {
		case "ro":
			flags |= unix.MS_RDONLY
		case "nodiratime":
			flags |= unix.MS_NODIRATIME
		case "noatime":
			atime = unix.MS_NOATIME
		case "relatime":
			atime = unix.MS_RELATIME
		}
	}
	return flags | atime
}

// unescape decodes what the kernel escapes in paths.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
