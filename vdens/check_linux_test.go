package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

func init() {
	testenv.Programs["vdens without namespaces"] = func() {
		err := testenv.Refuse(testenv.Rule{Call: unix.SYS_CLONE, Mask: unix.CLONE_NEWUSER | unix.CLONE_NEWNET, Err: unix.EPERM})
		if err != nil {
			fmt.Println(err)
			os.Exit(9)
		}
		main()
	}
}

// TestCheck looks at what vdens --check prints, and its status, where a stack works and
// where a seccomp filter refuses it.
func TestCheck(t *testing.T) {
	for program, want := range map[string]struct {
		status int
		text   []string
	}{
		"vdens":                    {0, []string{"stack            yes\n", "\nlimits           yes  "}},
		"vdens without namespaces": {1, []string{"stack            no   a seccomp filter is active and may forbid it\n", "-> let it allow this call", "\nveth             no   there is no stack\n"}},
	} {
		t.Run(program, func(t *testing.T) {
			cmd := testenv.Program(t.Context(), t, program, "--check")
			out, err := cmd.CombinedOutput()
			if status := cmd.ProcessState.ExitCode(); status != want.status {
				t.Errorf("status %d (%v), want %d", status, err, want.status)
			}
			for _, text := range want.text {
				if !strings.Contains(string(out), text) {
					t.Errorf("nothing like %q in\n%s", text, out)
				}
			}
		})
	}
}
