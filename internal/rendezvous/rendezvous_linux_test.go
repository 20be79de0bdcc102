package rendezvous

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	testenv.Programs["member"] = member
	testenv.Programs["impostor"] = impostor
	testenv.Programs["guest"] = guest
	testenv.Main(m)
}

// pathIn returns a path in a new directory.
func pathIn(t testing.TB) string {
	t.Helper()
	return filepath.Join(testenv.ShortDir(t), "net")
}

// A thing is what members share, with a number of its own.
type thing struct {
	*Member
	id   uint64
	made bool
}

func inode(fd int) uint64 {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return 0
	}
	return st.Ino
}

// join joins with a new file of the kernel as the thing.
func join(ctx context.Context, path string) (*thing, error) {
	var n thing
	var err error
	n.Member, err = Join(ctx, path, func() (int, error) {
		fd, err := unix.MemfdCreate("thing", unix.MFD_CLOEXEC)
		n.id, n.made = inode(fd), true
		return fd, err
	}, func(fd int) error {
		n.id = inode(fd)
		return unix.Close(fd)
	})
	return &n, err
}

func mustJoin(t testing.TB, path string) *thing {
	t.Helper()
	return testenv.Must(join(testenv.Context(t), path))(t)
}

// wantFiles wants these files beside the path.
func wantFiles(t testing.TB, path string, want ...string) {
	t.Helper()
	var got []string
	for _, e := range testenv.Must(os.ReadDir(filepath.Dir(path)))(t) {
		got = append(got, e.Name())
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("files %v, want %v", got, want)
	}
}

// TestMembers joins and leaves one after the other: all share what the first has made.
func TestMembers(t *testing.T) {
	testenv.NoLeaks(t)
	path := pathIn(t)
	a := mustJoin(t, path)
	wantFiles(t, path, "net", "net.lock")
	if st := testenv.Must(os.Lstat(path))(t); st.Mode() != fs.ModeSocket|0o700 {
		t.Errorf("the socket has mode %v", st.Mode())
	}
	if st := testenv.Must(os.Lstat(path + lockSuffix))(t); st.Mode() != fs.ModeSticky|0o600 {
		t.Errorf("the lock file has mode %v", st.Mode())
	}
	b := mustJoin(t, path)
	a.Leave()
	c := mustJoin(t, path)
	c.Leave()
	d := mustJoin(t, path)
	b.Leave()
	e := mustJoin(t, path)
	d.Leave()
	for _, n := range []*thing{b, c, d, e} {
		if n.id != a.id || n.made {
			t.Errorf("got %d (made: %v), want %d", n.id, n.made, a.id)
		}
	}
	e.Leave()
	wantFiles(t, path)
	if n := mustJoin(t, path); !n.made {
		t.Error("it outlived its members")
	} else {
		n.Leave()
	}
}

// TestRace joins and leaves at the same time: nothing is made while there are members.
func TestRace(t *testing.T) {
	testenv.NoLeaks(t)
	path := pathIn(t)
	var present sync.Map // members, between Join and Leave
	var made atomic.Int32
	var wg sync.WaitGroup
	leave := func(n *thing) {
		if n != nil {
			present.Delete(n)
			n.Leave()
		}
	}
	for range 8 {
		wg.Go(func() {
			var last *thing
			for i := range 40 {
				n, err := join(testenv.Context(t), path)
				if err != nil {
					t.Error(err)
					break
				}
				if n.made {
					made.Add(1)
				}
				present.Store(n, true)
				present.Range(func(o, _ any) bool {
					if other := o.(*thing).id; other != n.id {
						t.Errorf("members share %d and %d", n.id, other)
					}
					return true
				})
				leave(last)
				if last = n; i%4 == 0 {
					leave(last)
					last = nil
				}
			}
			leave(last)
		})
	}
	wg.Wait()
	t.Log(made.Load(), "made")
	wantFiles(t, path)
}

// TestMakeFails wants nothing left, and the next one to make it.
func TestMakeFails(t *testing.T) {
	testenv.NoLeaks(t)
	path := pathIn(t)
	fault := errors.New("no")
	_, err := Join(t.Context(), path, func() (int, error) { return -1, fault }, nil)
	plugtest.WantError(t, err, "no", fault)
	wantFiles(t, path)
	a := mustJoin(t, path)
	_, err = Join(t.Context(), path, nil, func(fd int) error { unix.Close(fd); return fault })
	plugtest.WantError(t, err, "what the member that serves", fault)
	b := mustJoin(t, path)
	a.Leave()
	if b.made {
		t.Error("a second one was made")
	}
	b.Leave()
	wantFiles(t, path)
}

