//go:build amd64 || arm64

package netns

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// TestTry tries what isolated stacks and commands need, where it is allowed, and where a
// filter refuses one of the calls. Root has the namespaces of commands without a user
// namespace.
func TestTry(t *testing.T) {
	const refused = "operation not permitted (a seccomp filter"
	const isolated = "isolating takes a user namespace: making it: " + refused
	for _, tt := range []struct{ name, user, mounts, hostname string }{
		{name: "nothing"},
		{name: "clone", user: isolated, mounts: isolated, hostname: isolated},
		{name: "unshare", user: "unshare: " + refused, mounts: "unshare: " + refused, hostname: "unshare: " + refused},
		{name: "mount", mounts: "mount: " + refused},
		{name: "sethostname", hostname: "sethostname: " + refused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "clone" && os.Geteuid() == 0 {
				tt.mounts, tt.hostname = "", ""
			}
			out, err := testenv.Program(t.Context(), t, "tries", tt.name).Output()
			got := strings.Split(string(out), "\n")
			want := []string{tt.user, tt.mounts, tt.hostname}
			if err != nil || !slices.EqualFunc(got, want, func(got, want string) bool {
				return got == want || want != "" && strings.HasPrefix(got, want)
			}) {
				t.Errorf("%v, got\n%q\nwant\n%q", err, got, want)
			}
		})
	}
}

func tries() {
	rule, ok := map[string]testenv.Rule{
		"clone":       {Call: unix.SYS_CLONE, Mask: unix.CLONE_NEWUSER},
		"unshare":     {Call: unix.SYS_UNSHARE},
		"mount":       {Call: unix.SYS_MOUNT},
		"sethostname": {Call: unix.SYS_SETHOSTNAME},
	}[os.Args[1]]
	if rule.Err = unix.EPERM; ok {
		if err := testenv.Refuse(rule); err != nil {
			fmt.Print(err)
		}
	}
	text := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	user, mounts, hostname := Try()
	fmt.Print(text(user), "\n", text(mounts), "\n", text(hostname))
}
