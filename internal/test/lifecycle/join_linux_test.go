//go:build amd64 || arm64

package lifecycle

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
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
	"golang.org/x/sys/unix"
)

func init() {
	programs["lend"] = lend
	programs["join"] = join
	programs["joinForever"] = joinForever
	programs["joinNamed"] = joinNamed
	programs["joinWrong"] = joinWrong
	programs["handOut"] = handOut
	programs["dialOut"] = dialOut
	programs["joinInherited"] = joinInherited
}

// lend makes a stack for other processes, says where it is, and keeps it until
// the input ends.
func lend() {
	s, err := vdestack.Open("mem://lend", "10.9.0.1/24")
	check(err)
	f, err := s.NetNS()
	check(err)
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
	nl, err := s.RTNL()
	check(err)
	defer nl.Close()
	links, err := nl.Links()
	check(err)
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
		c, err := ln.Accept()
		check(err)
		word := make([]byte, 5) // io.Copy would make pipes, which stay
		_, err = io.ReadFull(c, word)
		check(err)
		_, err = c.Write(word)
		check(err)
		c.Close()
	}()
	c, err := from.DialContext(contextOf(20*time.Second), "tcp", ln.Addr().String())
	if err != nil {
		out, _ := from.Command(contextOf(time.Minute), "sh", "-c", "ip -s addr; ip neigh").CombinedOutput()
		fail("%v: %s%+v", err, out, from.Stats())
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	_, err = c.Write([]byte("hello"))
	check(err)
	_, err = io.ReadFull(c, make([]byte, 5))
	check(err)
	<-done
}

func joined(path, vnl, name, addr string) *vdestack.Stack {
	s, err := vdestack.New(contextOf(time.Minute), vdestack.Config{
		Name: "joined", NetNS: path,
		Interfaces: []vdestack.Interface{{VNL: vnl, Name: name, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}}},
	})
	check(err)
	return s
}

// use uses stacks that joined a namespace, in which there are the given
// interfaces, in every way, and closes them.
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
	other, err := vdestack.Open(vnl, "10.8.0.2/24")
	check(err)
	ln, err := s.Listen("tcp", "10.8.0.1:0")
	check(err)
	echo(other, ln)
	out, err := s.Command(contextOf(time.Minute), "sh", "-c",
		"ip link set join0 mtu 1400 && ip -br addr && cat /proc/sys/net/ipv4/conf/join0/forwarding").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "10.8.0.1/24") {
		fail("%v: %s", err, out)
	}
	check(s.Sysctl("net.ipv4.conf.join0.forwarding", "1"))
	_, err = vdestack.New(contextOf(time.Minute), vdestack.Config{NetNS: path, Interfaces: []vdestack.Interface{{VNL: vnl, Name: "join0"}}})
	if !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "join0") {
		fail("an interface of the same name: %v", err)
	}
	// On a network of its own: the kernel answers for all of a namespace's
	// addresses on each of its interfaces, and the first of these two goes away.
	second := joined(path, vnl+"2", "join1", "10.8.2.1/24")
	beside, err := vdestack.Open(vnl+"2", "10.8.2.2/24")
	check(err)
	checkSurrounding(before)
	check(s.Close())
	if _, err := s.Dial("tcp", "10.8.0.2:80"); !errors.Is(err, net.ErrClosed) {
		fail("dialling from a closed stack: %v", err)
	}
	ln, err = second.Listen("tcp", "10.8.2.1:0")
	check(err)
	echo(beside, ln)
	check(second.Close())
	check(beside.Close())
	check(other.Close())
	third, err := vdestack.New(contextOf(time.Minute), vdestack.Config{NetNS: path})
	check(err)
	if got := linkNames(third); got != there {
		fail("interfaces %q after Close, want %q", got, there)
	}
	check(third.Close())
}

