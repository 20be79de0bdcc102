package stream

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/testenv"
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
				c := &command{Process: &Process{cmd: exec.Command("slow"), ended: make(chan struct{}), reaped: true}}
				c.cmd.Process = &os.Process{}
				c.waiting.Do(func() {}) // there is no process
				c.stdin, c.stdout = testenv.Must(os.Open(os.DevNull))(t), testenv.Must(os.Open(os.DevNull))(t)
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

// TestCmdInput has programs that do not read: what is written to them says how they ended.
func TestCmdInput(t *testing.T) {
	testenv.NoLeaks(t)
	frame := []packet.Packet{{Data: make([]byte, 60)}}
	for script, want := range map[string]string{
		"exit 3":                        "has ended: exit status 3",
		"exec <&-; sleep 0.2; exit 4":   "has ended: exit status 4",
		"exec <&-; exec sleep 1000":     "has closed its input, but has not ended",
		"exec >&- <&-; exec sleep 1000": "but has not ended",
	} {
		s := testenv.Must(NewCommand([]string{"sh", "-c", script}))(t)
		var err error
		testenv.Eventually(t, script, func() bool {
			err = s.SendPackets(frame, false)
			return err != nil
		})
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want that it %s", script, err, want)
		}
		testenv.Check(t, s.Close())
	}
}
