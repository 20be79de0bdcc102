//go:build amd64 || arm64

package bridge

import (
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// TestJoinTogether has several join a network that cannot be joined: they learn it from one
// attempt, which may take ten seconds.
func TestJoinTogether(t *testing.T) {
	const count = 4
	path := filepath.Join(testenv.ShortDir(t), "net")
	l := testenv.Must(net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"}))(t)
	var came atomic.Int32
	var server, all sync.WaitGroup
	server.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if came.Add(1) == 1 {
				testenv.Eventually(t, "all", func() bool {
					shares.mu.Lock()
					defer shares.mu.Unlock()
					return shares.all[path].users == count
				})
			}
			c.Write([]byte("junk"))
			c.Close()
		}
	})
	for range count {
		all.Go(func() {
			_, err := joinShared(t.Context(), path)
			plugtest.WantError(t, err, "sends what no network of lan:// does", unix.EPROTO)
		})
	}
	all.Wait()
	l.Close()
	server.Wait()
	// An attempt connects, and after its error looks whether the socket is dead.
	if n := came.Load(); n > 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

// TestLeaveLast leaves networks that nobody else is on, while the kernel is busy: no
// descriptors wait for it.
func TestLeaveLast(t *testing.T) {
	e := end(t)
	reaping.Lock()
	defer reaping.Unlock()
	files := func() int {
		netns.EmptyPool()
		return len(testenv.Must(os.ReadDir("/proc/self/fd"))(t))
	}
	before := files()
	for range 3 {
		p, _, err := PlugShared(t.Context(), filepath.Join(testenv.ShortDir(t), "net"), e)
		testenv.Check(t, err)
		e.Name, e.Index = e.Name+"x", 0
		testenv.Check(t, p.Leave(false))
	}
	if after := files(); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}