// join joins the namespace of another process, several times and beside stacks
// of its own, and leaves nothing behind.
func join() {
	path := os.Args[1]
	s, err := vdestack.Open("")
	check(err)
	check(s.Close())
	// With CAP_SYS_ADMIN there is a second helper, for ever; else there is one
	// as long as the namespace is in use.
	if s, err = vdestack.New(contextOf(time.Minute), vdestack.Config{NetNS: path}); err == nil {
		check(s.Close())
	}
	before, helpers := descriptors(), children()
	for range 3 {
		use(path, "lo vde0")
	}
	if got := children(); !slices.Equal(got, helpers) {
		fail("children %v, %v before", got, helpers)
	}
	if got := descriptors(); !slices.Equal(got, before) {
		fail("descriptors %v, %v before", got, before)
	}

	// A namespace of the process itself takes no helper more.
	s, err = vdestack.Open("mem://own", "10.7.0.1/24")
	check(err)
	f, err := s.NetNS()
	check(err)
	use("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), "lo vde0")
	check(f.Close())
	ln, err := s.Listen("tcp", "10.7.0.1:0")
	check(err)
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

// TestJoinOutlives joins the stack of a program that then ends: the namespace
// lives as long as it is joined, without what its maker had in it.
func TestJoinOutlives(t *testing.T) {
	path, lender := lent(t)
	out, in := launch(t, program(t, "joinForever", path))
	readLine(t, out)
	lender.Close()
	if !eventually(10*time.Second, func() bool { _, err := os.Stat(path); return err != nil }) {
		t.Fatal("the lender lives")
	}
	in.Close()
	if line := readLine(t, out); line != "join0 lo" {
		t.Errorf("interfaces %q", line)
	}
}

// joinForever joins a namespace, says which helpers there are, and what is in
// the namespace when the input ends.
func joinForever() {
	s := joined(os.Args[1], "mem://join", "join0", "10.8.0.1/24")
	for _, pid := range children() {
		fmt.Print(pid, " ")
	}
	fmt.Println()
	io.Copy(io.Discard, os.Stdin)
	eventually(10*time.Second, func() bool { return linkNames(s) == "join0 lo" })
	fmt.Println(linkNames(s))
	check(s.Close())
}

// TestJoinKill kills a program that joined a namespace: its helpers, which may
// have entered another user namespace, die with it, and its interface goes.
func TestJoinKill(t *testing.T) {
	path, _ := lent(t)
	cmd := program(t, "joinForever", path)
	out, _ := launch(t, cmd)
	var fds []int
	for pid := range strings.FieldsSeq(readLine(t, out)) {
		n, err := strconv.Atoi(pid)
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.PidfdOpen(n, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		fds = append(fds, fd)
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
	out, _ = launch(t, cmd) // would fail if join0 was still there
	readLine(t, out)
}

// joinNamed joins a namespace of "ip netns", as somebody who has CAP_SYS_ADMIN
// in the user namespace where it is.
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
	_, err := vdestack.New(contextOf(time.Minute), vdestack.Config{NetNS: "/run/netns/lab"})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "/run/netns/lab") {
		fail("a namespace that is gone: %v", err)
	}
	// What is left where the namespace was mounted on, as after a reboot.
	check(os.WriteFile("/run/netns/lab", nil, 0o600))
	_, err = vdestack.New(contextOf(time.Minute), vdestack.Config{NetNS: "/run/netns/lab"})
	if err == nil || !strings.Contains(err.Error(), "/run/netns/lab: it is no network namespace") {
		fail("a namespace that is no more: %v", err)
	}
}

func TestJoinNamed(t *testing.T) {
	testenv.Long(t)
	testenv.Need(t, "ip", "iproute2")
	cmd := program(t, "joinNamed")
	cmd.Env = append(cmd.Env, "PATH=/usr/sbin:/sbin:/usr/bin:/bin")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if os.Geteuid() != 0 { // is root of a user namespace
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWUSER | unix.CLONE_NEWNET
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	run(t, cmd)
}

// joinWrong joins what it cannot.
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
		"/proc/1/ns/net":     "", // not to be seen, or of a user namespace that we are not in
	} {
		if os.Geteuid() == 0 && (want == "CAP_SYS_ADMIN" || want == "") {
			continue
		}
		s, err := vdestack.New(contextOf(time.Minute), vdestack.Config{NetNS: path})
		if err == nil {
			check(s.Close())
			fail("joined %s", path)
		}
		fmt.Println(err)
		if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), want) {
			fail("the error does not say %q and %q", path, want)
		}
	}
	if pids := children(); len(pids) > 0 {
		fail("helpers %v are left", pids)
	}
	if after := descriptors(); len(after) > len(before)+2 { // the poller's
		fail("descriptors %v, %v before", after, before)
	}
}

func TestJoinWrong(t *testing.T) { run(t, program(t, "joinWrong", t.TempDir())) }

// handOut gives the namespace of a stack to children, which make sockets in it.
func handOut() {
	s, err := vdestack.Open("mem://out", "10.7.0.1/24")
	check(err)
	defer s.Close()
	ln, err := s.Listen("tcp", "10.7.0.1:0")
	check(err)
	answer := func() {
		c, err := ln.Accept()
		check(err)
		io.WriteString(c, "hello")
		c.Close()
	}
	expect := func(out []byte, err error) {
		if err != nil || string(out) != "hello" {
			fail("got %q, %v", out, err)
		}
	}
	ctx := contextOf(time.Minute)
	netns, err := s.NetNS()
	check(err)
	const getUserNS = 0xb701 // NS_GET_USERNS of linux/nsfs.h
	fd, err := unix.IoctlRetInt(int(netns.Fd()), getUserNS)
	check(err)
	os.Setenv(testenv.ProgramVariable, "dialOut")
	exe, err := os.Readlink("/proc/self/exe")
	check(err)
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
	again, err := vdestack.New(ctx, vdestack.Config{NetNS: "/proc/self/fd/" + strconv.Itoa(int(netns.Fd()))})
	check(err)
	if got := linkNames(again); got != "lo" {
		fail("interfaces %q", got)
	}
	check(again.Close())
}

// dialOut knows nothing of stacks.
func dialOut() {
	c, err := net.Dial("tcp", os.Args[1])
	check(err)
	io.Copy(os.Stdout, c)
}

// joinInherited makes sockets in the namespace that it has inherited.
func joinInherited() {
	s, err := vdestack.New(contextOf(time.Minute), vdestack.Config{NetNS: "/proc/self/fd/3"})
	check(err)
	ln, err := s.Listen("tcp", "10.7.0.1:0")
	check(err)
	echo(s, ln)
	c, err := s.Dial("tcp", os.Args[1])
	check(err)
	io.Copy(os.Stdout, c)
	check(s.Close())
}

// TestNetNS has children make sockets in a stack.
func TestNetNS(t *testing.T) {
	testenv.Need(t, "nsenter", "util-linux")
	run(t, program(t, "handOut"))
}
