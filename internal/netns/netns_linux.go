//go:build amd64 || arm64

package netns

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/vdestack/vdestack/internal/teardown"
	"golang.org/x/sys/unix"
)

// NS is a network namespace. Its methods may be called from several goroutines
// at once.
type NS struct {
	h      *helper
	cookie uint64

	mu sync.RWMutex // held for reading during a round trip; guards fd
	fd int          // -1 when closed

	pool socketPool

	made bool // by create, not joined
	lent atomic.Bool
	ping sync.Once // allows ping sockets in it
}

// Start makes the helper task, as New does.
func Start() error {
	h, err := theHelper()
	if err == nil {
		h.release()
	}
	return err
}

// New makes a network namespace, with loopback up, or takes one from the pool. It has a
// socket of NETLINK_ROUTE and one of TCP ready for the first callers of Socket.
func New() (*NS, error) {
	if n := plainFromPool(); n != nil {
		return n, nil
	}
	return Create(TAP{}, nil)
}

// NewAside is New for a namespace that is needed with another one, which alone counts for the
// pool.
func NewAside() (*NS, error) {
	if n := besideFromPool(); n != nil {
		return n, nil
	}
	return Create(TAP{}, nil)
}

// Create makes one without the pool, and a TAP in it, unless t is zero. meanwhile, if it
// is not nil, is called with the base of the namespace when the helper has begun, and may
// start work to be done at the same time. It must not wait.
func Create(t TAP, meanwhile func(Base)) (*NS, error) {
	h, err := theHelper()
	if err != nil {
		return nil, err
	}
	return h.create(t, meanwhile)
}

// CreateIsolated is Create with a user namespace and a helper of its own, which ends
// with the namespace.
func CreateIsolated(t TAP, meanwhile func(Base)) (*NS, error) {
	h, err := isolatedHelper()
	if err != nil {
		return nil, err
	}
	return h.create(t, meanwhile)
}

// create makes a network namespace, which takes over the caller's use of the helper.
func (h *helper) create(t TAP, meanwhile func(Base)) (_ *NS, err error) {
	n := &NS{h: h, fd: -1, made: true}
	defer func() {
		if err != nil {
			n.pool.drop(CloseTAP)
			if n.fd >= 0 {
				unix.Close(n.fd)
			}
			h.leave(n)
			h.release()
		}
	}()
	r := newRequest(n)
	defer r.free()
	r.enter = false
	if meanwhile != nil {
		r.meanwhile = func() { meanwhile(Base{h}) }
	}
	r.calls = append(r.calls,
		call{nr: unix.SYS_UNSHARE, args: [6]uintptr{unix.CLONE_NEWNET}},
		socketCall(tcp.domain, tcp.typ, tcp.proto),
		socketCall(route.domain, route.typ, route.proto),
		socketCall(route.domain, route.typ, route.proto))
	if t != (TAP{}) {
		r.calls = append(r.calls, openCall(&tunName[0], tunFlags))
	}
	h.do(r)
	if _, err := r.result(0); err != nil {
		return nil, fmt.Errorf("making a network namespace: %w", Refused(err))
	}
	fd, err := r.result(1)
	if err != nil {
		return nil, fmt.Errorf("first socket of a network namespace: %w", Refused(err))
	}
	n.pool.first = map[socketType]int{tcp: int(fd)}
	// Those that failed are tried again when they are asked for.
	for i, k := range []socketType{route, watching} {
		if fd, err := r.result(2 + i); err == nil {
			n.pool.first[k] = int(fd)
		}
	}
	if t != (TAP{}) {
		if dev, err := r.result(4); err == nil {
			if t.begin(int(dev), int(fd)) == nil {
				n.pool.tap, n.pool.first[tap] = t, int(dev)
			} else {
				unix.Close(int(dev))
			}
		}
	}
	n.fd, err = nsOfSocket(int(fd))
	if err != nil && atLimit(err) {
		n.pool.settle(unix.Close)
		n.fd, err = nsOfSocket(int(fd))
	}
	if err == nil {
		err = errors.Join(n.readCookie(int(fd)), setUp(int(fd), "lo"))
	}
	if err != nil {
		return nil, fmt.Errorf("setting up a network namespace: %w", Refused(err))
	}
	n.register()
	return n, nil
}

var pingGroups = []byte("/proc/sys/net/ipv4/ping_group_range\x00")

