package vdeproto

import (
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestLock opens and closes plugs at the same time, in two processes.
func TestLock(t *testing.T) {
	testenv.Long(t)
	for name := range commands {
		t.Run(name, func(t *testing.T) {
			testenv.NoLeaks(t)
			s := startSwitch(t, name)
			var wg sync.WaitGroup
			wg.Go(func() { plugtest.InChild(t, "TestLockChild", s.Dir, nil) })
			comeAndGo(t, s.Dir)
			wg.Wait()
			testenv.Eventually(t, "no port that is left", func() bool { return ports(t, s.Dir) == 0 })
			a, b := openInbox(t, s.Dir), openInbox(t, s.Dir)
			plugtest.Carry(t, a, b, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
		})
	}
}

// TestLockChild is the other process of TestLock.
func TestLockChild(t *testing.T) {
	dir := plugtest.ChildArg(t)
	testenv.NoLeaks(t)
	comeAndGo(t, dir)
}

func comeAndGo(t *testing.T, dir string) {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if err := testenv.Closing(Dial(t.Context(), config(dir), nil)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// ports returns how many data sockets a switch has.
func ports(t *testing.T, dir string) int {
	names, err := filepath.Glob(filepath.Join(dir, "[f0-9]*"))
	if err != nil {
		t.Error(err)
	}
	return len(names)
}

// TestLockTaken has a lock that is never released.
func TestLockTaken(t *testing.T) {
	testenv.Long(t)
	tests := map[string]func(t *testing.T, dir string) (end func()){
		"of this process": func(t *testing.T, dir string) func() { return lockHandshake(t.Context(), dir).unlock },
		"of another": func(t *testing.T, dir string) func() {
			f := testenv.Must(os.Open(dir))(t)
			// The client that has found the switch ready may hold it yet.
			testenv.Check(t, sockio.Flock(testenv.Context(t), f))
			return func() { f.Close() }
		},
	}
	for name, take := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startSwitch(t, "vde_switch")
			defer take(t, s.Dir)()
			a, b := openInbox(t, s.Dir), openInbox(t, s.Dir)
			plugtest.Carry(t, a, b, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
			a.Close()
			b.Close()
			testenv.Eventually(t, "the ends of the ports", func() bool { return ports(t, s.Dir) == 0 })
		})
	}
}

// TestLockStopped leaves a stopped switch, without waiting for it.
func TestLockStopped(t *testing.T) {
	testenv.NoLeaks(t)
	s := startSwitch(t, "vde_switch")
	conns := []plug[*Conn]{openPlug(t, s.Dir), openPlug(t, s.Dir), openPlug(t, s.Dir)}
	s.Signal(syscall.SIGSTOP)
	for _, c := range conns {
		c.Close()
	}
	if n := ports(t, s.Dir); n != len(conns) {
		t.Errorf("a switch that does not run has closed sockets: %d are left of %d", n, len(conns))
	}
	s.Signal(syscall.SIGCONT)
	testenv.Eventually(t, "the ends of the ports", func() bool { return ports(t, s.Dir) == 0 })
	testenv.Eventually(t, "the release of all locks", func() bool {
		handshakes.mu.Lock()
		defer handshakes.mu.Unlock()
		f := testenv.Must(os.Open(s.Dir))(t)
		defer f.Close()
		return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && len(handshakes.of) == 0
	})
}