// member is a program that is a member until its input ends.
func member() {
	n, err := join(context.Background(), os.Args[1])
	if err != nil {
		fmt.Println("FAIL", err)
		os.Exit(1)
	}
	fmt.Println(n.id)
	io.Copy(io.Discard, os.Stdin)
	n.Leave()
}

// A process is another program.
type process struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func launch(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{Cmd: cmd, in: testenv.Must(cmd.StdinPipe())(t), out: bufio.NewReader(testenv.Must(cmd.StdoutPipe())(t))}
	cmd.Stderr = os.Stderr
	testenv.Check(t, cmd.Start())
	t.Cleanup(p.kill)
	return p
}

func (p *process) kill() {
	p.Process.Kill()
	p.Wait()
}

func (p *process) line(t testing.TB) string {
	t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	return line[:len(line)-1]
}

// TestKilled kills members at random, the one that serves included. Those that are left
// share the same with newcomers, and after the last another one begins.
func TestKilled(t *testing.T) {
	testenv.Long(t)
	path := pathIn(t)
	var all []*process
	var id string
	for range 40 {
		for len(all) < 3 {
			p := launch(t, testenv.Program(t.Context(), t, "member", path))
			got := p.line(t)
			if len(all) > 0 && got != id {
				t.Fatalf("a newcomer has %s, the others %s", got, id)
			}
			id = got
			all = append(all, p)
		}
		i := rand.IntN(len(all))
		all[i].kill()
		all = append(all[:i], all[i+1:]...)
		if rand.IntN(8) == 0 {
			for _, p := range all {
				p.kill()
			}
			all = nil
		}
	}
	for _, p := range all {
		p.kill()
	}
	n := mustJoin(t, path)
	if !n.made {
		t.Error("it outlived its members")
	}
	n.Leave()
	wantFiles(t, path)
}

// serveWith serves a path with a function for each connection.
func serveWith(t testing.TB, path string, f func(c *net.UnixConn)) {
	t.Helper()
	l := testenv.Must(net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"}))(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			f(c)
			t.Cleanup(func() { c.Close() })
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
}

// TestHostile joins where something else is. Nothing else is removed.
func TestHostile(t *testing.T) {
	sends := func(text string, fds ...int) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			serveWith(t, path, func(c *net.UnixConn) { c.WriteMsgUnix([]byte(text), unix.UnixRights(fds...), nil) })
		}
	}
	ours := string(testenv.Must(newHello())(t))
	link := func(suffix string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			testenv.Check(t, os.WriteFile(path+".target", nil, 0o600))
			testenv.Check(t, os.Symlink(path+".target", path+suffix))
		}
	}
	owned := func(uid int, name func(path string) string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			testenv.NeedRoot(t, "giving files away")
			serveWith(t, path, func(c *net.UnixConn) {})
			testenv.Check(t, os.WriteFile(path+lockSuffix, nil, 0o600))
			testenv.Check(t, os.Chown(name(path), uid, -1))
		}
	}
	for _, tt := range []struct {
		name  string
		set   func(t *testing.T, path string)
		error string
		is    error
	}{
		{"a link", link(""), "is not a socket (a symbolic link is not followed)", unix.ENOTSOCK},
		{"a link as lock", link(lockSuffix), "is a symbolic link", unix.ELOOP},
		{"a file", func(t *testing.T, path string) { testenv.Check(t, os.WriteFile(path, nil, 0o600)) }, "is not a socket", unix.ENOTSOCK},
		{"a directory as lock", func(t *testing.T, path string) { testenv.Check(t, os.Mkdir(path+lockSuffix, 0o700)) }, "is a directory", unix.EISDIR},
		{"another file as lock", func(t *testing.T, path string) { testenv.Check(t, os.WriteFile(path+lockSuffix, []byte("{}"), 0o644)) }, "is no lock file", fs.ErrExist},
		{"a second name of the lock", func(t *testing.T, path string) {
			testenv.Check(t, os.WriteFile(path+".target", nil, 0o600))
			testenv.Check(t, os.Link(path+".target", path+lockSuffix))
		}, "is no lock file", fs.ErrExist},
		{"a pipe as lock", func(t *testing.T, path string) { testenv.Check(t, unix.Mkfifo(path+lockSuffix, 0o600)) }, "is not a file", fs.ErrExist},
		{"another kind of socket", func(t *testing.T, path string) {
			l := testenv.Must(net.Listen("unix", path))(t)
			t.Cleanup(func() { l.Close() })
		}, "is the socket of another program", unix.EPROTOTYPE},
		{"silence", func(t *testing.T, path string) { serveWith(t, path, func(*net.UnixConn) {}) }, fmt.Sprintf("process %d (", os.Getpid()), os.ErrDeadlineExceeded},
		{"junk", sends("junk"), "sends what no network", unix.EPROTO},
		{"junk and a descriptor", sends("junk", 0), "sends what no network", unix.EPROTO},
		{"long junk", sends(string(make([]byte, 60000))), "sends what no network", unix.EPROTO},
		{"no descriptor", sends(ours), "sends what no network", unix.EPROTO},
		{"two descriptors", sends(ours, 0, 1), "sends what no network", unix.EPROTO},
		{"another user namespace", sends(greeting+"user:[1]\n", 0), "is in another user namespace", unix.EPERM},
		{"a directory for everybody", func(t *testing.T, path string) { testenv.Check(t, os.Chmod(filepath.Dir(path), 0o777)) }, "everybody may write to the directory", fs.ErrPermission},
		{"a foreign directory", owned(65534, filepath.Dir), "belongs to user 65534", fs.ErrPermission},
		{"a foreign socket", owned(65534, func(path string) string { return path }), "belongs to user 65534", fs.ErrPermission},
		{"a dead foreign socket", func(t *testing.T, path string) {
			testenv.NeedRoot(t, "giving files away")
			testenv.Check(t, unix.Mknod(path, unix.S_IFSOCK|0o700, 0))
			testenv.Check(t, os.Chown(path, 65534, -1))
		}, "belongs to user 65534", fs.ErrPermission},
		{"a foreign lock", owned(65534, func(path string) string { return path + lockSuffix }), "belongs to user 65534", fs.ErrPermission},
		{"no directory", func(t *testing.T, path string) { testenv.Check(t, os.Remove(filepath.Dir(path))) }, "no such file", fs.ErrNotExist},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			path := pathIn(t)
			tt.set(t, path)
			before := sockio.IDAt(path)
			ctx := testenv.Context(t)
			if tt.is == os.ErrDeadlineExceeded {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 200*time.Millisecond)
				defer cancel()
			}
			n, err := join(ctx, path)
			if err == nil {
				n.Leave()
			}
			plugtest.WantError(t, err, tt.error, tt.is)
			if sockio.IDAt(path) != before {
				t.Error("what was at the path is gone")
			}
		})
	}
	_, err := join(t.Context(), "/tmp/"+string(make([]byte, 200)))
	plugtest.WantError(t, err, "a socket's path at most 107")
}

