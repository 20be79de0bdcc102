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
	"github.com/vdestack/vdestack/internal/packet"
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

// ptpPairs is pairs on a path.
func ptpPairs(t *testing.T, test func(t *testing.T, path string, openers [2]opener, ends [2]end)) {
	pairs(t, func(t *testing.T, first, second opener) {
		path, vnl := ptpName(t)
		a := first.open(t, vnl)
		waitPath(t, path)
		b := second.open(t, vnl)
		waitPath(t, path+p2p.SecondSuffix)
		test(t, path, [2]opener{first, second}, [2]end{a, b})
	})
}

func TestPTP(t *testing.T) {
	ptpPairs(t, func(t *testing.T, path string, _ [2]opener, ends [2]end) {
		plugtest.CarryBoth(t, ends[0].Inbox, ends[1].Inbox, frameSizes...)
		ends[1].quit(t)
		ends[0].quit(t)
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
	for which, name := range []string{"first", "second"} {
		for _, how := range []string{"quit", "kill"} {
			t.Run(name+" "+how, func(t *testing.T) {
				ptpPairs(t, func(t *testing.T, path string, openers [2]opener, ends [2]end) {
					plugtest.CarryBoth(t, ends[0].Inbox, ends[1].Inbox, 60)
					if how == "quit" {
						ends[which].quit(t)
					} else {
						ends[which].kill(t)
					}
					vnl, stays := "ptp://"+path, ends[1-which].Inbox
					if which == 1 {
						path += p2p.SecondSuffix
					}
					c := reopen(t, openers[which], path, vnl)
					// An idle end of C never notices that its peer went.
					if _, ours := packet.Find[*p2p.PTP](transportOf(stays.Conn)); ours {
						plugtest.Carry(t, c, stays, plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60))
					}
					plugtest.CarryBoth(t, stays, c, 60)
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
		return o.open(t, vnl).Inbox
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
	ptpPairs(t, func(t *testing.T, path string, _ [2]opener, ends [2]end) {
		vnl := "ptp://" + path
		for range 2 {
			wantOpenError(t, vnl, path+" already has two ends", unix.EADDRINUSE)
			c := plugtest.CPlug(t, vnl)
			c.WantExit(t)
			if c.Cmd.ProcessState.ExitCode() != 1 {
				t.Errorf("vde_plug: %v: %s", c.Cmd.ProcessState, c.Stderr)
			}
			// The two go on, and now they are connected.
			plugtest.CarryBoth(t, ends[0].Inbox, ends[1].Inbox, 60)
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
		plugtest.CarryBoth(t, ends[0], ends[1], 60)
		ends[0].Close()
		ends[1].Close()
	}
}

func TestPTPNames(t *testing.T) {
	testenv.NoLeaks(t)
	dir := t.TempDir()
	file := writeFile(t, filepath.Join(dir, "file"), "precious")
	stream := testenv.Must(net.Listen("unix", filepath.Join(dir, "stream")))(t)
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

func TestPTPParse(t *testing.T) {
	long := "/" + strings.Repeat("a", 89)
	type ptpEnd struct {
		path      string
		seqpacket bool
	}
	testParses(t, flat(func(l Locator) (e ptpEnd, err error) {
		e.path, e.seqpacket, err = parsePTP(l)
		return e, err
	}), ptpEnd{}, []parseTest[ptpEnd]{
		{in: "ptp:///run/p", set: is(ptpEnd{"/run/p", false})},
		{in: "ptp:///run/p%20'x", set: is(ptpEnd{"/run/p%20'x", false})},
		{in: "ptp:///run/[a]b", set: is(ptpEnd{"/run/[a]b", false})},
		{in: "ptp:///run/p[]", set: is(ptpEnd{"/run/p", false})},
		{in: "ptp:///run/p[seqpacket]", set: is(ptpEnd{"/run/p", true})},
		{in: `ptp:///run/p\[a\]`, set: is(ptpEnd{"/run/p[a]", false})},
		{in: "ptp://'/run/[a]'[seqpacket]", set: is(ptpEnd{"/run/[a]", true})},
		{in: "ptp://" + long + "[seqpacket]", set: is(ptpEnd{long, true})},

		{in: "ptp://", err: "no path given"},
		{in: "ptp://[seqpacket]", err: "no path given"},
		{in: "ptp:///run/p[datagram]", err: `ptp option "datagram": unknown (have seqpacket)`},
		{in: "ptp:///run/p[seqpacket=1]", err: "takes no value"},
		{in: "ptp://" + long + "a[seqpacket]", err: "has 91 bytes, a socket's path at most 90"},
	})
}

// TestPTPVersions opens a pair of one version in the other.
func TestPTPVersions(t *testing.T) {
	testenv.NoLeaks(t)
	path, vnl := ptpName(t)
	c := openPlug(t, vnl)
	wantOpenError(t, vnl+"[seqpacket]", path+" is a socket of another kind (vdeplug 4.0.1 makes it, without the option seqpacket)")
	c.Close()
	c = openPlug(t, vnl+"[seqpacket]")
	defer c.Close()
	wantOpenError(t, vnl, path+" is a socket of another kind (later versions of vdeplug make it, see the option seqpacket)")
	testenv.Check(t, os.WriteFile(path+"2", nil, 0o600))
	wantOpenError(t, vnl+"2[seqpacket]", "exists and is not a socket")
}

func BenchmarkPTP(b *testing.B) {
	vnl := "ptp://" + filepath.Join(b.TempDir(), "p")
	benchPlugs(b, openPlug(b, vnl), openPlug(b, vnl), plugtest.Broadcast)
}
