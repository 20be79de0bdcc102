package interop

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

// The hosts of the tests.
var (
	server = host{"10.0.0.50", "fc00::1:50"}
	client = host{"10.0.0.1", "fc00::1:1"}
)

// A host has an address of each family.
type host [2]string

func (h host) prefixes() []string { return []string{h[0] + "/24", h[1] + "/64"} }

// A network is what our programs and those of Debian are connected to.
type network struct {
	name string
	// open returns the locators of both sides.
	open func(t *testing.T) (ours, theirs string)
}

var networks = []network{
	{"vxvde", func(*testing.T) (string, string) { return "vxvde://234.0.0.1", "vxvde://234.0.0.1" }},
	{"vde", func(t *testing.T) (string, string) { vnl := vdeSwitch(t); return vnl, vnl }},
	{"ptp", func(t *testing.T) (string, string) {
		vnl := "ptp://" + filepath.Join(testenv.ShortDir(t), "cable")
		return vnl, vnl
	}},
	{"udp", func(*testing.T) (string, string) {
		return "udp://7001->127.0.0.1:7002", "udp://7002->127.0.0.1:7001" // of this namespace
	}},
	{"switch", func(t *testing.T) (string, string) { // of ours, with both sides as clients
		dir := filepath.Join(testenv.ShortDir(t), "sw")
		c := testenv.Must(vdeplug.Open("switch://"+dir, nil))(t)
		t.Cleanup(func() { c.Close() })
		return "vde://" + dir, "vde://" + dir
	}},
	{"cmd", func(t *testing.T) (string, string) {
		vnl := vdeSwitch(t)
		return "cmd://" + testenv.Need(t, "vde_plug", "vdeplug") + " " + vnl, vnl
	}},
}

// on runs a test on each network, or on those with the given names, on all at once. They run
// when the calling test has returned.
func on(t *testing.T, f func(t *testing.T, ours, theirs string), names ...string) {
	noProcesses(t)
	for _, n := range networks {
		if len(names) > 0 && !slices.Contains(names, n.name) {
			continue
		}
		t.Run(n.name, func(t *testing.T) {
			t.Parallel()
			ours, theirs := n.open(t)
			f(t, ours, theirs)
		})
	}
}

// vdeSwitch starts vde_switch, and returns its locator.
func vdeSwitch(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(testenv.ShortDir(t), "sw")
	startSwitch(t, dir, testenv.Need(t, "vde_switch", "vde2"), "-s", dir)
	return "vde://" + dir
}

