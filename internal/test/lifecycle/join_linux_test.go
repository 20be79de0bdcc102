//go:build amd64 || arm64

package lifecycle

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/testenv/private"
	"golang.org/x/sys/unix"
)

func init() { register(lend, join, joinForever, joinNamed, joinWrong, handOut, dialOut, joinInherited) }

// lend makes a stack for other processes, prints the path of its namespace, and keeps it
// until the input ends.
func lend() {
	s := must(vdestack.Open("mem://lend", "10.9.0.1/24"))
	f := must(s.NetNS())
	fmt.Printf("/proc/%d/fd/%d\n", os.Getpid(), f.Fd())
	io.Copy(io.Discard, os.Stdin)
	check(s.Close())
}

// lent starts a lender, and returns the path of its namespace.
func lent(t *testing.T) (path string, in io.Closer) {
	t.Helper()
	out, in := launch(t, program(t, "lend"))
	return readLine(t, out), in
}

// linkNames returns the names of a stack's interfaces.
func linkNames(s *vdestack.Stack) string {
	nl := must(s.RTNL())
	defer nl.Close()
	links := must(nl.Links())
	var names []string
	for _, l := range links {
		names = append(names, l.Name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// echo sends a word through a connection and back.
func echo(from *vdestack.Stack, ln net.Listener) {
	done := make(chan bool)
	go func() {
		defer close(done)
		c := must(ln.Accept())
		word := make([]byte, 5) // io.Copy would make pipes that stay
		must(io.ReadFull(c, word))
		must(c.Write(word))
		c.Close()
	}()
	c, err := from.DialContext(contextOf(20*time.Second), "tcp", ln.Addr().String())
	if err != nil {
		out, _ := from.Command(contextOf(time.Minute), "sh", "-c", "ip -s addr; ip neigh").CombinedOutput()
		fail("%v: %s%+v", err, out, from.Stats())
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	must(c.Write([]byte("hello")))
	must(io.ReadFull(c, make([]byte, 5)))
	<-done
}

func joined(path, vnl, name, addr string) *vdestack.Stack {
	return newStack(vdestack.Config{
		Name: "joined", NetNS: path,
		Interfaces: []vdestack.Interface{{VNL: vnl, Name: name, Addrs: testenv.Prefixes(addr)}},
	})
}

// use joins a namespace that has the given interfaces, uses the stacks in every way, and
// closes them.
func use(path, there string) {
	useOn("mem://join", path, there)
	useOn("lan://join", path, there)
}

func useOn(vnl, path, there string) {
	before := settled(1)
	s := joined(path, vnl, "join0", "10.8.0.1/24")
	if got := strings.Fields(linkNames(s)); !slices.Contains(got, "join0") || len(got) != 1+len(strings.Fields(there)) {
		fail("interfaces %q, want join0 and %s", got, there)
	}
	other := must(vdestack.Open(vnl, "10.8.0.2/24"))
	ln := must(s.Listen("tcp", "10.8.0.1:0"))
	echo(other, ln)
	out, err := s.Command(contextOf(time.Minute), "sh", "-c",
		"ip link set join0 mtu 1400 && ip -br addr && cat /proc/sys/net/ipv4/conf/join0/forwarding").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "10.8.0.1/24") {
		fail("%v: %s", err, out)
	}
	check(s.Sysctl("net.ipv4.conf.join0.forwarding", "1"))
	_, err = vdestack.New(contextOf(time.Minute), vdestack.Config{NetNS: path, Interfaces: []vdestack.Interface{{VNL: vnl, Name: "join0"}}})
	if !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.EBUSY) {
		fail("an interface of the same name: %v", err)
	}
	wantText("an interface of the same name", err, "join0")
	// On a network of its own: the kernel answers for all addresses of a namespace on
	// each interface, and the first of these two goes away.
	second := joined(path, vnl+"2", "join1", "10.8.2.1/24")
	beside := must(vdestack.Open(vnl+"2", "10.8.2.2/24"))
	checkSurrounding(before)
	check(s.Close())
	if _, err := s.Dial("tcp", "10.8.0.2:80"); !errors.Is(err, net.ErrClosed) {
		fail("dialling from a closed stack: %v", err)
	}
	ln = must(second.Listen("tcp", "10.8.2.1:0"))
	echo(beside, ln)
	check(second.Close())
	check(beside.Close())
	check(other.Close())
	third := newStack(vdestack.Config{NetNS: path})
	if got := linkNames(third); got != there {
		fail("interfaces %q after Close, want %q", got, there)
	}
	check(third.Close())
}

// join joins the namespace of another process several times, also while it has stacks of
// its own, and leaves nothing behind.
func join() {
	path := os.Args[1]
	check(testenv.Closing(vdestack.Open("")))
	// With CAP_SYS_ADMIN there is a second helper, which stays; else there is one as long
	// as the namespace is in use.
	testenv.Closing(vdestack.New(contextOf(time.Minute), vdestack.Config{NetNS: path}))
	before, helpers := descriptors(), children()
	for range 3 {
		use(path, "lo vde0")
	}
	wantHelpers(len(helpers), "after Close")
	wantDescriptors(before)

	// A namespace of the process itself needs no further helper.
	s := must(vdestack.Open("mem://own", "10.7.0.1/24"))
	f := must(s.NetNS())
	use("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), "lo vde0")
	check(f.Close())
	ln := must(s.Listen("tcp", "10.7.0.1:0"))
	echo(s, ln)
	check(s.Close())
	if got := children(); !slices.Equal(got, helpers) {
		fail("children %v, %v before", got, helpers)
	}
}

// TestJoin joins the namespace of another process of the same user.
func TestJoin(t *testing.T) {
	testenv.Long(t)
	path, _ := lent(t)
	run(t, program(t, "join", path))
}

// TestJoinOutlives joins the stack of a program that then ends. The namespace lives as
// long as it is joined, without the interfaces of that program.
func TestJoinOutlives(t *testing.T) {
	path, lender := lent(t)
	out, in := launch(t, program(t, "joinForever", path))
	readLine(t, out)
	lender.Close()
	testenv.Eventually(t, "the end of the lender", func() bool { _, err := os.Stat(path); return err != nil })
	in.Close()
	if line := readLine(t, out); line != "join0 lo" {
		t.Errorf("interfaces %q", line)
	}
}

// joinForever joins a namespace, prints its helpers, and the interfaces of the namespace
// when the input ends.
func joinForever() {
	s := joined(os.Args[1], "mem://join", "join0", "10.8.0.1/24")
	for _, pid := range children() {
		fmt.Print(pid, " ")
	}
	fmt.Println()
	io.Copy(io.Discard, os.Stdin)
	fmt.Println(await(10*time.Second, "join0 and lo", func() string { return linkNames(s) }, func(names string) bool { return names == "join0 lo" }))
	check(s.Close())
}

// TestJoinKill kills a program that joined a namespace. Its helpers, which may have
// entered another user namespace, die with it, and its interface goes.
func TestJoinKill(t *testing.T) {
	path, _ := lent(t)
	cmd := program(t, "joinForever", path)
	out, _ := launch(t, cmd)
	var fds []int
	for pid := range strings.FieldsSeq(readLine(t, out)) {
		fds = append(fds, pidfd(t, pid))
	}
	if len(fds) == 0 {
		t.Fatal("no helpers")
	}
	cmd.Process.Kill()
	cmd.Wait()
	for _, fd := range fds {
		if !ended(fd, 5*time.Second) {
			t.Error("a helper outlives its program")
		}
	}
	cmd = program(t, "joinForever", path)
	out, _ = launch(t, cmd) // fails if join0 still exists
	readLine(t, out)
}

// joinNamed joins a namespace of "ip netns", with CAP_SYS_ADMIN in its user namespace.
func joinNamed() {
	ip := func(args ...string) string {
		out, err := exec.Command("ip", args...).CombinedOutput()
		if err != nil {
			fail("ip %q: %v: %s", args, err, out)
		}
		return string(out)
	}
	check(unix.Mount("none", "/run", "tmpfs", 0, "")) // of our mount namespace
	ip("netns", "add", "lab")
	ip("-n", "lab", "link", "set", "lo", "up")
	ip("-n", "lab", "link", "add", "br0", "type", "bridge")
	use("/run/netns/lab", "br0 lo")
	if got := ip("-n", "lab", "-br", "link"); strings.Count(got, "\n") != 2 || !strings.Contains(got, "br0") {
		fail("interfaces: %s", got)
	}
	// It is no longer in use.
	ip("netns", "del", "lab")
	lab := func() error {
		return testenv.Closing(vdestack.New(contextOf(time.Minute), vdestack.Config{NetNS: "/run/netns/lab"}))
	}
	if err := lab(); !errors.Is(err, fs.ErrNotExist) {
		fail("a namespace that is gone: %v", err)
	}
	wantText("a namespace that is gone", lab(), "/run/netns/lab")
	// After a reboot there is still the file on which the namespace was mounted.
	check(os.WriteFile("/run/netns/lab", nil, 0o600))
	wantText("a namespace that is no more", lab(), "/run/netns/lab: it is no network namespace")
}

func TestJoinNamed(t *testing.T) {
	testenv.Long(t)
	testenv.Need(t, "ip", "iproute2")
	cmd := program(t, "joinNamed")
	cmd.Env = append(cmd.Env, "PATH=/usr/sbin:/sbin:/usr/bin:/bin")
	cmd.SysProcAttr = new(syscall.SysProcAttr)
	if os.Geteuid() != 0 {
		cmd.SysProcAttr = private.Root(unix.CLONE_NEWNET)
	}
	cmd.SysProcAttr.Unshareflags = unix.CLONE_NEWNS
	run(t, cmd)
}

// joinWrong tries to join what is not a namespace, or not one that it may join.
func joinWrong() {
	dir := os.Args[1]
	file, fifo := filepath.Join(dir, "file"), filepath.Join(dir, "fifo")
	check(os.WriteFile(file, nil, 0o600))
	check(unix.Mkfifo(fifo, 0o600))
	before := descriptors()
	for path, want := range map[string]string{
		"/nonexistent/netns": "no such file",
		dir:                  "it is no network namespace",
		file:                 "it is no network namespace",
		fifo:                 "it is no network namespace",
		"/proc/self/ns/mnt":  "it is no network namespace",
		"/proc/self/ns/net":  "CAP_SYS_ADMIN",
		"/proc/1/ns/net":     "", // invisible, or of a user namespace that we are not in
	} {
		if os.Geteuid() == 0 && (want == "CAP_SYS_ADMIN" || want == "") {
			continue
		}
		err := testenv.Closing(vdestack.New(contextOf(time.Minute), vdestack.Config{NetNS: path}))
		fmt.Println(err)
		wantText("joining "+path, err, path, want)
	}
	wantHelpers(0, "in the end")
	if after := descriptors(); len(after) > len(before)+2 { // the poller's
		fail("descriptors: %v, %v before", after, before)
	}
}

func TestJoinWrong(t *testing.T) { run(t, program(t, "joinWrong", t.TempDir())) }

// handOut gives the namespace of a stack to children, which make sockets in it.
func handOut() {
	s := must(vdestack.Open("mem://out", "10.7.0.1/24"))
	defer s.Close()
	ln := must(s.Listen("tcp", "10.7.0.1:0"))
	answer := func() {
		c := must(ln.Accept())
		io.WriteString(c, "hello")
		c.Close()
	}
	expect := func(out []byte, err error) {
		if err != nil || string(out) != "hello" {
			fail("got %q, %v", out, err)
		}
	}
	ctx := contextOf(time.Minute)
	netns := must(s.NetNS())
	const getUserNS = 0xb701 // NS_GET_USERNS of linux/nsfs.h
	fd := must(unix.IoctlRetInt(int(netns.Fd()), getUserNS))
	os.Setenv(testenv.ProgramVariable, "dialOut")
	exe := must(os.Readlink("/proc/self/exe"))
	child := exec.CommandContext(ctx, "nsenter", "--preserve-credentials",
		"--user=/proc/self/fd/4", "--net=/proc/self/fd/3", exe, ln.Addr().String())
	child.ExtraFiles = []*os.File{netns, os.NewFile(uintptr(fd), "userns")}
	child.Stderr = os.Stdout
	go answer()
	expect(child.Output())

	go answer()
	expect(s.Command(ctx, "/proc/self/exe", ln.Addr().String()).Output())

	// A program that knows of stacks needs the descriptor only.
	os.Setenv(testenv.ProgramVariable, "joinInherited")
	child = exec.CommandContext(ctx, exe, ln.Addr().String())
	child.ExtraFiles = []*os.File{netns}
	child.Stderr = os.Stdout
	go answer()
	expect(child.Output())

	// The namespace lives on in a descriptor that was handed out.
	check(s.Close())
	again := newStack(vdestack.Config{NetNS: "/proc/self/fd/" + strconv.Itoa(int(netns.Fd()))})
	if got := linkNames(again); got != "lo" {
		fail("interfaces %q", got)
	}
	check(again.Close())
}

// dialOut knows nothing of stacks.
func dialOut() {
	c := must(net.Dial("tcp", os.Args[1]))
	io.Copy(os.Stdout, c)
}

// joinInherited makes sockets in the namespace that it has inherited.
func joinInherited() {
	s := newStack(vdestack.Config{NetNS: "/proc/self/fd/3"})
	ln := must(s.Listen("tcp", "10.7.0.1:0"))
	echo(s, ln)
	c := must(s.Dial("tcp", os.Args[1]))
	io.Copy(os.Stdout, c)
	check(s.Close())
}

// TestNetNS has children make sockets in a stack.
func TestNetNS(t *testing.T) {
	testenv.Need(t, "nsenter", "util-linux")
	run(t, program(t, "handOut"))
}
