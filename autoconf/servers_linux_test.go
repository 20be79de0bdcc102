package autoconf

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/autoconf/serve"
	"github.com/vdestack/vdestack/internal/sockets"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/vdeplug"
)

// A place is where a server is, and what it has to give.
type place struct {
	vnl string
	// n is its host: 10.0.0.n and fd00::n.
	n int
	// pool is the first of ten addresses: 10.0.0.pool and fd00::pool.
	pool int
	// dns is the name server that it tells: 10.0.0.dns and fd00::dns.
	dns int
	// net6 is its prefix of 64 bits, without the slash. Empty means fd00::.
	net6 string
	// dir is a directory where it keeps leases. An empty one has none.
	dir string
}

func (p place) v4(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}) }

func (p place) v6(n int) netip.Addr {
	if p.net6 == "" {
		p.net6 = "fd00::"
	}
	return addr(fmt.Sprint(p.net6, n))
}

// host returns the host n of the server's networks.
func (p place) host(by Source, n int) netip.Addr {
	if by == DHCP4 {
		return p.v4(n)
	}
	return p.v6(n)
}

// A stop ends a server and its host: with SIGTERM if it may say farewell, else without its
// interface and with SIGKILL.
type stop func(farewell bool)

// A server is a program, or one of ours.
type server struct {
	name     string
	by       Source
	packages []string // of Debian
	// start starts it. It ends with the test.
	start func(t *testing.T, p place) stop
	// alone says that there cannot be two on a network.
	alone bool
	// built says that it is a program of ours that has to be built.
	built bool
	// noDNS says that its name server depends on the machine's.
	noDNS bool
}

// servers are the rows of the table.
var servers = []server{
	{name: "dnsmasq", by: DHCP4, packages: []string{"dnsmasq-base"}, start: inHost(func(t *testing.T, h host, p place) func(bool) {
		return dnsmasq(t, h, p, fmt.Sprintf("--dhcp-range=%v,%v,255.255.255.0,1h", p.v4(p.pool), p.v4(p.pool+9)), fmt.Sprint("--dhcp-option=option:dns-server,", p.v4(p.dns)))
	})},
	{name: "dnsmasq", by: DHCP6, packages: []string{"dnsmasq-base"}, start: inHost(func(t *testing.T, h host, p place) func(bool) {
		return dnsmasq(t, h, p, fmt.Sprintf("--dhcp-range=%v,%v,64,1h", p.v6(p.pool), p.v6(p.pool+9)), fmt.Sprintf("--dhcp-option=option6:dns-server,[%v]", p.v6(p.dns)), fmt.Sprintf("--dhcp-duid=1,%02x", p.n))
	})},
	{name: "dnsmasq", by: RD, packages: []string{"dnsmasq-base"}, start: inHost(func(t *testing.T, h host, p place) func(bool) {
		return dnsmasq(t, h, p, "--enable-ra", fmt.Sprintf("--dhcp-range=%v,slaac,64,1h", p.v6(0)), "--ra-param=vde0,60,1800", fmt.Sprintf("--dhcp-option=option6:dns-server,[%v]", p.v6(p.dns)))
	})},
	{name: "udhcpd", by: DHCP4, packages: []string{"busybox"}, start: inHost(udhcpd)},
	{name: "Kea", by: DHCP4, packages: []string{"kea-dhcp4-server"}, start: inHost(kea4)},
	{name: "Kea", by: DHCP6, packages: []string{"kea-dhcp6-server"}, start: inHost(kea6)},
	{name: "radvd", by: RD, packages: []string{"radvd"}, start: inHost(radvd)},
	{name: "`autoconf/serve`", by: DHCP4, start: inHost(serveOurs(DHCP4))},
	{name: "`autoconf/serve`", by: DHCP6, start: inHost(serveOurs(DHCP6))},
	{name: "`autoconf/serve`", by: RD, start: inHost(serveOurs(RD))},
	{name: "`slirp://` of ours", by: DHCP4, built: true, start: slirpOurs(DHCP4)},
	{name: "`slirp://` of ours", by: RD, alone: true, built: true, start: slirpOurs(RD)},
	{name: "`slirp://` of libvdeplug", by: DHCP4, packages: []string{"libvdeplug-slirp", "libslirp0"}, start: slirpDebian(DHCP4)},
	{name: "`slirp://` of libvdeplug", by: RD, packages: []string{"libvdeplug-slirp", "libslirp0"}, alone: true, noDNS: true, start: slirpDebian(RD)},
}

// serverMAC is the hardware address of the host of a server.
func serverMAC(n int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 1, byte(n)} }

