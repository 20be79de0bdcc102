//go:build amd64 || arm64

package netns

import (
	"errors"
	"os"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// TestJoinShared gets descriptors from another process: a namespace of this user, and
// what is none.
func TestJoinShared(t *testing.T) {
	n := testenv.Must(CreateIsolated(TAP{}, nil))(t)
	defer n.Close()
	shared := func(f *os.File, err error) (*NS, error) {
		testenv.Check(t, err)
		defer f.Close()
		return JoinShared(testenv.Must(unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0))(t))
	}
	if own, err := shared(os.Open("/proc/self/ns/net")); err == nil { // which makes a helper that stays
		own.Close()
	}
	before := countFiles(t)
	same := testenv.Must(shared(n.File()))(t)
	if same.Cookie() != n.Cookie() {
		t.Error("it is another namespace")
	}
	testenv.Check(t, same.Close())
	pipe, other, err := os.Pipe()
	testenv.Check(t, err)
	other.Close()
	user, err := os.Open("/proc/self/ns/user")
	testenv.Check(t, err)
	for _, tt := range []struct {
		name  string
		file  *os.File
		error error
	}{
		{"a pipe", pipe, errNoNetNS},
		{"a user namespace", user, errNoNetNS},
		{"the process's own", testenv.Must(os.Open("/proc/self/ns/net"))(t), nil},
	} {
		got, err := shared(tt.file, nil)
		switch {
		case err == nil && os.Geteuid() == 0: // root has its own namespace with the host's rights
			got.Close()
		case err == nil, tt.error != nil && !errors.Is(err, tt.error):
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.error)
		default:
			t.Logf("%s: %v", tt.name, err)
		}
	}
	if after := countFiles(t); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

// TestJoinSharedForeign gets a namespace of another user namespace than those of this
// process, such as that of a program in a container.
func TestJoinSharedForeign(t *testing.T) {
	outer := testenv.Must(CreateIsolated(TAP{}, nil))(t)
	defer outer.Close()
	// A namespace whose user namespace is one below that of outer: two levels down.
	inner, err := startHelper(unix.CLONE_NEWUSER | unix.CLONE_NEWNET)
	testenv.Check(t, err)
	defer inner.stop()
	r := newRequest(nil)
	defer r.free()
	r.enter = false
	r.calls = append(r.calls, call{nr: unix.SYS_UNSHARE, args: [6]uintptr{unix.CLONE_NEWUSER | unix.CLONE_NEWNET}}, socketCall(unix.AF_INET, unix.SOCK_DGRAM, 0))
	inner.do(r)
	fd, err := r.result(1)
	if err != nil {
		testenv.Skip(t, "a user namespace in one: %v", err)
	}
	ns, err := nsOfSocket(int(fd))
	unix.Close(int(fd))
	if err == nil {
		_, err = JoinShared(ns)
	}
	if !errors.Is(err, errForeign) {
		t.Errorf("got %v, want %v", err, errForeign)
	}
}
