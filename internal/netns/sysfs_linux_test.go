//go:build amd64 || arm64

package netns

import (
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFindSysfs(t *testing.T) {
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	const root = "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
	const sys = "23 22 0:22 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw\n"
	tests := []struct {
		name, in string
		want     *sysfsMount
	}{
		{"none", root, nil},
		{"plain", root + sys, &sysfsMount{flags: safe | unix.MS_RELATIME}},
		{"read-only", root + "23 22 0:22 / /sys ro,noatime,nodiratime - sysfs sysfs ro\n",
			&sysfsMount{flags: safe | unix.MS_RDONLY | unix.MS_NOATIME | unix.MS_NODIRATIME}},
		{"every access", root + "23 22 0:22 / /sys rw - sysfs sysfs rw\n", &sysfsMount{flags: safe | unix.MS_STRICTATIME}},
		{
			"below", root + sys +
				"24 23 0:28 / /sys/fs/cgroup ro shared:9 - tmpfs tmpfs ro\n" +
				"25 24 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n" +
				"26 23 0:30 / /sys/kernel/a\\040b rw - debugfs debugfs rw\n" +
				"27 26 0:30 / /sys/kernel/a\\040b rw - tracefs tracefs rw\n" +
				"28 22 0:31 / /system rw - tmpfs none rw\n",
			&sysfsMount{safe | unix.MS_RELATIME, []string{"/sys/fs/cgroup", "/sys/kernel/a b"}},
		},
		{"on top of another", root + sys + "24 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n" + "30 23 0:40 / /sys rw,relatime - sysfs none rw\n" +
			"31 30 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n", &sysfsMount{safe | unix.MS_RELATIME, []string{"/sys/fs/cgroup"}}},
		{"covered", root + sys + "30 23 0:40 / /sys rw - tmpfs none rw\n", nil},
		{"a part", root + "23 22 0:22 /class /sys rw - sysfs sysfs rw\n", nil},
		{"cut off", root + sys + "30 23 0:40 / /sys\n", &sysfsMount{flags: safe | unix.MS_RELATIME}},
	}
	for _, tt := range tests {
		if got := findSysfs(tt.in); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %+v, want %+v", tt.name, got, tt.want)
		}
	}
}
