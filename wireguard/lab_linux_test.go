package wireguard

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

func TestMain(m *testing.M) {
	testenv.Programs["peer"] = peerMain
	testenv.Programs["scraper"] = scraperMain
	testenv.Main(m)
}

// peerMain is wireguard-go with its own interface and sockets, as its program has them. Its
// descriptor 3 takes what programs send to its control socket.
func peerMain() {
	failed := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "peer:", err)
			os.Exit(1)
		}
	}
	d, err := tun.CreateTUN("wg0", device.DefaultMTU)
	failed(err)
	dev := device.NewDevice(d, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	c, err := net.FileConn(os.NewFile(3, "control"))
	failed(err)
	failed(dev.Up())
	dev.IpcHandle(c)
	dev.Close()
}

// newStack opens a stack until the end of the test.
func newStack(t *testing.T, i vdestack.Interface) *vdestack.Stack {
	t.Helper()
	st := testenv.Opened(vdestack.New(t.Context(), vdestack.Config{Name: t.Name(), Interfaces: []vdestack.Interface{i}}))(t)
	// No test waits for the detection of duplicates.
	testenv.Check(t, st.Sysctl("net/ipv6/conf/"+st.Stats().Interfaces[0].Name+"/dad_transmits", "0"))
	return st
}

// A peer is wireguard-go in a stack of its own.
type peer struct {
	t     *testing.T
	st    *vdestack.Stack
	key   Key
	inner []netip.Prefix // addresses of wg0
	mtu   int            // of wg0

	cmd     *vdestack.Cmd
	control net.Conn
	answers *bufio.Reader
}

// failVariable in the environment has transfers fail, for TestFailureHidesKeys.
const failVariable = "VDESTACK_TEST_FAIL"

// peerPort is where peers listen.
const peerPort = 51820

// newLab returns a peer, which is at 192.0.2.1 and fd09::1 on a network, and a stack on it for
// the encrypted socket of the other end, at 192.0.2.2 and fd09::2. In the tunnel the peer is
// 10.0.0.1 and fd00::1. The network may be within another one, a format.
func newLab(t *testing.T, network string, mtu int) (p *peer, near *vdestack.Stack) {
	t.Helper()
	vnl := fmt.Sprintf(cmp.Or(network, "%s"), "mem://"+strings.ReplaceAll(t.Name(), "/", "-"))
	far := newStack(t, vdestack.Interface{VNL: vnl, MTU: mtu, Addrs: testenv.Prefixes("192.0.2.1/24", "fd09::1/64")})
	near = newStack(t, vdestack.Interface{VNL: vnl, MTU: mtu, Addrs: testenv.Prefixes("192.0.2.2/24", "fd09::2/64")})
	p = &peer{t: t, st: far, key: NewKey(), inner: testenv.Prefixes("10.0.0.1/24", "fd00::1/64"), mtu: mtu - overhead}
	if mtu == 0 {
		p.mtu = defaultMTU
	}
	p.start()
	t.Cleanup(p.kill)
	return p, near
}

func (p *peer) start() {
	p.t.Helper()
	fds := testenv.Must(unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))(p.t)
	ours, theirs := os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control")
	defer ours.Close()
	p.cmd = p.st.Command(context.Background(), "/proc/self/exe")
	p.cmd.Env = append(os.Environ(), testenv.ProgramVariable+"=peer", "GORACE=atexit_sleep_ms=0")
	p.cmd.Stderr, p.cmd.ExtraFiles = os.Stderr, []*os.File{theirs}
	err := p.cmd.Start()
	theirs.Close() // so that the end of the peer ends its answers
	testenv.Check(p.t, err)
	p.control = testenv.Must(net.FileConn(ours))(p.t)
	p.answers = bufio.NewReader(p.control)
	p.set(fmt.Sprintf("private_key=%s\nlisten_port=%d\n", p.key.hex(), peerPort)) // its answer shows that the interface is there
	nl := testenv.Opened(p.st.RTNL())(p.t)
	index := testenv.Must(nl.IfNameToIndex("wg0"))(p.t)
	for _, a := range p.inner {
		testenv.Check(p.t, nl.AddrAdd(index, a))
	}
	testenv.Check(p.t, nl.LinkSetMTU(index, p.mtu))
	testenv.Check(p.t, nl.LinkSetUp(index))
}

// kill ends the peer as a crash does.
func (p *peer) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
	p.control.Close()
}

// ask sends text to the control socket and returns the answer.
func (p *peer) ask(text string) string {
	p.t.Helper()
	testenv.Must(io.WriteString(p.control, text+"\n"))(p.t)
	var b strings.Builder
	for {
		line := testenv.Must(p.answers.ReadString('\n'))(p.t)
		if line == "\n" {
			break
		}
		b.WriteString(line)
	}
	if i := strings.LastIndex(b.String(), "errno="); b.String()[max(i, 0):] != "errno=0\n" {
		p.t.Fatalf("wireguard-go: %s", b.String()[max(i, 0):]) // the rest may have keys
	}
	return b.String()
}

func (p *peer) set(text string) {
	p.t.Helper()
	p.ask("set=1\n" + text)
}

// config returns the configuration of the other end, with the addresses and the endpoint, and
// tells the peer of it.
func (p *peer) config(endpoint string, inner ...string) Config {
	p.t.Helper()
	c := Config{PrivateKey: NewKey(), Addrs: testenv.Prefixes(inner...), Logger: testLogger(p.t)}
	psk := NewKey()
	c.Peers = []Peer{{PublicKey: p.key.Public(), PresharedKey: psk, Endpoint: endpoint, AllowedIPs: testenv.Prefixes("0.0.0.0/0", "::/0")}}
	p.knows(c)
	return c
}

// knows tells a peer of another end.
func (p *peer) knows(c Config, more ...string) {
	p.t.Helper()
	end := Peer{PublicKey: c.PrivateKey.Public(), PresharedKey: c.Peers[0].PresharedKey}
	for _, a := range c.Addrs {
		end.AllowedIPs = append(end.AllowedIPs, netip.PrefixFrom(a.Addr(), a.Addr().BitLen()))
	}
	p.set(end.set(netip.AddrPort{}) + strings.Join(more, "\n"))
}

// testLogger logs for a test that fails.
func testLogger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// echo serves TCP connections of a stack: it sends back what it gets.
func echo(t *testing.T, st *vdestack.Stack) {
	t.Helper()
	ln := testenv.Listen(t, st, "tcp", ":7")
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, struct{ io.Reader }{c}) // by a buffer: pipes would look like a leak
			}()
		}
	}()
}

// transfer sends n bytes to the echo server at an address, and checks that they come back.
func transfer(t *testing.T, st *vdestack.Stack, addr string, n int) {
	t.Helper()
	ctx := testenv.Context(t)
	c, err := st.DialContext(ctx, "tcp", net.JoinHostPort(addr, "7"))
	testenv.Check(t, err)
	defer c.Close()
	deadline, _ := ctx.Deadline()
	c.SetDeadline(deadline)
	sent := strings.Repeat("0123456789abcdef", n/16)
	go func() {
		io.WriteString(c, sent)
		c.(*net.TCPConn).CloseWrite()
	}()
	got := testenv.Must(io.ReadAll(c))(t)
	if os.Getenv(failVariable) != "" {
		stacks := make([]byte, 1<<20)
		t.Fatalf("as the environment has it: %s", stacks[:runtime.Stack(stacks, true)])
	}
	if string(got) != sent {
		t.Errorf("%s: %d bytes came back, or others, instead of %d", addr, len(got), len(sent))
	}
}
