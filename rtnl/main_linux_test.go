package rtnl_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	testenv.Programs["server"] = func() {
		if err := serve(3); err != nil {
			fmt.Fprintln(os.Stderr, "socket server:", err)
			os.Exit(1)
		}
	}
	testenv.Main(m)
}

// A namespace is a network namespace of an unprivileged user, and a
// SocketMaker: the tests configure a stack that is not their own.
type namespace struct{ f *os.File }

func (ns namespace) Socket(domain, typ, proto int) (*os.File, error) {
	return request(ns.f, domain, typ, proto)
}

// tun makes a TUN device, which goes with the file.
func (ns namespace) tun(name string) (*os.File, error) {
	f, err := request(ns.f, asTUN, 0, 0)
	if err != nil {
		return nil, err
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, ifr)
	}
	return f, err
}

// asTUN is the domain that asks the server for an open TUN device.
const asTUN = -1

// newNamespace makes a namespace with loopback, which is down.
func newNamespace(t testing.TB) namespace {
	t.Helper()
	f, err := request(nil, 0, 0, 0)
	if err != nil {
		testenv.Skip(t, "no network namespace in a user namespace: %v", err)
	}
	t.Cleanup(func() { f.Close() })
	return namespace{f}
}

// dial connects to a new namespace.
func dial(t testing.TB) (*rtnl.Conn, namespace) {
	t.Helper()
	ns := newNamespace(t)
	return dialTo(t, ns), ns
}

func dialTo(t testing.TB, s rtnl.SocketMaker) *rtnl.Conn {
	t.Helper()
	c, err := rtnl.Dial(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// The server is one process in a user namespace of its own for all tests.
var server struct {
	sync.Mutex // held for a request and its reply
	fd         int
	err        error
	once       sync.Once
}

func startServer() {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		server.err = err
		return
	}
	theirs := os.NewFile(uintptr(pair[1]), "server")
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), testenv.ProgramVariable+"=server")
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	// It ends when this process does: with the socket pair.
	server.fd, server.err = pair[0], cmd.Start()
}

// request asks for a socket in the namespace, or with a nil namespace for a new
// one.
func request(ns *os.File, args ...int) (*os.File, error) {
	server.once.Do(startServer)
	if server.err != nil {
		return nil, server.err
	}
	var b, rights []byte
	for _, a := range args {
		b = binary.NativeEndian.AppendUint32(b, uint32(a))
	}
	if ns != nil {
		rights = unix.UnixRights(int(ns.Fd()))
	}
	server.Lock()
	defer server.Unlock()
	if err := unix.Sendmsg(server.fd, b, rights, nil, 0); err != nil {
		return nil, err
	}
	runtime.KeepAlive(ns)
	b, fd, err := receive(server.fd)
	switch {
	case err != nil:
		return nil, err
	case fd < 0:
		return nil, unix.Errno(binary.NativeEndian.Uint32(b))
	}
	return os.NewFile(uintptr(fd), "from server"), nil
}

// serve answers requests until the other end closes.
func serve(conn int) error {
	runtime.LockOSThread()
	for {
		b, ns, err := receive(conn)
		if err != nil || len(b) == 0 {
			return err
		}
		fd, err := -1, error(nil)
		if ns < 0 {
			if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
				fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			}
		} else {
			arg := func(i int) int { return int(int32(binary.NativeEndian.Uint32(b[4*i:]))) }
			if err = unix.Setns(ns, unix.CLONE_NEWNET); err == nil {
				if arg(0) == asTUN {
					fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
				} else {
					fd, err = unix.Socket(arg(0), arg(1)|unix.SOCK_CLOEXEC, arg(2))
				}
			}
			unix.Close(ns)
		}
		var rights []byte
		errno := unix.Errno(0)
		if err == nil {
			rights = unix.UnixRights(fd)
		} else if !errors.As(err, &errno) {
			return err
		}
		if err := unix.Sendmsg(conn, binary.NativeEndian.AppendUint32(nil, uint32(errno)), rights, nil, 0); err != nil {
			return err
		}
		if err == nil {
			unix.Close(fd)
		}
	}
}

// receive reads one packet and the descriptor that may come with it, else -1.
func receive(conn int) ([]byte, int, error) {
	b, oob := make([]byte, 64), make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := unix.Recvmsg(conn, b, oob, unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, -1, err
		case oobn == 0:
			return b[:n], -1, nil
		}
		cmsgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return nil, -1, err
		}
		fds, err := unix.ParseUnixRights(&cmsgs[0])
		if err != nil {
			return nil, -1, err
		}
		return b[:n], fds[0], nil
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
