package vdeplug

import (
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestVDETurns has plugs come and go at once, of two processes.
func TestVDETurns(t *testing.T) {
	eachSwitch(t, func(t *testing.T, kind switchKind) {
		testenv.NoLeaks(t)
		s := kind.start(t)
		var wg sync.WaitGroup
		wg.Go(func() { plugtest.InChild(t, "TestVDETurnsChild", s.Dir, nil) })
		comeAndGo(t, s.Dir)
		wg.Wait()
		testenv.Eventually(t, "no port that is left", func() bool { return ports(t, s.Dir) == 0 })
		a, b := openInbox(t, s.Dir), openInbox(t, s.Dir)
		plugtest.Carry(t, a, b, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
	})
}

// TestVDETurnsChild is the part of TestVDETurns of the other process.
func TestVDETurnsChild(t *testing.T) {
	dir := plugtest.ChildArg(t)
	testenv.NoLeaks(t)
	comeAndGo(t, dir)
}

func comeAndGo(t *testing.T, dir string) {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				c, err := Open(dir, nil)
				if err != nil {
					t.Error(err)
					return
				}
				c.Close()
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

// TestVDETurnTaken has a turn that does not end.
func TestVDETurnTaken(t *testing.T) {
	tests := map[string]func(t *testing.T, dir string) (end func()){
		"of this process": func(t *testing.T, dir string) func() { return takeTurn(t.Context(), dir).end },
		"of another": func(t *testing.T, dir string) func() {
			f, locked := lockDir(t, dir)
			if !locked {
				t.Error("it is locked already")
			}
			return func() { f.Close() }
		},
	}
	for name, take := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := classicSwitch(t)
			defer take(t, s.Dir)()
			a, b := openInbox(t, s.Dir), openInbox(t, s.Dir)
			plugtest.Carry(t, a, b, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
			a.Close()
			b.Close()
			testenv.Eventually(t, "the ends of the ports", func() bool { return ports(t, s.Dir) == 0 })
		})
	}
}

// lockDir opens a directory, and reports whether nobody else has locked it.
func lockDir(t *testing.T, dir string) (f *os.File, locked bool) {
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return f, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}

// TestVDETurnStopped leaves a switch that does not run, and waits for nothing.
func TestVDETurnStopped(t *testing.T) {
	testenv.NoLeaks(t)
	s := classicSwitch(t)
	conns := []Conn{openPlug(t, s.Dir), openPlug(t, s.Dir), openPlug(t, s.Dir)}
	s.Signal(syscall.SIGSTOP)
	for _, c := range conns {
		c.Close()
	}
	if n := ports(t, s.Dir); n != len(conns) {
		t.Errorf("a switch that does not run has closed sockets: %d are left of %d", n, len(conns))
	}
	s.Signal(syscall.SIGCONT)
	testenv.Eventually(t, "the ends of the ports", func() bool { return ports(t, s.Dir) == 0 })
	testenv.Eventually(t, "the ends of the turns", func() bool {
		turnQueues.Lock()
		defer turnQueues.Unlock()
		f, locked := lockDir(t, s.Dir)
		defer f.Close()
		return locked && len(turnQueues.of) == 0
	})
}
