package limit

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestLog has more lines than anybody reads.
func TestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		l := Log(slog.New(slog.NewTextHandler(&b, nil))).With("a", 1).WithGroup("g")
		for range 1000 {
			l.Info("flood")
			l.Debug("nobody wants this")
		}
		if n := strings.Count(b.String(), "\n"); n != 100 || strings.Contains(b.String(), "left_out") {
			t.Errorf("%d lines:\n%s", n, b.String())
		}
		b.Reset()
		time.Sleep(2 * time.Second)
		l.Info("later", "b", 2)
		l.Info("later")
		l.Info("too many")
		if got := b.String(); strings.Count(got, "\n") != 2 || strings.Count(got, "left_out") != 1 || !strings.Contains(got, "a=1 g.b=2 g.left_out=900\n") {
			t.Errorf("got\n%s", got)
		}
	})
}