// TestBusy joins where nobody is let in. The error says so wherever the attempt is when its
// context ends: in the pause, or in the connection after it.
func TestBusy(t *testing.T) {
	for _, at := range []int{1, 2, 3} {
		testenv.NoLeaks(t)
		path := pathIn(t)
		ctx, cancel := context.WithCancel(t.Context())
		come := 0
		serveWith(t, path, func(c *net.UnixConn) {
			if come++; come == at+1 {
				cancel()
				return
			}
			c.Close()
		})
		_, err := join(ctx, path)
		plugtest.WantError(t, err, "does not let newcomers in", context.Canceled)
	}
}

// impostor serves the path, and sends its input.
func impostor() {
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: os.Args[1], Net: "unixpacket"})
	fmt.Println(err)
	c, err := l.AcceptUnix()
	hello, _ := newHello()
	if err == nil {
		c.WriteMsgUnix(hello, unix.UnixRights(0), nil)
	}
	io.Copy(io.Discard, os.Stdin)
}

// guest connects to the path, and prints how many bytes and descriptors it gets.
func guest() {
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: os.Args[1], Net: "unixpacket"})
	if err != nil {
		fmt.Println(err)
		return
	}
	oob := make([]byte, 100)
	n, oobn, _, _, err := c.ReadMsgUnix(make([]byte, 100), oob)
	fmt.Println(n, oobn, err)
}

// asNobody has a program run as another user.
func asNobody(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
	testenv.NeedRoot(t, "being another user")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	return cmd
}

