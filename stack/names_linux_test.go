package stack_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

// namesMachine tells a test of Cmd.Names that it runs on the machine that
// onMachine has made.
const namesMachine = "VDESTACK_TEST_NAMES_MACHINE"

// stubResolvConf is what /etc/resolv.conf of the machine is a link to.
const stubResolvConf = "/run/systemd/resolve/stub-resolv.conf"

// onMachine runs a test again, in a mount namespace with an /etc and a /run of its
// own, where names are the machine's, and reports whether this is that run. The
// commands are executed there before, by a shell of root.
func onMachine(t *testing.T, commands string) bool {
	if os.Getenv(namesMachine) == t.Name() {
		return true
	}
	testenv.Need(t, "getent", "libc-bin")
	unshare := testenv.Need(t, "unshare", "util-linux")
	etc, run := t.TempDir(), t.TempDir()
	for _, name := range []string{"passwd", "group"} {
		text := testenv.Must(os.ReadFile("/etc/" + name))(t)
		write(t, etc+"/"+name, string(text))
	}
	write(t, etc+"/hosts", "10.66.66.66 known.test machine.test\n")
	write(t, etc+"/nsswitch.conf", "passwd: files\nhosts: resolve [!UNAVAIL=return] sss files dns\n")
	write(t, etc+"/host.conf", "multi off\n")
	testenv.Check(t, os.Symlink(stubResolvConf, etc+"/resolv.conf"))
	for _, path := range []string{stubResolvConf, "/run/nscd/x", "/run/avahi-daemon/x"} {
		path = filepath.Join(run, strings.TrimPrefix(path, "/run"))
		testenv.Check(t, os.MkdirAll(filepath.Dir(path), 0o755))
		write(t, path, "nameserver 10.66.66.53\nsearch machine.test\n")
	}
	exe := testenv.Must(os.Executable())(t)
	args := []string{"--mount"}
	again := "exec"
	if os.Geteuid() != 0 {
		args = []string{"--mount", "--user", "--map-root-user"}
		again = fmt.Sprintf("exec %s --user --map-user=%d --map-group=%d", unshare, os.Geteuid(), os.Getegid())
	}
	script := `set -e; mount --make-rprivate /; mount --rbind "$1" /etc; mount --rbind "$2" /run; ` + commands + `; shift 2; ` + again + ` "$@"`
	args = append(args, "/bin/sh", "-c", script, "sh", etc, run, exe, "-test.run=^"+t.Name()+"$", "-test.count=1", "-test.v")
	cmd := exec.CommandContext(t.Context(), unshare, args...)
	cmd.Env = append(os.Environ(), namesMachine+"="+t.Name(), "TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.Errorf("%v:\n%s", err, out)
	case bytes.Contains(out, []byte("--- SKIP: "+t.Name())):
		testenv.Skip(t, "%s", out)
	}
	return false
}

func write(t *testing.T, path, text string) {
	t.Helper()
	testenv.Check(t, os.WriteFile(path, []byte(text), 0o644))
}

// trap listens where a service of the machine does, and counts who asks.
func trap(t *testing.T, path string) *atomic.Int32 {
	t.Helper()
	l := testenv.Opened(net.Listen("unix", path))(t)
	asked := new(atomic.Int32)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			asked.Add(1)
			c.Close()
		}
	}()
	return asked
}

// startServer starts a name server in the stack, at port 53.
func startServer(t *testing.T, s *Stack) {
	t.Helper()
	cmd := s.Command(t.Context(), testenv.Need(t, "dnsmasq", "dnsmasq-base"),
		"--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null", "--pid-file=", "--user=", "--group=",
		"--no-resolv", "--no-hosts", "--listen-address=10.9.0.53", "--bind-interfaces", "--local=/test/",
		"--host-record=www.test,10.9.0.80,fd00::80", "--host-record=known.test,10.77.77.77")
	stderr := testenv.Must(cmd.StderrPipe())(t)
	testenv.Check(t, cmd.Start())
	log := bufio.NewReader(stderr)
	for line := ""; !strings.Contains(line, "started"); {
		line = testenv.Must(log.ReadString('\n'))(t)
	}
	done := make(chan struct{})
	go func() {
		io.Copy(io.Discard, log)
		close(done)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-done
		cmd.Wait()
	})
}

// namesStack returns a stack with names, and what it logs.
func namesStack(t *testing.T, dns DNS) (*Stack, *bytes.Buffer) {
	t.Helper()
	log := new(bytes.Buffer)
	s := made(t, Config{
		Interfaces: []Interface{{VNL: "mem://names", Addrs: testenv.Prefixes("10.9.0.1/24")}},
		DNS:        dns, Logger: slog.New(slog.NewTextHandler(log, nil)),
	})
	return s, log
}

