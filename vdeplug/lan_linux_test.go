//go:build amd64 || arm64

package vdeplug

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	ns "github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/teardown"
	"github.com/vdestack/vdestack/internal/testenv"
)

// lanVNL returns the locator of a new network that processes share.
func lanVNL(t testing.TB) string { return "lan://" + filepath.Join(testenv.ShortDir(t), "net") }

// TestSharedLAN has plugs on a network of the kernel that processes share.
func TestSharedLAN(t *testing.T) {
	testenv.Check(t, ns.Start()) // the helper task stays
	testenv.NoLeaks(t, teardown.Wait, ns.EmptyPool)
	testConn(t, func(t *testing.T) Conn { return openPlug(t, lanVNL(t)) })
	t.Run("a peer", func(t *testing.T) {
		vnl := lanVNL(t)
		openInbox(t, vnl)
		testConn(t, func(t *testing.T) Conn { return openPlug(t, vnl) })
	})
	t.Run("frames", func(t *testing.T) {
		vnl := lanVNL(t)
		a, b := openInbox(t, vnl), openInbox(t, vnl+"/../net")
		frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)
		testenv.Check(t, a.Send(frame))
		b.Want(t, frame)
		a.Close()
		b.Close()
		if left := testenv.Must(os.ReadDir(filepath.Dir(vnl[len("lan://"):])))(t); len(left) > 0 {
			t.Errorf("files are left: %v", left)
		}
	})
}

// TestLANErrors opens what is no network.
func TestLANErrors(t *testing.T) {
	wantOpenError(t, "lan://name", "mem:// and lan:///PATH have", errors.ErrUnsupported)
	wantOpenError(t, "lan:///nowhere/net", "no such file", fs.ErrNotExist)
	wantOpenError(t, "lan://"+testenv.ShortDir(t), "is not a socket")
	dir := testenv.ShortDir(t)
	testenv.Check(t, os.Symlink(dir, dir+"/net"))
	wantOpenError(t, "lan://"+dir+"/net", "a symbolic link is not followed")
}
