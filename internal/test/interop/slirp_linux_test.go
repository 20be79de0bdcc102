package interop

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
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

// A hostParty is this process, on the host whose network a NAT shares with its guest. It
// reaches the guest only through forwards of TCP.
type hostParty struct{}

var _ party = hostParty{}

func (hostParty) echo(t *testing.T, h host) {
	t.Helper()
	echoBy(t, h, func(addr string) (net.Conn, error) {
		return net.DialTimeout("tcp", netip.AddrPortFrom(netip.MustParseAddr(addr), 5000).String(), testenv.Timeout)
	})
}

func (hostParty) serveEcho(t *testing.T) {
	t.Helper()
	for _, addr := range natLoopback {
		l := testenv.Must(net.Listen("tcp", net.JoinHostPort(addr, "5000")))(t)
		serveEchoOn(t, l)
	}
}

func (hostParty) run(t *testing.T, script string) (output string, status int) {
	t.Helper()
	return runScript(t, exec.CommandContext(t.Context(), "/bin/sh", "-c", script))
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

// curlHost gets a page of a server on the host's loopback.
func curlHost(t *testing.T, guest party) {
	t.Helper()
	curl := testenv.Need(t, "curl", "curl")
	for i, addr := range natLoopback {
		l := testenv.Must(net.Listen("tcp", net.JoinHostPort(addr, "0")))(t)
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

// slirpOurs is the NAT of the module slirp, with Debian's vdens as its guest.
func slirpOurs(t *testing.T, _ string) *rig {
	exe, _ := script(t, testenv.Build(t, root+"/slirp", "slirp_plug"), natVNL(true))
	r := opposite(hostParty{}, func() party {
		s := shell{start(t, testenv.Need(t, "vdens", "vdens"), "cmd://"+exe, "/bin/sh")}
		must(t, s, guestScript(t))
		curlHost(t, s)
		return s
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
	us := stackParty{s}
	curlHost(t, us)
	return &rig{us: us, them: hostParty{}, ours: host{natForwards[0]}, theirs: natHost, fate: func(t *testing.T) string {
		killRun(t, pids, unix.SIGKILL)()
		curlHost(t, us)
		return again
	}}
}