// AllowPing lets every group in a namespace that was made here have sockets of ICMP; if
// not all ids are mapped, the process's own group. It is called before anybody could
// have one, or see the setting: the kernel takes the longer to open the file the more
// namespaces there are. In a container that keeps it read-only, it stays as it is.
func (n *NS) AllowPing() {
	if !n.made {
		return
	}
	n.ping.Do(func() {
		fd, err := n.do(openCall(&pingGroups[0], unix.O_WRONLY))
		if err != nil {
			return
		}
		defer unix.Close(int(fd))
		// The helper writes: the program may have changed its user since.
		write := func(text string) error {
			_, err := n.do(call{nr: unix.SYS_WRITE, args: [6]uintptr{fd, uintptr(unsafe.Pointer(unsafe.StringData(text))), uintptr(len(text))}})
			runtime.KeepAlive(text)
			return err
		}
		if errors.Is(write("0 2147483647"), unix.EINVAL) {
			write(pingRange())
		}
	})
}

// Join returns the network namespace at path, such as /run/netns/NAME, /proc/PID/ns/net
// or /proc/PID/fd/N. It has to belong to the process or another one of the same user;
// with CAP_SYS_ADMIN, to the user namespace of the process or one below.
func Join(path string) (_ *NS, err error) {
	// Without O_NONBLOCK, a named pipe would wait for its other end.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, explainJoin(&os.PathError{Op: "open", Path: path, Err: err})
	}
	n, err := join(fd)
	if err != nil {
		return nil, fmt.Errorf("joining the namespace %s: %w", path, err)
	}
	return n, nil
}

// JoinShared returns the network namespace of a descriptor that another process of the
// same user has sent, and takes over the descriptor. The namespace has to belong to a
// user namespace that this user has made in the process's own or, for a process with
// CAP_SYS_ADMIN, to the process's own.
func JoinShared(fd int) (*NS, error) {
	if err := checkShared(fd); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return join(fd)
}

// checkShared says what is wrong with the namespace of JoinShared.
func checkShared(fd int) error {
	if !isNetNS(fd) {
		return errNoNetNS
	}
	user, err := ownerOf(fd)
	if err == unix.EPERM {
		return fmt.Errorf("%w: %w", errForeign, err)
	}
	if err != nil {
		return Limited(os.NewSyscallError("ioctl NS_GET_USERNS", err))
	}
	defer unix.Close(user)
	here, err := ownUser()
	if err != nil {
		return err
	}
	if id, err := idOf(user); err != nil || id == here {
		return err
	}
	parent, err := unix.IoctlRetInt(user, nsGetParent)
	if err != nil {
		return fmt.Errorf("%w: %w", errForeign, os.NewSyscallError("ioctl NS_GET_PARENT", err))
	}
	defer unix.Close(parent)
	if id, err := idOf(parent); err != nil {
		return err
	} else if id != here {
		return fmt.Errorf("%w: %w", errForeign, unix.EPERM)
	}
	owner, err := unix.IoctlGetUint32(user, nsGetOwnerUID)
	if err != nil {
		return os.NewSyscallError("ioctl NS_GET_OWNER_UID", err)
	}
	if int(owner) != os.Geteuid() {
		return fmt.Errorf("its user namespace belongs to user %d, this is user %d: %w", owner, os.Geteuid(), unix.EPERM)
	}
	return nil
}

var (
	errNoNetNS = errors.New("it is no network namespace")
	errForeign = errors.New("it was made in another user namespace than that of this process: programs inside and outside of a container, or of two containers, have no networks in common")
)

// join takes over the descriptor of a namespace.
func join(fd int) (_ *NS, err error) {
	n := &NS{fd: fd}
	if n.h, err = helperFor(fd); err != nil {
		unix.Close(fd)
		return nil, err
	}
	probe, err := n.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err == nil {
		err = Refused(n.readCookie(probe))
		unix.Close(probe)
	}
	if err != nil {
		n.Close()
		return nil, err
	}
	n.register()
	return n, nil
}

// Closed returns a namespace that was closed from the beginning.
func Closed() *NS { return &NS{fd: -1} }

