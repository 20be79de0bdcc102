package interop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// The addresses at which a guest of slirp:// reaches the host, and those of the guest; the
// addresses of the host with forwards to the guest, and with the host's own servers.
var (
	natHost     = host{"10.0.2.2", "fd00::2"}
	natGuest    = host{"10.0.2.15", "fd00::15"}
	natForwards = host{"203.0.113.1", "fd09::1"}
	natLoopback = host{"127.0.0.1", "::1"}
)

// A hostParty is the host whose network a NAT shares with its guest: this process, or a stack.
// It reaches the guest only through forwards of TCP.
type hostParty struct {
	dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	listen  func(network, addr string) (net.Listener, error)
	command func(script string) interface{ CombinedOutput() ([]byte, error) }
}

var _ party = hostParty{}

// thisHost is this process.
func thisHost(t *testing.T) hostParty {
	return hostParty{(&net.Dialer{}).DialContext, net.Listen, func(script string) interface{ CombinedOutput() ([]byte, error) } {
		return exec.CommandContext(t.Context(), "/bin/sh", "-c", script)
	}}
}

// hostIn is a stack.
func hostIn(t *testing.T, s *vdestack.Stack) hostParty {
	return hostParty{s.DialContext, s.Listen, func(script string) interface{ CombinedOutput() ([]byte, error) } {
		return s.Command(t.Context(), "/bin/sh", "-c", script)
	}}
}

func (p hostParty) echo(t *testing.T, h host) {
	t.Helper()
	echoBy(t, h, func(addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(t.Context(), testenv.Timeout)
		defer cancel()
		return p.dial(ctx, "tcp", netip.AddrPortFrom(netip.MustParseAddr(addr), 5000).String())
	})
}

func (p hostParty) serveEcho(t *testing.T) {
	t.Helper()
	for _, addr := range natLoopback {
		l := testenv.Must(p.listen("tcp", net.JoinHostPort(addr, "5000")))(t)
		serveEchoOn(t, l)
	}
}

func (p hostParty) run(t *testing.T, script string) (output string, status int) {
	t.Helper()
	return runScript(t, p.command(script))
}

// kill does nothing: the NAT is ended instead.
func (hostParty) kill() {}

// guestScript gives the interface of a guest its addresses and routes.
func guestScript(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("%[1]s && %[2]s route add default via %[3]s && %[2]s route add default via %[4]s",
		upScript(t, "vde0", natGuest), testenv.Need(t, "ip", "iproute2"), natHost[0], natHost[1])
}

// natVNL is a network with forwards to the guest, with v6 also over IPv6.
func natVNL(v6 bool) (vnl string) {
	forward := func(addr, guest string) string {
		return net.JoinHostPort(addr, "5000") + ":" + net.JoinHostPort(guest, "5000")
	}
	vnl = fmt.Sprintf("slirp:///mtu=%[1]d/mru=%[1]d/tcpfwd=%[2]s", largestMTU, forward(natForwards[0], natGuest[0]))
	if v6 {
		vnl += "," + forward(natForwards[1], natGuest[1])
	}
	return vnl
}

// curl has the guest get a page of a server on the host's loopback.
func (p hostParty) curl(t *testing.T, guest party) {
	t.Helper()
	curl := testenv.Need(t, "curl", "curl")
	for i, addr := range natLoopback {
		l := testenv.Must(p.listen("tcp", net.JoinHostPort(addr, "0")))(t)
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			from, _, _ := net.SplitHostPort(r.RemoteAddr)
			fmt.Fprint(w, "hello ", from)
		})}
		defer srv.Close()
		go func() {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
		}()
		url := "http://" + net.JoinHostPort(natHost[i], fmt.Sprint(l.Addr().(*net.TCPAddr).Port))
		if got, want := must(t, guest, curl+" -sS --max-time 20 '"+url+"'"), "hello "+addr; got != want {
			t.Errorf("%s: got %q, want %q", url, got, want)
		}
	}
}

// slirpOurs is the NAT of the module slirp at the other end of ssh, with Debian's vdens as its
// guest. A program that runs the command in a stack plays ssh: the stack is the host there.
func slirpOurs(t *testing.T, _ string) *rig {
	s := open(t, "mem://"+t.Name(), natForwards)
	there := hostIn(t, s)
	session := s.Command(t.Context(), "cat")
	stdin := testenv.Must(session.StdinPipe())(t)
	testenv.Check(t, session.Start())
	t.Cleanup(func() {
		stdin.Close()
		session.Wait()
	})
	enter := fmt.Sprintf("%s --target %d --net", testenv.Need(t, "nsenter", "util-linux"), session.Process.Pid)
	user := func(pid string) string { return testenv.Must(os.Readlink("/proc/" + pid + "/ns/user"))(t) }
	if user("self") != user(strconv.Itoa(session.Process.Pid)) {
		enter += " --user --preserve-credentials"
	}
	ssh := filepath.Join(testenv.ShortDir(t), "ssh")
	testenv.Check(t, os.WriteFile(ssh, []byte("#!/bin/sh\nshift\nexec "+enter+" /bin/sh -c \"exec $*\"\n"), 0o700))
	vnl := fmt.Sprintf(`cmd://%s there %s \'%s\'`, ssh, testenv.Build(t, root+"/slirp", "slirp_plug"), natVNL(true))
	r := opposite(there, func() party {
		guest := shell{start(t, testenv.Need(t, "vdens", "vdens"), vnl, "/bin/sh")}
		must(t, guest, guestScript(t))
		there.curl(t, guest)
		return guest
	})
	r.ours, r.theirs = natHost, natForwards
	return r
}

// slirpDebian is Debian's NAT, with a stack as its guest.
func slirpDebian(t *testing.T, _ string) *rig {
	exe, pids := script(t, testenv.Need(t, "vde_plug", "vdeplug"), natVNL(false))
	s := testenv.Must(vdestack.New(t.Context(), vdestack.Config{Interfaces: []vdestack.Interface{{
		VNL: "cmd://" + exe, Addrs: testenv.Prefixes(natGuest.prefixes()...), Gateways: testenv.Addrs(natHost[:]...)}}}))(t)
	t.Cleanup(func() { s.Close() })
	us, here := stackParty{s}, thisHost(t)
	here.curl(t, us)
	return &rig{us: us, them: here, ours: host{natForwards[0]}, theirs: natHost, fate: func(t *testing.T) string {
		killRun(t, pids, unix.SIGKILL)()
		here.curl(t, us)
		return again
	}}
}