// namesCommand runs a line of the shell with Names.
func namesCommand(t *testing.T, s *Stack, line string, binds ...Bind) string {
	t.Helper()
	cmd := s.Command(t.Context(), "/bin/sh", "-c", line)
	cmd.Names, cmd.Binds = true, binds
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v: %s", line, err, out)
	}
	return string(out)
}

// noFiles looks that nothing is left behind.
func noFiles(t *testing.T) {
	t.Helper()
	if left, err := filepath.Glob(os.TempDir() + "/vdestack-*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

var namesDNS = DNS{
	Servers: []netip.AddrPort{netip.MustParseAddrPort("10.9.0.53:53"), netip.MustParseAddrPort("10.9.0.54:5353")},
	Search:  []string{"test", "example.org"},
	Ndots:   2,
	Hosts:   map[string][]netip.Addr{"known.test": testenv.Addrs("10.1.1.1", "10.1.1.2", "fd00::1"), "hidden.test": nil},
}

// TestCommandNames resolves names in a command, on a machine that has others.
func TestCommandNames(t *testing.T) {
	testenv.Long(t)
	if !onMachine(t, ":") {
		return
	}
	traps := make(map[string]*atomic.Int32)
	for _, path := range []string{"/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve", "/run/avahi-daemon/socket"} {
		traps[path] = trap(t, path)
	}
	startServer(t, open(t, "mem://names", "10.9.0.53/24"))
	s, log := namesStack(t, namesDNS)
	busybox := testenv.Need(t, "busybox", "busybox")
	for _, tt := range []struct {
		line string
		want []string // of the output, or parts of it
		part bool
	}{
		{line: "cat /etc/resolv.conf", want: []string{"nameserver 10.9.0.53\nsearch test example.org\noptions ndots:2\n"}},
		{line: "cat /etc/hosts", want: []string{"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n10.1.1.1 known.test\n10.1.1.2 known.test\nfd00::1 known.test\n"}},
		{line: "cat /etc/nsswitch.conf", want: []string{"passwd: files\nhosts: files dns\n"}},
		{line: "getent ahosts known.test | grep STREAM | cut -d ' ' -f 1 | sort", want: []string{"10.1.1.1\n10.1.1.2\nfd00::1\n"}},
		{line: "getent ahostsv4 www.test", part: true, want: []string{"10.9.0.80 "}},
		{line: "getent ahostsv6 www", part: true, want: []string{"fd00::80 "}},
		{line: "getent hosts localhost", part: true, want: []string{"::1"}},
		{line: "getent hosts machine.test || echo unknown", want: []string{"unknown\n"}},
		{line: busybox + " nslookup www.test", part: true, want: []string{"10.9.0.53", "10.9.0.80"}},
		{line: "getent passwd root", part: true, want: []string{"root:"}},
		{line: "ls -A /run/nscd /run/avahi-daemon", want: []string{"/run/avahi-daemon:\n\n/run/nscd:\n"}},
		{line: "ls -A /run/systemd/resolve", want: []string{"stub-resolv.conf\n"}},
	} {
		got := namesCommand(t, s, tt.line)
		for _, want := range tt.want {
			if got != want && !(tt.part && strings.Contains(got, want)) {
				t.Errorf("%s: got %q, want %q", tt.line, got, want)
			}
		}
	}
	for path, asked := range traps {
		if n := asked.Load(); n > 0 {
			t.Errorf("%s was asked %d times", path, n)
		}
	}
	if n := strings.Count(log.String(), "10.9.0.54:5353, hidden.test without an address"); n != 1 {
		t.Errorf("what commands do not find was told %d times: %s", n, log)
	}
	// This is what the command is kept from.
	without := s.Command(t.Context(), "getent", "hosts", "machine.test")
	if out, err := without.Output(); err != nil || string(out) != "10.66.66.66     known.test machine.test\n" || traps["/run/nscd/socket"].Load() == 0 {
		t.Errorf("without Names: got %q, %v, and nscd was asked %d times", out, err, traps["/run/nscd/socket"].Load())
	}

	t.Run("binds", func(t *testing.T) {
		got := namesCommand(t, s, "cat /etc/resolv.conf; ls /run/systemd/resolve; test -e /run/nscd/socket || echo hidden; getent hosts known.test",
			Bind{From: "/etc/resolv.conf", To: "/etc/resolv.conf"})
		if want := "nameserver 10.66.66.53\nsearch machine.test\nio.systemd.Resolve\nstub-resolv.conf\nhidden\n"; !strings.HasPrefix(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		if out := namesCommand(t, s, "test -S /run/systemd/resolve/io.systemd.Resolve || echo hidden", Bind{From: "/etc/resolv.conf", To: "/etc/resolv.conf"}); out != "hidden\n" {
			t.Errorf("the socket beside it is there: %s", out)
		}
	})

	// A service of the machine that writes its file again does so by rename.
	t.Run("replaced", func(t *testing.T) {
		cmd := s.Command(t.Context(), "/bin/sh", "-c", "echo ready; read x; cat /etc/resolv.conf")
		cmd.Names = true
		stdin := testenv.Must(cmd.StdinPipe())(t)
		stdout := testenv.Must(cmd.StdoutPipe())(t)
		testenv.Check(t, cmd.Start())
		write(t, stubResolvConf+".new", "nameserver 10.66.66.54\n")
		testenv.Check(t, os.Rename(stubResolvConf+".new", stubResolvConf))
		stdin.Close()
		out, _ := io.ReadAll(stdout)
		if want := "ready\nnameserver 10.9.0.53\n"; !strings.HasPrefix(string(out), want) {
			t.Errorf("got %q, want %q", out, want)
		}
		cmd.Wait()
	})

	// Commands that run find the names that the stack has now, except in what Binds has.
	t.Run("changed", func(t *testing.T) {
		s, log := namesStack(t, namesDNS)
		var ins []io.Writer
		var outs []*bufio.Reader
		for _, binds := range [][]Bind{nil, {{From: "/etc/hosts", To: "/etc/hosts"}}} {
			cmd := s.Command(t.Context(), "/bin/sh", "-c", "exec 3</etc/resolv.conf; while read x; do cat /etc/resolv.conf /etc/hosts /dev/fd/3 | tr '\\n' ' '; echo; done")
			cmd.Names, cmd.Binds = true, binds
			ins = append(ins, testenv.Must(cmd.StdinPipe())(t))
			outs = append(outs, bufio.NewReader(testenv.Must(cmd.StdoutPipe())(t)))
			testenv.Check(t, cmd.Start())
			defer cmd.Wait()
			defer cmd.Process.Kill()
		}
		const (
			localhost = "127.0.0.1 localhost ::1 localhost ip6-localhost ip6-loopback "
			machine   = "10.66.66.66 known.test machine.test "
		)
		for _, tt := range []struct {
			dns               DNS
			resolvConf, hosts string
		}{
			{DNS{Servers: []netip.AddrPort{netip.MustParseAddrPort("10.9.0.55:53")}}, "nameserver 10.9.0.55 search . ", localhost},
			{DNS{}, "search . ", localhost},
			{namesDNS, "nameserver 10.9.0.53 search test example.org options ndots:2 ", localhost + "10.1.1.1 known.test 10.1.1.2 known.test fd00::1 known.test "},
		} {
			testenv.Check(t, s.SetDNS(tt.dns))
			for i, hosts := range []string{tt.hosts, machine} {
				io.WriteString(ins[i], "\n")
				// /dev/fd/3 is a new opening of the file.
				if got, want := testenv.Must(outs[i].ReadString('\n'))(t), tt.resolvConf+hosts+tt.resolvConf+"\n"; got != want {
					t.Errorf("command %d: got %q, want %q", i, got, want)
				}
			}
		}
		if n := strings.Count(log.String(), "hidden.test"); n != 2 {
			t.Errorf("what commands do not find was told %d times, want once for each DNS: %s", n, log)
		}
	})

	t.Run("not started", func(t *testing.T) {
		testenv.NoLeaks(t)
		cmd := s.Command(t.Context(), "/no/such/program")
		cmd.Names = true
		if err := cmd.Run(); err == nil {
			t.Error("started")
		}
	})

	// Where there is no file, nothing can be mounted.
	t.Run("no file", func(t *testing.T) {
		testenv.Check(t, os.Remove("/etc/resolv.conf"))
		cmd := s.Command(t.Context(), "true")
		cmd.Names = true
		if err := cmd.Run(); err == nil || !strings.Contains(err.Error(), "make /etc/resolv.conf, an empty file") {
			t.Errorf("got %v", err)
		}
		s := open(t, "")
		if got := namesCommand(t, s, "cat /etc/hosts"); !strings.HasPrefix(got, "127.0.0.1 localhost\n") {
			t.Errorf("got %q", got)
		}
	})
	noFiles(t)
}

// TestCommandSysfs looks for the interfaces in /sys/class/net.
func TestCommandSysfs(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	s, log := namesStack(t, DNS{})
	got := namesCommand(t, s, "ls /sys/class/net")
	if strings.Contains(log.String(), "/sys/class/net") {
		testenv.Skip(t, "the kernel does not allow it here: %s", log)
	}
	if got != "lo\nvde0\n" {
		t.Errorf("got %q, want lo and vde0", got)
	}
	index := strings.TrimSpace(namesCommand(t, s, "cat /sys/class/net/vde0/ifindex"))
	if i := s.Stats().Interfaces[0].Index; index != strconv.Itoa(i) {
		t.Errorf("vde0 is interface %s in sysfs, want %d", index, i)
	}
	below := testenv.Must(os.ReadDir("/sys/fs/cgroup"))(t)
	var want []string
	for _, f := range below {
		want = append(want, f.Name())
	}
	list := strings.Fields(namesCommand(t, s, "ls -A /sys/fs/cgroup"))
	slices.Sort(list)
	slices.Sort(want)
	if !slices.Equal(list, want) {
		t.Errorf("in /sys/fs/cgroup: got %q, want %q", list, want)
	}
	noFiles(t)
}

// TestCommandSysfsCovered runs where the kernel does not allow it to be mounted.
func TestCommandSysfsCovered(t *testing.T) {
	testenv.Long(t)
	if !onMachine(t, "mount -t tmpfs none /sys/kernel; mount -t tmpfs none /sys/class") {
		return
	}
	s, log := namesStack(t, DNS{})
	for range 2 {
		if got := namesCommand(t, s, "ls -A /sys/kernel /sys/class; cat /etc/hosts"); !strings.HasPrefix(got, "/sys/class:\n\n/sys/kernel:\n127.0.0.1 localhost\n") {
			t.Errorf("got %q", got)
		}
	}
	if n := strings.Count(log.String(), "mounting the sysfs of the stack: operation not permitted (the kernel allows it only"); n != 1 {
		t.Errorf("told %d times: %s", n, log)
	}
	noFiles(t)
}

// init has a program that runs itself in a command with Names, so often as its argument says,
// and in the innermost one a shell.
func init() {
	testenv.Programs["nested"] = func() {
		level := os.Args[1]
		n, err := strconv.Atoi(level)
		if err != nil {
			log.Fatal(err)
		}
		s, err := Open("")
		if err != nil {
			log.Fatal(err)
		}
		defer s.Close()
		servers := []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, 0, byte(n)}), 53)}
		if err := s.SetDNS(DNS{Servers: servers}); err != nil {
			log.Fatal(err)
		}
		cmd := s.Command(context.Background(), "/proc/self/exe", strconv.Itoa(n-1))
		cmd.Env = append(os.Environ(), testenv.ProgramVariable+"=nested")
		if n == 1 {
			cmd = s.Command(context.Background(), "/bin/sh", "-c", os.Args[2])
		} else {
			cmd.Args = append(cmd.Args, os.Args[2])
		}
		cmd.Names, cmd.Stdout, cmd.Stderr = true, os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			log.Fatalf("level %d: %v", n, err)
		}
		conf, err := os.ReadFile("/etc/resolv.conf")
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("around %d: %q\n", n, conf)
	}
}