// Renew gives the namespace another helper if its own was killed. It is for namespaces
// that the stacks of both share.
func (n *NS) Renew() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fd < 0 {
		return net.ErrClosed
	}
	if !n.h.calls.lost() {
		return nil
	}
	h, err := helperFor(n.fd)
	if err != nil {
		return fmt.Errorf("entering a namespace whose helper task was killed: %w", err)
	}
	n.h.release()
	n.h = h
	return nil
}

// alive returns an error if the namespace cannot be used any more.
func (n *NS) alive() error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.fd < 0 {
		return net.ErrClosed
	}
	if n.h.calls.lost() {
		return n.h.lost()
	}
	return nil
}

// Current reports whether new namespaces are made by the helper of this one: it was not
// killed, and the process is still the same user.
func (n *NS) Current() bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.fd >= 0 && n.Base().Current()
}

// Lend records that others are let into the namespace, as commands are.
func (n *NS) Lend() { n.lent.Store(true) }

// Lent reports whether others were let into the namespace, or it was theirs.
func (n *NS) Lent() bool { return n.lent.Load() || !n.made }

// Cookie returns what SO_NETNS_COOKIE gives for sockets in the namespace.
func (n *NS) Cookie() uint64 { return n.cookie }

func (n *NS) readCookie(fd int) (err error) {
	n.cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err == unix.ENOPROTOOPT {
		return fmt.Errorf("%w: %w", os.NewSyscallError("getsockopt SO_NETNS_COOKIE", err), errors.ErrUnsupported)
	}
	return os.NewSyscallError("getsockopt SO_NETNS_COOKIE", err)
}

// setUp sets an interface up, in the namespace of the socket.
func setUp(socket int, name string) error { return changeUp(socket, name, unix.IFF_UP) }

// SetDown sets an interface down, in the namespace of the socket.
func SetDown(socket, index int) error {
	name, err := IfName(socket, index)
	if err != nil {
		return err
	}
	return changeUp(socket, name, 0)
}

// IfName returns the name that an interface has now, in the namespace of the socket;
// ENODEV if there is none with the index.
func IfName(socket, index int) (string, error) {
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return "", err
	}
	ifr.SetUint32(uint32(index))
	if err := unix.IoctlIfreq(socket, unix.SIOCGIFNAME, ifr); err != nil {
		return "", os.NewSyscallError("ioctl SIOCGIFNAME", err)
	}
	return ifr.Name(), nil
}

// IfIndex returns the index of the interface that has a name now, in the namespace of the
// socket; ENODEV if there is none.
func IfIndex(socket int, name string) (int, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(socket, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, os.NewSyscallError("ioctl SIOCGIFINDEX", err)
	}
	return int(ifr.Uint32()), nil
}

// changeUp changes the flag IFF_UP of an interface, and keeps the others.
func changeUp(socket int, name string, up uint16) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(socket, unix.SIOCGIFFLAGS, ifr); err != nil {
		return os.NewSyscallError("ioctl SIOCGIFFLAGS "+name, err)
	}
	ifr.SetUint16(ifr.Uint16()&^unix.IFF_UP | up)
	return os.NewSyscallError("ioctl SIOCSIFFLAGS "+name, unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, ifr))
}

// do executes calls in the namespace and returns the result of the last. If there is no
// descriptor left, pooled sockets are closed.
func (n *NS) do(calls ...call) (uintptr, error) {
	return WithRoom(func() (uintptr, error) {
		n.mu.RLock()
		defer n.mu.RUnlock()
		if n.fd < 0 {
			return 0, net.ErrClosed
		}
		r := newRequest(n)
		defer r.free()
		r.calls = append(r.calls, calls...)
		n.h.do(r)
		return r.result(len(calls) - 1)
	})
}

// spaces are the namespaces that may have pooled sockets.
var spaces = struct {
	mu  sync.Mutex // guards all
	all map[*NS]struct{}
}{all: make(map[*NS]struct{})}

func (n *NS) register() {
	spaces.mu.Lock()
	defer spaces.mu.Unlock()
	spaces.all[n] = struct{}{}
}

func (n *NS) unregister() {
	spaces.mu.Lock()
	defer spaces.mu.Unlock()
	delete(spaces.all, n)
}

// WithRoom calls f. If there was no descriptor left, it closes the pooled sockets of
// all namespaces and calls f again.
func WithRoom[T any](f func() (T, error)) (T, error) {
	v, err := f()
	if err != nil && atLimit(err) && makeRoom() {
		v, err = f()
	}
	return v, err
}