// inHost has a server run in a stack.
func inHost(run func(t *testing.T, h host, p place) (stop func(farewell bool))) func(t *testing.T, p place) stop {
	return func(t *testing.T, p place) stop {
		// The hardware address stays when it is started again.
		h := newHost(t, vdestack.Interface{
			VNL: p.vnl, MAC: serverMAC(p.n),
			Addrs: []netip.Prefix{netip.PrefixFrom(p.v4(p.n), 24), netip.PrefixFrom(p.v6(p.n), 64)},
		})
		end := run(t, h, p)
		return func(farewell bool) {
			if !farewell {
				testenv.Check(t, h.st.RemoveInterface("vde0"))
			}
			end(farewell)
			testenv.Check(t, h.st.Close())
		}
	}
}

// startServer runs a program in a stack until it is stopped, or the test ends. It serves when
// its log has one of the texts.
func startServer(t *testing.T, st *vdestack.Stack, ready []string, env []string, name string, args ...string) (log *testenv.Buffer, stop func(farewell bool)) {
	t.Helper()
	log = &testenv.Buffer{}
	cmd := st.Command(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	testenv.Check(t, cmd.Start())
	end := sync.OnceFunc(func() {
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s: %s", name, log.String())
		}
	})
	t.Cleanup(end)
	testenv.Eventually(t, name+" to start", func() bool {
		for _, text := range ready {
			if strings.Contains(log.String(), text) {
				return true
			}
		}
		return false
	}, log.String)
	return log, func(farewell bool) {
		sig := syscall.SIGKILL
		if farewell {
			sig = syscall.SIGTERM
		}
		cmd.Process.Signal(sig)
		end()
	}
}

// startDnsmasq runs dnsmasq in a stack, with leases in a directory.
func startDnsmasq(t *testing.T, h host, state string, options ...string) (log *testenv.Buffer, stop func(farewell bool)) {
	t.Helper()
	return startServer(t, h.st, []string{"DHCP, ", "router advertisement enabled", "DHCPv6, "}, nil, testenv.Need(t, "dnsmasq", "dnsmasq-base"), append([]string{
		"--keep-in-foreground", "--log-facility=-", "--log-dhcp", "--conf-file=/dev/null", "--pid-file=", "--user=", "--group=",
		"--no-resolv", "--no-hosts", "--interface=vde0", "--bind-interfaces", "--no-ping", "--dhcp-leasefile=" + filepath.Join(state, "leases"),
	}, options...)...)
}

func dnsmasq(t *testing.T, h host, p place, options ...string) func(bool) {
	_, stop := startDnsmasq(t, h, p.dir, append(options, "--port=0")...)
	return stop
}

// writeFile writes the configuration of a server.
func writeFile(t *testing.T, p place, name, format string, args ...any) (path string) {
	t.Helper()
	path = filepath.Join(p.dir, name)
	testenv.Check(t, os.WriteFile(path, fmt.Appendf(nil, format, args...), 0o644))
	return path
}

func udhcpd(t *testing.T, h host, p place) func(bool) {
	leases := filepath.Join(p.dir, "leases")
	f, err := os.OpenFile(leases, os.O_CREATE, 0o644)
	testenv.Check(t, err)
	f.Close()
	conf := writeFile(t, p, "conf", "start %v\nend %v\nmax_leases 10\ninterface vde0\nlease_file %s\npidfile %s/pid\nauto_time 0\noption subnet 255.255.255.0\noption router %v\noption dns %v\noption lease 3600\n",
		p.v4(p.pool), p.v4(p.pool+9), leases, p.dir, p.v4(p.n), p.v4(p.dns))
	// It looks for the address before it offers it, for 2 s unless told otherwise.
	_, stop := startServer(t, h.st, []string{"started"}, nil, testenv.Need(t, "busybox", "busybox"), "udhcpd", "-f", "-a", "1", conf)
	testenv.Eventually(t, "udhcpd to have its port", func() bool {
		return slices.ContainsFunc(testenv.Must(sockets.List(h.st))(t), func(s sockets.Socket) bool { return s.Local.Port() == 67 })
	})
	return stop
}

// startKea runs a server of Kea with a configuration that is common, and what else it needs.
func startKea(t *testing.T, h host, p place, version int, format string, args ...any) func(bool) {
	t.Helper()
	name := fmt.Sprint("kea-dhcp", version)
	conf := writeFile(t, p, "conf", `{"Dhcp%d": {"interfaces-config": {"interfaces": ["vde0"]}, "valid-lifetime": 3600,
		"lease-database": {"type": "memfile", "name": "%s/leases", "lfc-interval": 0},
		"loggers": [{"name": "%s", "severity": "INFO", "output_options": [{"output": "stdout"}]}], %s}}`,
		version, p.dir, name, fmt.Sprintf(format, args...))
	env := []string{"KEA_PIDFILE_DIR=" + p.dir, "KEA_LOCKFILE_DIR=" + p.dir, "KEA_LOGGER_DESTINATION=stdout"}
	_, stop := startServer(t, h.st, []string{fmt.Sprintf("DHCP%d_STARTED", version)}, env, testenv.Need(t, name, name+"-server"), "-c", conf)
	return stop
}