// startSwitch starts a program that is a switch, and waits until it accepts plugs.
func startSwitch(t *testing.T, dir, name string, args ...string) *process {
	t.Helper()
	p := start(t, name, args...)
	testenv.Eventually(t, "a switch in "+dir, func() bool {
		c, err := net.Dial("unix", filepath.Join(dir, "ctl"))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return p
}

// open opens a stack.
func open(t *testing.T, vnl string, h host) *vdestack.Stack {
	t.Helper()
	s, err := vdestack.Open(vnl, h.prefixes()...)
	if err != nil {
		if strings.Contains(err.Error(), "/dev/net/tun") {
			testenv.Skip(t, "no interfaces here: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// debian returns a shell in a namespace of Debian's vdens, with the addresses of h.
func debian(t *testing.T, vnl string, h host) shell {
	t.Helper()
	return shell{start(t, testenv.Need(t, "vdens", "vdens"), vnl, "/bin/sh")}.up(t, "vde0", h)
}

// up sets the shell's interface up, with the addresses of a host.
func (s shell) up(t *testing.T, dev string, h host) shell {
	t.Helper()
	must(t, s, upScript(t, dev, h))
	return s
}

func upScript(t *testing.T, dev string, h host) string {
	t.Helper()
	return fmt.Sprintf("%[1]s link set %[2]s up && %[1]s addr add %[3]s/24 dev %[2]s && %[1]s addr add %[4]s/64 dev %[2]s nodad",
		testenv.Need(t, "ip", "iproute2"), dev, h[0], h[1])
}

// ours returns a shell in a stack of our vdens, with the addresses of h.
func ours(t *testing.T, vdens, vnl string, h host) shell {
	t.Helper()
	return shell{start(t, vdens, ourArgs(vnl, h)...)}
}

func ourArgs(vnl string, h host) []string {
	return []string{"-addr", h.prefixes()[0], "-addr", h.prefixes()[1], vnl, "--", "/bin/sh"}
}

// cProgram builds a C program of testdata, which uses libvdestack.
func cProgram(t *testing.T, name string) string {
	t.Helper()
	exe := filepath.Join(t.TempDir(), name)
	out, err := exec.Command(testenv.Need(t, "gcc", "gcc"), "-Wall", "-o", exe, "testdata/"+name+".c", "-lvdestack").CombinedOutput()
	if err != nil {
		testenv.Skip(t, "the program in C cannot be built: %v: %s (apt-get install libvdestack-dev libc6-dev)", err, out)
	}
	return exe
}

// ping pings the host from a party.
func ping(t *testing.T, p party, h host) {
	t.Helper()
	ping := testenv.Need(t, "ping", "iputils-ping")
	for _, addr := range h {
		must(t, p, ping+" -n -c 1 -w 20 "+addr) // until the first answer
	}
}

// echo sends data from a shell to the echo server of the host, and wants it back.
func (s shell) echo(t *testing.T, h host) {
	t.Helper()
	nc := testenv.Need(t, "nc.openbsd", "netcat-openbsd")
	file := filepath.Join(t.TempDir(), "data")
	testenv.Check(t, os.WriteFile(file, payload(), 0o600))
	for _, addr := range h {
		must(t, s, fmt.Sprintf("%s -N -w 20 %s 5000 <%[3]s >%[3]s.back && cmp %[3]s %[3]s.back", nc, addr, file))
	}
}

// serveEcho starts an echo server in a shell.
func (s shell) serveEcho(t *testing.T) {
	t.Helper()
	busybox, ss := testenv.Need(t, "busybox", "busybox"), testenv.Need(t, "ss", "iproute2")
	must(t, s, busybox+" nc -ll -p 5000 -e cat >/dev/null 2>&1 &")
	testenv.Eventually(t, "the server", func() bool {
		out, _ := s.run(t, ss+" -tlnH sport = 5000")
		return strings.Contains(out, ":5000")
	})
}

// echo sends data from a stack to the echo server of the host, and wants it back.
func echo(t *testing.T, s *vdestack.Stack, h host) {
	t.Helper()
	echoBy(t, h, func(addr string) (net.Conn, error) { return dial(s, addr) })
}

// echoBy is echo with connections of any kind, to the addresses that the host has.
func echoBy(t *testing.T, h host, dial func(addr string) (net.Conn, error)) {
	t.Helper()
	for _, addr := range h {
		if addr == "" {
			continue
		}
		c := testenv.Must(dial(addr))(t)
		defer c.Close()
		c.SetDeadline(time.Now().Add(testenv.Timeout))
		sent := make(chan error, 1)
		go func() {
			_, err := c.Write(payload())
			c.(*net.TCPConn).CloseWrite()
			sent <- err
		}()
		back, err := io.ReadAll(c)
		if serr := <-sent; serr != nil || err != nil || !bytes.Equal(back, payload()) {
			t.Errorf("%s: sent %d bytes (%v), got %d back (%v), or not the same", addr, len(payload()), serr, len(back), err)
		}
	}
}

// dial connects to the echo server of a host that exists. Its kernel joins the multicast
// group of an IPv6 address some time after it has the address: seconds, while it removes
// many namespaces. Until then it does not answer neighbour solicitations.
func dial(s *vdestack.Stack, addr string) (net.Conn, error) {
	d := vdestack.Dialer{Dialer: net.Dialer{Deadline: time.Now().Add(testenv.Timeout)}, Stack: s}
	for {
		c, err := d.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr(addr), 5000).String())
		if !errors.Is(err, unix.EHOSTUNREACH) { // which takes three seconds
			return c, err
		}
	}
}

// payload is sent through echo servers. It is larger than a window of TCP, so that both
// directions are busy at once.
func payload() []byte {
	b := make([]byte, 300_000)
	for i := range b {
		b[i] = byte(i * i >> 8)
	}
	return b
}

// serveEcho starts an echo server in a stack.
func serveEcho(t *testing.T, s *vdestack.Stack) {
	t.Helper()
	l := testenv.Must(s.Listen("tcp", ":5000"))(t)
	serveEchoOn(t, l)
}

// serveEchoOn is an echo server until the end of the test.
func serveEchoOn(t *testing.T, l net.Listener) {
	t.Helper()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrClosed) {
					t.Error(err)
				}
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	t.Cleanup(func() { l.Close() })
}
