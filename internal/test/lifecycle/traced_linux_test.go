//go:build amd64 || arm64

package lifecycle

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
)

func init() { register(traced) }

// traced runs commands.
func traced() {
	s := must(vdestack.Open("mem://traced", "10.0.0.1/24"))
	for i := range 3 {
		out := must(s.Command(context.Background(), "/bin/echo", fmt.Sprint("command ", i)).Output())
		if want := fmt.Sprintf("command %d\n", i); string(out) != want {
			fail("got %q, want %q", out, want)
		}
	}
	check(s.Close())
}

// TestTraced has debuggers follow programs that run commands. They must follow commands
// as they follow children of os/exec.
func TestTraced(t *testing.T) {
	testenv.Long(t)
	trace := t.TempDir() + "/trace"
	exe := testenv.Must(os.Executable())(t)
	for _, tt := range []struct {
		tool string
		args []string
		want string
	}{
		{tool: "gdb", args: []string{"-q", "-batch", "-nx", "-ex", "set startup-with-shell off", "-ex", "run", exe},
			want: "exited normally]"},
		{tool: "strace", args: []string{"-f", "-o", trace, "-e", "trace=execve", exe},
			want: `execve("/bin/echo", ["/bin/echo", "command 2"]`},
	} {
		t.Run(tt.tool, func(t *testing.T) {
			tool := exec.CommandContext(t.Context(), testenv.Need(t, tt.tool, tt.tool), tt.args...)
			tool.Env = program(t, "traced").Env
			stop := time.AfterFunc(time.Minute, func() { tool.Process.Kill() })
			defer stop.Stop()
			out, err := tool.CombinedOutput()
			text := string(out)
			if log, err := os.ReadFile(trace); err == nil {
				text += string(log)
			}
			if err != nil || !strings.Contains(text, tt.want) {
				t.Errorf("%v, no %q in the output:\n%s", err, tt.want, text)
			}
		})
	}
}
