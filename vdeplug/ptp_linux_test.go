package vdeplug

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/p2p"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/testenv"
)

// ptpName returns a path for a test, and the locator.
func ptpName(t *testing.T) (path, vnl string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "p")
	return path, "ptp://" + path
}

func waitPath(t *testing.T, path string) {
	t.Helper()
	testenv.Eventually(t, path, func() bool {
		_, err := os.Lstat(path)
		return err == nil
	})
}

func TestPTP(t *testing.T) {
	pairs(t, func(t *testing.T, first, second opener) {
		path, vnl := ptpName(t)
		a, quitA, _ := first.open(t, vnl)
		waitPath(t, path)
		b, quitB, _ := second.open(t, vnl)
		waitPath(t, path+"+")
		plugtest.CarryBoth(t, a, b, frameSizes...)
		quitB(t)
		quitA(t)
		for _, p := range []string{path, path + "+"} {
			if _, err := os.Lstat(p); err == nil {
				t.Errorf("%s is left", p)
			}
		}
	})
}

// TestPTPCmd has a plug in C between two of this package: one runs it as a command, and the
// other is on its network.
func TestPTPCmd(t *testing.T) {
	testenv.Need(t, "vde_plug", "vdeplug")
	testenv.NoLeaks(t)
	path, vnl := ptpName(t)
	a, b := openInbox(t, vnl), openInbox(t, "=vde_plug "+vnl)
	plugtest.CarryBoth(t, a, b, frameSizes...)
	b.Close()
	if _, err := os.Lstat(path + p2p.SecondSuffix); err == nil {
		t.Error("the command could not clean up")
	}
}

// TestPTPRestart ends one end and opens it again. If the other end is of this package, the
// new one may send first; an idle one in C would not notice.
func TestPTPRestart(t *testing.T) {
	testenv.Long(t)
	for _, which := range []string{"first", "second"} {
		for _, how := range []string{"quit", "kill"} {
			t.Run(which+" "+how, func(t *testing.T) {
				pairs(t, func(t *testing.T, first, second opener) {
					path, vnl := ptpName(t)
					a, quitA, killA := first.open(t, vnl)
					waitPath(t, path)
					b, quitB, killB := second.open(t, vnl)
					waitPath(t, path+"+")
					plugtest.CarryBoth(t, a, b, 60)

					stays, end, again := b, map[string]func(*testing.T){"quit": quitA, "kill": killA}[how], first
					if which == "second" {
						stays, end, again = a, map[string]func(*testing.T){"quit": quitB, "kill": killB}[how], second
					}
					end(t)
					name := path
					if which == "second" {
						name += p2p.SecondSuffix
					}
					c := reopen(t, again, name, vnl)
					// An idle end of C never notices that its peer went.
					if _, ours := isOn[*p2p.PTP](stays.Conn); ours {
						plugtest.Carry(t, c, stays, plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60))
					}
					plugtest.Carry(t, stays, c, plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60))
					plugtest.Carry(t, c, stays, plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60))
				})
			})
		}
	}
}

// reopen opens an end that takes the name path. The C library fails while the other end has
// not noticed that the previous end is gone.
func reopen(t *testing.T, o opener, path, vnl string) *plugtest.Inbox {
	t.Helper()
	stamp := func() string {
		info, err := os.Lstat(path)
		if err != nil {
			return ""
		}
		return fmt.Sprint(sockio.IDAt(path), info.ModTime())
	}
	if o.name != "C" {
		in, _, _ := o.open(t, vnl)
		return in
	}
	before, deadline := stamp(), time.Now().Add(testenv.Timeout)
	for time.Now().Before(deadline) {
		c := plugtest.CPlug(t, vnl)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for waiting := true; waiting; {
			select {
			case <-c.Ended:
				waiting = false
			case <-tick.C:
				if now := stamp(); now != "" && now != before {
					return c.Inbox
				}
			}
		}
	}
	t.Fatalf("vde_plug did not open %s again in %v", vnl, testenv.Timeout)
	return nil
}

