package stream

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestCmdSlowDeath closes commands that end slowly when killed.
func TestCmdSlowDeath(t *testing.T) {
	for _, tt := range []struct {
		name string
		ends time.Duration
		want time.Duration
		err  string
	}{
		{name: "slow", ends: 8 * time.Second, want: 8 * time.Second},
		{name: "never", ends: time.Hour, want: termTimeout + killTimeout, err: "does not end although it was killed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &command{cmd: exec.Command("slow"), ended: make(chan struct{}), reaped: true}
				c.cmd.Process = &os.Process{}
				c.waiting.Do(func() {}) // there is no process
				for _, f := range []**os.File{&c.stdin, &c.stdout} {
					var err error
					if *f, err = os.Open(os.DevNull); err != nil {
						t.Fatal(err)
					}
				}
				time.AfterFunc(tt.ends, func() { close(c.ended) })
				begin := time.Now()
				err := c.Close()
				if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
					t.Errorf("got %v, want %q", err, tt.err)
				}
				if got := time.Since(begin); got != tt.want {
					t.Errorf("closed after %v, want %v", got, tt.want)
				}
			})
		})
	}
}