// TestCommandNamesNested runs commands with names in commands with names. Each has its own, and
// the innermost one can write its resolv.conf and mount another.
func TestCommandNamesNested(t *testing.T) {
	if !onMachine(t, ":") {
		return
	}
	const script = `cat /etc/resolv.conf; ls -A /run/nscd; echo new >/etc/resolv.conf; cat /etc/resolv.conf; ls "$TMPDIR"
unshare --user --map-root-user --mount sh -c 'mount --bind /etc/passwd /etc/resolv.conf && cmp /etc/passwd /etc/resolv.conf && echo mounted'`
	for levels, as := range map[int][]string{3: nil, 2: {testenv.Need(t, "unshare", "util-linux"), "--user", "--map-root-user"}} {
		t.Setenv("TMPDIR", t.TempDir())
		want := "nameserver 10.9.0.1\nsearch .\nnew\nmounted\n"
		for n := 1; n < levels; n++ {
			want += fmt.Sprintf("around %d: %q\n", n, fmt.Sprintf("nameserver 10.9.0.%d\nsearch .\n", n+1))
		}
		want += fmt.Sprintf("around %d: %q\n", levels, "nameserver 10.66.66.53\nsearch machine.test\n")
		cmd := testenv.Program(t.Context(), t, "nested", strconv.Itoa(levels), script)
		if as != nil {
			cmd.Path, cmd.Args = as[0], slices.Concat(as, []string{testenv.Must(os.Executable())(t)}, cmd.Args[1:])
		}
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != want {
			t.Errorf("%q: got %v, %s, want %s", as, err, out, want)
		}
		noFiles(t)
	}
}