// TestOtherUser has a process of another user at either end of the socket.
func TestOtherUser(t *testing.T) {
	path := pathIn(t)
	dir := filepath.Dir(path)
	testenv.Check(t, os.Chmod(dir, os.ModeSticky|0o777))
	n := mustJoin(t, path)
	g := launch(t, asNobody(t, testenv.Program(t.Context(), t, "guest", path)))
	if got := g.line(t); !strings.HasSuffix(got, "permission denied") {
		t.Errorf("another user: %s", got)
	}
	g = launch(t, asNobody(t, testenv.Program(t.Context(), t, "member", path)))
	if got := g.line(t); !strings.Contains(got, path+lockSuffix+" belongs to user 0") {
		t.Errorf("a member of another user: %s", got)
	}
	testenv.Check(t, os.Chmod(path, 0o777)) // as if somebody had changed it
	g = launch(t, asNobody(t, testenv.Program(t.Context(), t, "guest", path)))
	if got := g.line(t); !strings.HasPrefix(got, "0 0 ") || !strings.HasSuffix(got, "EOF") {
		t.Errorf("another user gets %s", got)
	}
	n.Leave()
	wantFiles(t, path)

	i := launch(t, asNobody(t, testenv.Program(t.Context(), t, "impostor", path)))
	if got := i.line(t); got != "<nil>" {
		t.Fatal(got)
	}
	_, err := join(t.Context(), path)
	plugtest.WantError(t, err, path+" belongs to user 65534", fs.ErrPermission)
	testenv.Check(t, os.Chown(path, 0, 0)) // as if somebody had given it to us
	_, err = join(t.Context(), path)
	plugtest.WantError(t, err, "the process at the other end of "+path+" belongs to user 65534", fs.ErrPermission)
}

// TestJunk has clients that send to the member that serves, or say nothing. Others get
// in.
func TestJunk(t *testing.T) {
	testenv.NoLeaks(t)
	path := pathIn(t)
	a := mustJoin(t, path)
	for i := range 100 {
		c := testenv.Must(net.Dial("unixpacket", path))(t).(*net.UnixConn)
		defer c.Close()
		if i%2 == 0 {
			c.WriteMsgUnix([]byte("junk "+strconv.Itoa(i)), unix.UnixRights(0, 1, 2), nil)
			c.Write([]byte("junk"))
		}
	}
	b := mustJoin(t, path)
	if b.id != a.id {
		t.Error("another thing")
	}
	b.Leave()
	a.Leave()
	wantFiles(t, path)
}

// TestSilent has more connections that say nothing than the member that serves has
// descriptors for. They take a quarter of them, newcomers get in as long as that is not
// taken by members, and members stay.
func TestSilent(t *testing.T) {
	testenv.NoLeaks(t)
	path := pathIn(t)
	p := launch(t, testenv.Program(t.Context(), t, "member", path))
	id := p.line(t)
	descriptors := func() int {
		return len(testenv.Must(os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Process.Pid)))(t))
	}
	const limit = 80
	testenv.Check(t, unix.Prlimit(p.Process.Pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: limit}, nil))
	before := descriptors()
	a := mustJoin(t, path)
	defer a.Leave()
	server := a.server
	for range backlog - 1 { // at once, so that all have room there
		c := testenv.Must(net.Dial("unixpacket", path))(t)
		defer c.Close()
	}
	for range limit/4 - 1 {
		b := mustJoin(t, path)
		if got := strconv.FormatUint(b.id, 10); got != id {
			t.Errorf("joined %s, want %s", got, id)
		}
		defer b.Leave()
	}
	testenv.Eventually(t, "a quarter of the descriptors", func() bool { return descriptors()-before <= limit/4 })
	a.mu.Lock()
	if a.server != server {
		t.Error("the first member was dropped")
	}
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := join(ctx, path)
	plugtest.WantError(t, err, "its connections take a quarter of its descriptors", context.DeadlineExceeded)
}

// TestRemoved has somebody remove the socket: newcomers
// get in when the member that serves has made it again.
func TestRemoved(t *testing.T) {
	testenv.NoLeaks(t)
	path := pathIn(t)
	a, b := mustJoin(t, path), mustJoin(t, path)
	testenv.Check(t, os.Remove(path))
	c := mustJoin(t, path)
	if c.made || c.id != a.id {
		t.Error("another thing")
	}
	for _, m := range []*thing{a, b, c} {
		m.Leave()
	}
	wantFiles(t, path)
}

// TestStopped has the only member stopped: newcomers give up, and leave it alone.
func TestStopped(t *testing.T) {
	path := pathIn(t)
	p := launch(t, testenv.Program(t.Context(), t, "member", path))
	id := p.line(t)
	testenv.Check(t, p.Process.Signal(unix.SIGSTOP))
	testenv.Must(unix.Wait4(p.Process.Pid, nil, unix.WUNTRACED, nil))(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond) // to connect
	defer cancel()
	_, err := join(ctx, path)
	text, stopped := sockio.Process(p.Process.Pid)
	if !stopped {
		t.Error(text, "is not stopped")
	}
	plugtest.WantError(t, err, text+" serves "+path, os.ErrDeadlineExceeded)
	testenv.Check(t, p.Process.Signal(unix.SIGCONT))
	n := mustJoin(t, path)
	if got := strconv.FormatUint(n.id, 10); got != id {
		t.Errorf("joined %s, want %s", got, id)
	}
	n.Leave()
	p.in.Close()
	testenv.Check(t, p.Wait())
	wantFiles(t, path)
}

