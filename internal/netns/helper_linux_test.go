//go:build amd64 || arm64

package netns

import (
	"testing"
	"time"
	"unsafe"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// TestEndInList ends a helper that is within a call: it makes no other, and leaves
// the word as it is for the kernel to clear.
func TestEndInList(t *testing.T) {
	for _, end := range []struct {
		name string
		word uint32
	}{{"by its client", stateEnd}, {"as the kernel does", stateGone}} {
		t.Run(end.name, func(t *testing.T) {
			h, err := startHelper(unix.CLONE_NEWUSER | unix.CLONE_NEWNET)
			if err != nil {
				t.Skip(err)
			}
			var p [2]int
			testenv.Check(t, unix.Pipe2(p[:], unix.O_CLOEXEC))
			defer closeAll(p[:])
			b := h.calls
			b.n = 0
			buf := new([1]byte)
			b.add(call{nr: unix.SYS_READ, args: [6]uintptr{uintptr(p[0]), uintptr(unsafe.Pointer(buf)), 1}})
			b.add(call{nr: unix.SYS_GETPPID})
			if !b.post() {
				t.Fatal("the helper is gone")
			}
			b.state.Store(end.word)
			testenv.Must(unix.Write(p[1], buf[:]))(t)
			select {
			case <-h.gone:
			case <-time.After(10 * time.Second):
				t.Fatal("the helper lives on")
			}
			if s := b.state.Load(); s != stateGone {
				t.Errorf("state %d, want that of a task which is gone", s)
			}
			if ret := b.list()[1].ret; ret != notRun {
				t.Errorf("the next call returned %d", ret)
			}
			h.stop()
		})
	}
}