func kea4(t *testing.T, h host, p place) func(bool) {
	return startKea(t, h, p, 4, `"option-data": [{"name": "routers", "data": "%v"}, {"name": "domain-name-servers", "data": "%v"}],
		"subnet4": [{"id": 1, "subnet": "10.0.0.0/24", "pools": [{"pool": "%v - %v"}]}]`,
		p.v4(p.n), p.v4(p.dns), p.v4(p.pool), p.v4(p.pool+9))
}

func kea6(t *testing.T, h host, p place) func(bool) {
	return startKea(t, h, p, 6, `"server-id": {"type": "LL", "htype": 1, "identifier": "0200000001%02x", "persist": false}, "option-data": [{"name": "dns-servers", "data": "%v"}],
		"subnet6": [{"id": 1, "subnet": "%v/64", "interface": "vde0", "pools": [{"pool": "%v - %v"}]}]`,
		p.n, p.v6(p.dns), p.v6(0), p.v6(p.pool), p.v6(p.pool+9))
}

func radvd(t *testing.T, h host, p place) func(bool) {
	conf := writeFile(t, p, "conf", "interface vde0 { AdvSendAdvert on; MinRtrAdvInterval 20; MaxRtrAdvInterval 60; AdvDefaultLifetime 1800;\n"+
		"prefix %v/64 { AdvValidLifetime 3600; AdvPreferredLifetime 3600; };\nRDNSS %v { AdvRDNSSLifetime 1800; }; };\n", p.v6(0), p.v6(p.dns))
	testenv.Check(t, h.st.Sysctl("net/ipv6/conf/all/forwarding", "1"))
	_, stop := startServer(t, h.st, []string{"version 2"}, nil, testenv.Need(t, "radvd", "radvd"), "--nodaemon", "--logmethod=stderr", "--debug=4", "--config="+conf, "--pidfile="+filepath.Join(p.dir, "pid"))
	return stop
}

// serveOurs has a server of package serve. It keeps no leases.
func serveOurs(by Source) func(t *testing.T, h host, p place) func(bool) {
	return func(t *testing.T, h host, p place) func(bool) {
		s, err := serve.Start(h.st, serve.Config{
			Nameservers: []netip.Addr{p.host(by, p.dns)},
			DHCP4:       serve.DHCP4{Off: by != DHCP4, Pools: []serve.Range{{First: p.v4(p.pool), Last: p.v4(p.pool + 9)}}},
			DHCP6:       serve.DHCP6{Off: by != DHCP6},
			RA:          serve.RA{Off: by != RD, Prefixes: []serve.Prefix{{Prefix: netip.PrefixFrom(p.v6(0), 64), Preferred: time.Hour, Valid: time.Hour}}},
			DNS:         serve.DNS{Off: true},
		})
		testenv.Check(t, err)
		return func(farewell bool) {
			if farewell {
				testenv.Check(t, s.Close())
			} // else with its stack
		}
	}
}

// slirp has a NAT of a program.
func slirp(by Source, program func(t *testing.T) string) func(t *testing.T, p place) stop {
	return func(t *testing.T, p place) stop {
		options := fmt.Sprintf("v4/addr=%v%%2f24/dhcp=%v/vnameserver=%v", p.v4(p.n), p.v4(p.pool), p.v4(p.dns))
		if by == RD {
			options = fmt.Sprintf("v6/addr6=%v%%2f64/vnameserver6=%v", p.v6(p.n), p.v6(p.dns))
		}
		return joined(t, p.vnl, "cmd://"+program(t)+" slirp:///"+options)
	}
}

func slirpOurs(by Source) func(t *testing.T, p place) stop {
	return slirp(by, func(t *testing.T) string { return testenv.Build(t, "../slirp", "slirp_plug") })
}

func slirpDebian(by Source) func(t *testing.T, p place) stop {
	return slirp(by, func(t *testing.T) string { return testenv.Need(t, "vde_plug", "vdeplug") })
}

// joined joins two networks, until it is stopped or the test ends.
func joined(t *testing.T, one, two string) stop {
	t.Helper()
	a := testenv.Must(vdeplug.Open(one, nil))(t)
	b, err := vdeplug.Open(two, nil)
	if err != nil {
		a.Close()
		t.Fatal(err)
	}
	var copies sync.WaitGroup
	pass := func(from, to vdeplug.Conn) {
		for b := make([]byte, vdeplug.MaxFrame); ; {
			n, err := from.Recv(b)
			if err != nil {
				return
			}
			to.Send(b[:n])
		}
	}
	copies.Go(func() { pass(a, b) })
	copies.Go(func() { pass(b, a) })
	end := sync.OnceFunc(func() {
		a.Close()
		b.Close()
		copies.Wait()
	})
	t.Cleanup(end)
	return func(bool) { end() }
}