// TestBadServer has a server that lets members in and sends more, or ends: they come back
// without haste.
func TestBadServer(t *testing.T) {
	testenv.NoLeaks(t)
	hello := testenv.Must(newHello())(t)
	for name, then := range map[string]func(c *net.UnixConn){
		"junk":   func(c *net.UnixConn) { c.Write([]byte("junk")) },
		"an end": func(c *net.UnixConn) { c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			path := pathIn(t)
			var came atomic.Int32
			serveWith(t, path, func(c *net.UnixConn) {
				came.Add(1)
				c.WriteMsgUnix(hello, unix.UnixRights(0), nil)
				then(c)
			})
			n := mustJoin(t, path)
			time.Sleep(20 * time.Millisecond) // without pauses it comes hundreds of times
			n.Leave()
			if came := came.Load(); came > 100 {
				t.Errorf("it came %d times", came)
			}
		})
	}
}

// TestHeldDoor has somebody else hold the door: those who give up leave one call that
// waits, and not one each.
func TestHeldDoor(t *testing.T) {
	testenv.NoLeaks(t)
	path := pathIn(t)
	door := testenv.Must(enter(t.Context(), path))(t)
	before := runtime.NumGoroutine()
	for range 8 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		_, err := join(ctx, path)
		cancel()
		plugtest.WantError(t, err, "holds the lock of "+path+lockSuffix, unix.EBUSY)
	}
	if n := runtime.NumGoroutine() - before; n > 2 {
		t.Errorf("%d more goroutines", n)
	}
	door.Close()
	mustJoin(t, path).Leave()
	wantFiles(t, path)
}

// TestLeaveHeldDoor leaves while a newcomer holds the door: only the last member waits for
// it.
func TestLeaveHeldDoor(t *testing.T) {
	testenv.NoLeaks(t)
	path := pathIn(t)
	a, b := mustJoin(t, path), mustJoin(t, path)
	door := testenv.Must(enter(t.Context(), path))(t)
	start := time.Now()
	if b.Leave() {
		t.Error("it was the last one")
	}
	if d := time.Since(start); d >= leaveTime {
		t.Errorf("it took %v", d)
	}
	door.Close()
	if !a.Leave() {
		t.Error("it was not the last one")
	}
	wantFiles(t, path)
}

// TestMisplaced has a member whose path leads elsewhere, as after chroot: it does not serve
// where no newcomer looks.
func TestMisplaced(t *testing.T) {
	testenv.NoLeaks(t)
	dir := filepath.Join(testenv.ShortDir(t), "dir")
	testenv.Check(t, os.Mkdir(dir, 0o700))
	path := filepath.Join(dir, "net")
	a, b := mustJoin(t, path), mustJoin(t, path)
	testenv.Check(t, os.Rename(dir, dir+".old"))
	testenv.Check(t, os.Mkdir(dir, 0o700))
	if err := b.serve(); err != unix.ESTALE {
		t.Errorf("got %v, want %v", err, unix.ESTALE)
	}
	wantFiles(t, path)
	testenv.Check(t, os.Remove(dir))
	testenv.Check(t, os.Rename(dir+".old", dir))
	a.Leave()
	b.Leave()
	wantFiles(t, path)
}

// TestLimit joins with few descriptors: every error says so.
func TestLimit(t *testing.T) {
	testenv.NoLeaks(t)
	path := pathIn(t)
	p := launch(t, testenv.Program(t.Context(), t, "member", path))
	p.line(t)
	defer p.kill()
	var old unix.Rlimit
	testenv.Check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	used := testenv.Must(unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0))(t)
	unix.Close(used)
	failed := 0
	for more := 0; ; more++ {
		limit := old
		limit.Cur = uint64(used + more)
		testenv.Check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
		n, err := join(testenv.Context(t), path)
		if err == nil {
			n.Leave()
			break
		}
		plugtest.WantError(t, err, "", unix.EMFILE)
		failed++
	}
	if failed < 3 { // for the lock file, the connection and what comes by it
		t.Errorf("it failed %d times", failed)
	}
}