func makeRoom() (some bool) {
	nsPool.mu.Lock()
	pooled := takePool()
	nsPool.mu.Unlock()
	for _, n := range pooled {
		some = n.closeReady() || some
	}
	if len(pooled) > 0 {
		defer teardown.Go(func() { closeSpaces(pooled) }) // their sockets are closed now
	}
	spaces.mu.Lock()
	all := slices.Collect(maps.Keys(spaces.all))
	spaces.mu.Unlock()
	for _, n := range all {
		// A TAP that stayed would have a name that is still asked for.
		if n.pool.drop(unix.Close) {
			some = true
		}
	}
	return some
}

// Open opens a file that depends on the namespace, such as /dev/net/tun. The descriptor
// is close-on-exec and belongs to the caller.
func (n *NS) Open(path string, flags int) (fd int, err error) {
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	ret, err := n.do(openCall(name, flags))
	runtime.KeepAlive(name)
	if err != nil {
		return -1, explainOpen(&os.PathError{Op: "open", Path: path, Err: err}, flags)
	}
	return int(ret), nil
}

// openCall opens the file with the name, which must not move.
func openCall(name *byte, flags int) call {
	at := unix.AT_FDCWD
	return call{nr: unix.SYS_OPENAT, args: [6]uintptr{uintptr(at), uintptr(unsafe.Pointer(name)), uintptr(flags | unix.O_CLOEXEC)}}
}

// File returns a descriptor of the namespace, for setns of other programs and
// libraries. It belongs to the caller and keeps the namespace alive.
func (n *NS) File() (*os.File, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.fd < 0 {
		return nil, net.ErrClosed
	}
	fd, err := WithRoom(func() (int, error) { return unix.FcntlInt(uintptr(n.fd), unix.F_DUPFD_CLOEXEC, 0) })
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), "netns"), nil
}

// Close gives the namespace up. The kernel ends it when its last socket, process and
// descriptor are gone. Closing twice is harmless. Calls in progress are completed
// first, later ones return [net.ErrClosed].
func (n *NS) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fd < 0 {
		return nil
	}
	n.unregister()
	n.closeReady()
	n.pool.drop(CloseTAP)
	n.h.leave(n)
	err := unix.Close(n.fd)
	n.fd = -1
	n.h.release()
	return os.NewSyscallError("close", err)
}

// CloseWith is Close, and returns a last socket in the namespace; -1 if there is none.
// It takes the place of the namespace's own descriptor, so that there is room for it at
// the limit of descriptors. idle says that no process has sockets in the namespace,
// apart from those of netlink and those that were never bound or connected.
func (n *NS) CloseWith(domain, typ, proto int) (fd int, idle bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fd < 0 {
		return -1, false
	}
	n.unregister()
	n.closeReady()
	n.pool.drop(CloseTAP)
	r := newRequest(n)
	defer r.free()
	r.toBase = true
	r.calls = append(r.calls,
		call{nr: unix.SYS_CLOSE, args: [6]uintptr{uintptr(n.fd)}},
		socketCall(domain, typ, proto),
		openCall(&protocols[0], unix.O_RDONLY))
	n.h.do(r)
	if !r.begun {
		// The helper is gone. If it may have closed this, the number may be another
		// file's by now, and a descriptor that stays open does less harm.
		unix.Close(n.fd)
	}
	n.fd = -1
	n.h.release()
	fd = -1
	if ret, err := r.result(1); err == nil {
		fd = int(ret)
	}
	if ret, err := r.result(2); err == nil {
		f := os.NewFile(ret, "/proc/net/protocols")
		defer f.Close()
		text, err := io.ReadAll(f)
		idle = err == nil && noneInUse(string(text))
	}
	return fd, idle
}

var protocols = []byte("/proc/net/protocols\x00")

// noneInUse reads in /proc/net/protocols whether there are no sockets but those of
// netlink. The kernel counts them by namespace, most of them only while they have a
// port. The columns are name, size and sockets.
func noneInUse(text string) bool {
	head, rows, ok := strings.Cut(text, "\n")
	if h := strings.Fields(head); !ok || len(h) < 3 || h[2] != "sockets" {
		return false
	}
	for row := range strings.Lines(rows) {
		f := strings.Fields(row)
		if len(f) < 3 || f[2] != "0" && f[0] != "NETLINK" {
			return false
		}
	}
	return true
}