func TestPTPThird(t *testing.T) {
	pairs(t, func(t *testing.T, first, second opener) {
		path, vnl := ptpName(t)
		a, _, _ := first.open(t, vnl)
		waitPath(t, path)
		b, _, _ := second.open(t, vnl)
		waitPath(t, path+"+")
		for range 2 {
			wantOpenError(t, vnl, path+" already has two ends", unix.EADDRINUSE)
			c := plugtest.CPlug(t, vnl)
			c.WantExit(t)
			if c.Cmd.ProcessState.ExitCode() != 1 {
				t.Errorf("vde_plug: %v: %s", c.Cmd.ProcessState, c.Stderr)
			}
			// The two go on, and now they are connected.
			plugtest.CarryBoth(t, a, b, 60)
		}
	})
}

// TestPTPTogether opens three ends at once: two get a role.
func TestPTPTogether(t *testing.T) {
	testenv.NoLeaks(t)
	_, vnl := ptpName(t)
	for range 50 {
		conns := make(chan Conn, 3)
		var wg sync.WaitGroup
		for range cap(conns) {
			wg.Go(func() {
				if c, err := Open(vnl, nil); err == nil {
					conns <- c
				} else if !errors.Is(err, unix.EADDRINUSE) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		close(conns)
		var ends []*plugtest.Inbox
		for c := range conns {
			ends = append(ends, plugtest.NewInbox(t, c))
		}
		if len(ends) != 2 {
			t.Fatalf("%d ends, want 2", len(ends))
		}
		plugtest.Carry(t, ends[0], ends[1], plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
		plugtest.Carry(t, ends[1], ends[0], plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
		ends[0].Close()
		ends[1].Close()
	}
}

func TestPTPNames(t *testing.T) {
	testenv.NoLeaks(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	testenv.Check(t, os.WriteFile(file, []byte("precious"), 0o600))
	stream, err := net.Listen("unix", filepath.Join(dir, "stream"))
	testenv.Check(t, err)
	defer stream.Close()
	testenv.Check(t, os.Symlink("nowhere", filepath.Join(dir, "link")))
	long := filepath.Join(dir, strings.Repeat("x", p2p.MaxPTPPath-len(dir)-1))
	tests := []struct{ path, text string }{
		{"", "no path given"},
		{long + "x", "has 107 bytes, a socket's path at most 106"},
		{file, "exists and is not a socket"},
		{dir, "exists and is not a socket"},
		{stream.Addr().String(), "is a socket of another kind"},
		{filepath.Join(dir, "no/such/dir"), "no such file or directory"},
		{filepath.Join(file, "x"), "not a directory"},
		{filepath.Join(dir, "link"), "others open and close it all the time"},
	}
	for _, tt := range tests {
		wantOpenError(t, "ptp://"+tt.path, tt.text)
	}
	if b, err := os.ReadFile(file); string(b) != "precious" {
		t.Errorf("the file has %q, %v", b, err)
	}
	a, b := openInbox(t, "ptp://"+long), openInbox(t, "ptp://"+long)
	plugtest.Carry(t, a, b, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
	if info, err := os.Stat(long + "+"); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("got %v, %v, want mode 0700", info, err)
	}

	// A name that belongs to another end by now stays.
	testenv.Check(t, os.Remove(long))
	c := openInbox(t, "ptp://"+long)
	a.Close()
	waitPath(t, long)
	plugtest.Carry(t, c, b, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))

	t.Chdir(dir)
	d := openInbox(t, "ptp://rel[3]{'")
	t.Chdir("/")
	d.Close()
	if _, err := os.Lstat(filepath.Join(dir, "rel[3]{'")); err == nil {
		t.Error("a relative path is left")
	}
}

func BenchmarkPTP(b *testing.B) {
	vnl := "ptp://" + filepath.Join(b.TempDir(), "p")
	benchPlugs(b, openPlug(b, vnl), openPlug(b, vnl), plugtest.Broadcast)
}
