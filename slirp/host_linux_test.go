package slirp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/dns/dnstest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// forwards are ways from the host to a port of the guest, and how the guest sees the
// host. The vnl takes tcpfwd or udpfwd.
var forwards = []struct{ name, vnl, host, listen, want string }{
	{"IPv4", "slirp:///%s=127.0.0.1:8080:10.0.2.15:80", "127.0.0.1:8080", "10.0.2.15:80", "10.0.2.2"},
	{"any address", "slirp:///%s=8080:10.0.2.15:80", "203.0.113.1:8080", "10.0.2.15:80", "203.0.113.1"},
	{"IPv6", "slirp:///%s=[::1]:8080:[fd00::15]:80", "[::1]:8080", "[fd00::15]:80", "fd00::2"},
	{"any address, IPv6", "slirp:///%s=[::]:8080:[fd00::15]:80", "[fd09::1]:8080", "[fd00::15]:80", "fd09::1"},
	{"restricted", "slirp:///restricted/%s=127.0.0.1:8080:10.0.2.15:80", "127.0.0.1:8080", "10.0.2.15:80", "10.0.2.2"},
	{"no loopback", "slirp:///disable_host_loopback/%s=127.0.0.1:8080:10.0.2.15:80", "127.0.0.1:8080", "10.0.2.15:80", "10.0.2.2"},
}

// TestForwardTCP connects from the host to a server of the guest.
func TestForwardTCP(t *testing.T) {
	for _, tt := range forwards {
		t.Run(tt.name, func(t *testing.T) {
			st := guest(t, fmt.Sprintf(tt.vnl, "tcpfwd"))
			go serve(testenv.Listen(t, st, "tcp", tt.listen), func(c net.Conn) {
				host, port, _ := net.SplitHostPort(c.RemoteAddr().String())
				fmt.Fprint(c, host, " ", port, " ")
				io.Copy(c, c)
			})
			c := dial(t, &net.Dialer{}, "tcp", tt.host)
			fmt.Fprint(c, "hello")
			c.(*net.TCPConn).CloseWrite()
			_, port, _ := net.SplitHostPort(c.LocalAddr().String())
			got, err := io.ReadAll(c)
			if want := tt.want + " " + port + " hello"; err != nil || string(got) != want {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		})
	}
}

// TestForwardNobody connects to forwards that lead to a closed port and to no guest.
func TestForwardNobody(t *testing.T) {
	testenv.Long(t)
	guest(t, "slirp:///tcpfwd=127.0.0.1:8080:10.0.2.15:80,127.0.0.1:8081:10.0.2.99:80")
	for _, addr := range []string{"127.0.0.1:8080", "127.0.0.1:8081"} {
		c, err := net.Dial("tcp", addr)
		if errors.Is(err, syscall.ECONNRESET) {
			continue // it came before Dial returned
		}
		testenv.Check(t, err)
		c.SetDeadline(time.Now().Add(testenv.Timeout))
		if _, err := io.ReadAll(c); err == nil || os.IsTimeout(err) {
			t.Errorf("%s: got %v, want a reset", addr, err)
		}
		c.Close()
	}
}

// TestForwardUDP sends datagrams from the host to a guest, which answers.
func TestForwardUDP(t *testing.T) {
	for _, tt := range forwards {
		t.Run(tt.name, func(t *testing.T) {
			st := guest(t, fmt.Sprintf(tt.vnl, "udpfwd"))
			go servePackets(testenv.ListenPacket(t, st, "udp", tt.listen), func(b []byte, from net.Addr) []byte {
				return fmt.Appendf(nil, "%s %s", b, from)
			})
			for i := range 2 {
				c := dial(t, &net.Dialer{}, "udp", tt.host)
				fmt.Fprint(c, i)
				buf := make([]byte, 100)
				n, err := c.Read(buf)
				_, port, _ := net.SplitHostPort(c.LocalAddr().String())
				if want := fmt.Sprint(i, " ", net.JoinHostPort(tt.want, port)); err != nil || string(buf[:n]) != want {
					t.Errorf("got %q, %v, want %q", buf[:n], err, want)
				}
			}
		})
	}
}

// TestForwardTaken opens a forward of a port that is not free.
func TestForwardTaken(t *testing.T) {
	ln, _ := listen(t, "127.0.0.1")
	port := ln.Addr().(*net.TCPAddr).Port
	_, err := vdestack.Open(fmt.Sprintf("slirp:///tcpfwd=127.0.0.1:%d:10.0.2.15:80", port))
	if want := fmt.Sprintf("127.0.0.1:%d -> guest 10.0.2.15:80: listen tcp4", port); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q in it", err, want)
	}
}

// TestServices connects from the guest to a unix socket of the host and to a
// command.
func TestServices(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	ln := testenv.Must(net.Listen("unix", socket))(t)
	defer ln.Close()
	go serveEcho(ln, "socket ")
	quoted := strings.ReplaceAll(socket, "/", "%2f")
	st := guest(t, "slirp:///restricted/unixfwd=6000:"+quoted+"/cmdfwd=10.0.2.5:6001:'sh -c \"echo command; tr a-z A-Z\"',[fd00::5]:6002:cat,6003:%2fnowhere%2fcommand")
	for _, tt := range []struct{ addr, want string }{
		{"10.0.2.4:6000", "socket hello"},
		{"10.0.2.5:6001", "command\nHELLO"},
		{"[fd00::5]:6002", "hello"},
	} {
		c := dial(t, st, "tcp", tt.addr)
		fmt.Fprint(c, "hello")
		c.(*net.TCPConn).CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != tt.want {
			t.Errorf("%s: got %q, %v, want %q", tt.addr, got, err, tt.want)
		}
	}
	if c, err := st.DialContext(testenv.Context(t), "tcp", "10.0.2.4:6003"); err == nil {
		c.Close()
		t.Error("a command that does not exist was connected to")
	}
}

// fakeNames replaces the name servers of the host.
func fakeNames(t *testing.T, n *nat, list ...netip.AddrPort) {
	t.Helper()
	n.names.mu.Lock()
	defer n.names.mu.Unlock()
	n.names.list, n.names.checked, n.names.waits = list, time.Now().Add(time.Hour), nil
}

// TestNames asks the name server of the network, which is that of the host.
func TestNames(t *testing.T) {
	testenv.Long(t)
	n := openNAT(t, "slirp://")
	st := guestOn(t, n, "10.0.2.15/24", "fd00::15/64")
	silent := testenv.Must(net.ListenPacket("udp", "127.0.0.1:0"))(t)
	defer silent.Close()
	for _, h := range hosts {
		t.Run("server on "+h.name, func(t *testing.T) {
			server := dnsServer(t, h.loopback)
			for _, tt := range []struct {
				name, server string
				list         []netip.AddrPort
			}{
				{"over IPv4", "10.0.2.3", []netip.AddrPort{server}},
				{"over IPv6", "fd00::3", []netip.AddrPort{server}},
				{"the first is silent", "10.0.2.3", []netip.AddrPort{silent.LocalAddr().(*net.UDPAddr).AddrPort(), server}},
			} {
				t.Run(tt.name, func(t *testing.T) {
					fakeNames(t, n, tt.list...)
					for _, network := range []string{"udp", "tcp"} {
						got, err := ask(st, testenv.Context(t), network, netip.AddrPortFrom(netip.MustParseAddr(tt.server), 53), time.Second, testenv.Timeout)
						if err != nil || got != "192.0.2.7" {
							t.Errorf("%s: got %q, %v", network, got, err)
						}
					}
				})
			}
		})
	}
}

// ask asks a name server for an address, from one port. It asks again after each wait.
func ask(st *vdestack.Stack, ctx context.Context, network string, server netip.AddrPort, waits ...time.Duration) (got string, err error) {
	c, err := st.DialContext(ctx, network, server.String())
	if err != nil {
		return "", err
	}
	defer c.Close()
	for _, wait := range waits {
		if got, err = exchange(c, network, wait); !os.IsTimeout(err) {
			break
		}
	}
	return got, err
}

// exchange sends a question and waits for the answer.
func exchange(c net.Conn, network string, wait time.Duration) (string, error) {
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("host.example."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	q, err := m.Pack()
	if err != nil {
		return "", err
	}
	if network == "tcp" {
		q = append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...)
	}
	if _, err := c.Write(q); err != nil {
		return "", err
	}
	c.SetReadDeadline(time.Now().Add(wait))
	buf := make([]byte, 512)
	n, err := c.Read(buf)
	if err != nil {
		return "", err
	}
	if network == "tcp" {
		buf, n = buf[2:], n-2
	}
	if err := m.Unpack(buf[:n]); err != nil || len(m.Answers) != 1 {
		return "", fmt.Errorf("answers %v, %w", m.Answers, err)
	}
	return netip.AddrFrom4(m.Answers[0].Body.(*dnsmessage.AResource).A).String(), nil
}

// listenNames listens on one port of the host for UDP and TCP, as name servers do.
func listenNames(t *testing.T, host string) (net.PacketConn, net.Listener) {
	t.Helper()
	pc := testenv.Must(net.ListenPacket("udp", net.JoinHostPort(host, "0")))(t)
	ln := testenv.Must(net.Listen("tcp", pc.LocalAddr().String()))(t)
	t.Cleanup(func() { pc.Close(); ln.Close() })
	return pc, ln
}

// dnsServer starts a name server that has one answer.
func dnsServer(t *testing.T, host string) netip.AddrPort {
	t.Helper()
	pc, ln := listenNames(t, host)
	reply := func(q []byte, _ net.Addr) []byte {
		return dnstest.Answer(q, func(string) []string { return []string{"192.0.2.7"} })
	}
	go servePackets(pc, reply)
	go serve(ln, func(c net.Conn) {
		buf := make([]byte, 512)
		if n, err := c.Read(buf); err == nil && n > 2 {
			a := reply(buf[2:n], nil)
			c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...))
		}
	})
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

// TestPing pings the plug's own addresses, and hosts beyond it.
func TestPing(t *testing.T) {
	testenv.Long(t)
	ping := testenv.Need(t, "ping", "iputils-ping")
	c, err := listenPing(false)
	if err != nil {
		testenv.Skip(t, "%v (net.ipv4.ping_group_range must have this group)", err)
	}
	c.Close()
	st := guest(t, "slirp://")
	closed := guestAt(t, "slirp:///restricted", "10.0.2.15/24", "fd00::15/64")
	for _, tt := range []struct {
		name, addr string
		st         *vdestack.Stack
		fails      bool
	}{
		{"host", "10.0.2.2", st, false},
		{"name server", "10.0.2.3", st, false},
		{"host, IPv6", "fd00::2", st, false},
		{"name server, IPv6", "fd00::3", st, false},
		{"beyond", "203.0.113.1", st, false},
		{"beyond, IPv6", "fd09::1", st, false},
		{"restricted", "10.0.2.2", closed, false},
		{"restricted, beyond", "203.0.113.1", closed, true},
		{"nobody", "10.0.2.77", st, true},
		{"no route", "198.51.100.1", st, true},
		{"no route, IPv6", "2001:db8::1", st, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, size := range []string{"56", "3000"} {
				count := "3"
				if tt.fails {
					count = "1"
				}
				out, err := tt.st.Command(testenv.Context(t), ping, "-c", count, "-i", "0.2", "-W", "2", "-s", size, tt.addr).CombinedOutput()
				if (err != nil) != tt.fails {
					t.Errorf("%s bytes: %v: %s", size, err, out)
				}
				if strings.HasPrefix(tt.name, "no route") && !strings.Contains(string(out), "nreachable") {
					t.Errorf("%s bytes: got %q, want that it is unreachable", size, out)
				}
			}
		})
	}
}

// TestUnreachable sends to destinations that the host cannot reach: the guest gets the
// error. The C library does the same where the host knows at once.
func TestUnreachable(t *testing.T) {
	testenv.Long(t)
	ours, theirs := guest(t, "slirp://"), guest(t, needC(t))
	for _, tt := range []struct {
		name, network, addr string
		want                syscall.Errno
		later               bool // C does not answer
	}{
		{"refused", "tcp", "10.0.2.2:9", syscall.ECONNREFUSED, false},
		{"refused, IPv6", "tcp", "[fd00::2]:9", syscall.ECONNREFUSED, false},
		{"no route", "tcp", "198.51.100.1:80", syscall.ENETUNREACH, false},
		{"no route, IPv6", "tcp", "[2001:db8::1]:80", syscall.ENETUNREACH, false},
		{"no host", "tcp", "203.0.113.77:80", syscall.EHOSTUNREACH, true},
		{"no host, IPv6", "tcp", "[fd09::77]:80", syscall.EHOSTUNREACH, true},
		{"UDP, no route", "udp", "198.51.100.1:80", syscall.ENETUNREACH, false},
		{"UDP, no route, IPv6", "udp", "[2001:db8::1]:80", syscall.ENETUNREACH, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			try := func(who string, st *vdestack.Stack) {
				c, err := st.DialContext(testenv.Context(t), tt.network, tt.addr)
				if err == nil {
					defer c.Close()
					if tt.network == "udp" {
						wantErrors(t, c.(*net.UDPConn))
					}
					c.SetDeadline(time.Now().Add(testenv.Timeout))
					fmt.Fprint(c, "hello")
					_, err = c.Read(make([]byte, 1))
				}
				if !errors.Is(err, tt.want) {
					t.Errorf("%s: got %v, want %v", who, err, tt.want)
				}
			}
			try("ours", ours)
			if !tt.later {
				try("the C library", theirs)
			}
		})
	}
}

// wantErrors lets a socket report all errors of ICMP.
func wantErrors(t *testing.T, c *net.UDPConn) {
	t.Helper()
	level, name := unix.IPPROTO_IP, unix.IP_RECVERR
	if c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Is6() {
		level, name = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	}
	raw := testenv.Must(c.SyscallConn())(t)
	cerr := raw.Control(func(fd uintptr) { testenv.Check(t, unix.SetsockoptInt(int(fd), level, name, 1)) })
	testenv.Check(t, cerr)
}

// TestUnreachableOf checks errors that take privilege or minutes to get.
func TestUnreachableOf(t *testing.T) {
	for _, tt := range []struct {
		err      error
		want     unreachable
		ok, late bool
	}{
		{err: syscall.ECONNREFUSED},
		{err: syscall.ENOENT},
		{err: syscall.ENETUNREACH, want: noNetwork, ok: true},
		{err: syscall.EINVAL, want: noNetwork, ok: true},
		{err: syscall.EHOSTUNREACH, want: noHost, ok: true},
		{err: syscall.EACCES, want: prohibited, ok: true},
		{err: syscall.EPERM, want: prohibited, ok: true},
		{err: syscall.ETIMEDOUT, late: true},
		{err: context.DeadlineExceeded, late: true},
	} {
		err := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", tt.err)}
		got, ok := unreachableOf(err)
		if late := (&attempt{ctx: t.Context()}).late(err); got != tt.want || ok != tt.ok || late != tt.late {
			t.Errorf("%v: got %v, %t, %t, want %v, %t, %t", tt.err, got, ok, late, tt.want, tt.ok, tt.late)
		}
	}
}

// TestTFTP reads the files of a directory, and no others.
func TestTFTP(t *testing.T) {
	testenv.Long(t)
	busybox := testenv.Need(t, "busybox", "busybox")
	dir := t.TempDir()
	out := t.TempDir()
	secret := filepath.Join(out, "secret")
	sizes := []int{0, 1, 511, 512, 513, 1 << 20}
	for _, size := range sizes {
		os.WriteFile(filepath.Join(dir, fmt.Sprint(size)), bytes.Repeat([]byte("tftp"), size/4+1)[:size], 0o644)
	}
	os.WriteFile(secret, []byte("secret"), 0o644)
	os.Symlink(secret, filepath.Join(dir, "link"))
	st := guest(t, "slirp:///tftp_path="+strings.ReplaceAll(dir, "/", "%2f"))
	get := func(name string, more ...string) ([]byte, error) {
		local := filepath.Join(out, "got")
		os.Remove(local)
		args := append([]string{"tftp", "-g", "-r", name, "-l", local}, more...)
		if text, err := st.Command(testenv.Context(t), busybox, append(args, "10.0.2.2")...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%w: %s", err, text)
		}
		return os.ReadFile(local)
	}
	for _, size := range sizes {
		for _, more := range [][]string{nil, {"-b", "1400"}, {"-b", "64"}} {
			if size > 1000 && len(more) > 0 && more[1] == "64" {
				continue
			}
			got, err := get(fmt.Sprint(size), more...)
			if want, _ := os.ReadFile(filepath.Join(dir, fmt.Sprint(size))); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %q: got %d bytes, %v", size, more, len(got), err)
			}
		}
	}
	for _, name := range []string{"missing", "../" + filepath.Base(out) + "/secret", secret, "link", "."} {
		if got, err := get(name); err == nil {
			t.Errorf("%s: got %q, want an error", name, got)
		}
	}
}

// TestAdvertisement has the kernel make an address and a default route of the router's
// advertisement.
func TestAdvertisement(t *testing.T) {
	testenv.Long(t)
	for _, tt := range []struct{ name, vnl, prefix, host string }{
		{"default", "slirp://", "fd00::/64", "fd00::2"},
		{"another", "slirp:///v6/host6=fd77::1%2f64", "fd77::/64", "fd77::1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ln, _ := listen(t, "::1")
			st := guestAt(t, tt.vnl)
			prefix := netip.MustParsePrefix(tt.prefix)
			nl := testenv.Must(st.RTNL())(t)
			defer nl.Close()
			// While an address is checked for duplicates it cannot be used.
			events := nl.Watch(testenv.Context(t))
			addr := usableAddr(t, nl, prefix)
			if !addr.IsValid() {
				for _, err := range events {
					if err != nil {
						t.Fatalf("no address of %s: %v", prefix, err)
					}
					if addr = usableAddr(t, nl, prefix); addr.IsValid() {
						break
					}
				}
			}
			c := dial(t, st, "tcp", net.JoinHostPort(tt.host, fmt.Sprint(ln.Addr().(*net.TCPAddr).Port)))
			if got := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr(); got != addr {
				t.Errorf("connected from %s, want %s", got, addr)
			}
			routes := testenv.Must(nl.Routes())(t)
			if !slices.ContainsFunc(routes, func(r rtnl.Route) bool { return r.Gateway == routerAddr }) {
				t.Errorf("no route by %s among %v", routerAddr, routes)
			}
		})
	}
}

// usableAddr returns an address of a network that can be used, if there is one.
func usableAddr(t *testing.T, nl *rtnl.Conn, p netip.Prefix) (_ netip.Addr) {
	t.Helper()
	addrs := testenv.Must(nl.Addrs())(t)
	for _, a := range addrs {
		if p.Contains(a.Prefix.Addr()) && a.Flags&rtnl.Tentative == 0 {
			return a.Prefix.Addr()
		}
	}
	return netip.Addr{}
}

// leaseScript prints a lease.
const leaseScript = `#!/bin/sh
[ "$1" = bound ] || exit 0
for v in ip subnet mask router dns domain hostname search lease serverid siaddr boot_file tftp; do
	eval "echo $v=\$$v"
done
`

// leaseOf returns the lease that busybox gets from the DHCP server of a network.
func leaseOf(t *testing.T, vnl string, more ...string) string {
	t.Helper()
	busybox := testenv.Need(t, "busybox", "busybox")
	script := filepath.Join(t.TempDir(), "script")
	testenv.Check(t, os.WriteFile(script, []byte(leaseScript), 0o755))
	st := guestAt(t, vnl)
	args := []string{"udhcpc", "-i", "vde0", "-f", "-n", "-q", "-t", "10", "-T", "1", "-s", script,
		"-O", "search", "-O", "tftp", "-O", "bootfile"}
	cmd := st.Command(testenv.Context(t), busybox, append(args, more...)...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", vnl, err, errs.String())
	}
	lines := slices.DeleteFunc(strings.Split(string(out), "\n"), func(s string) bool { return strings.HasSuffix(s, "=") || s == "" })
	return strings.Join(lines, "\n")
}

// TestDHCP compares leases with those of the C library.
func TestDHCP(t *testing.T) {
	testenv.Long(t)
	theirs := needC(t)
	for _, tt := range []struct{ name, options, want string }{
		{"default", "", "ip=10.0.2.15\nsubnet=255.255.255.0\nmask=24\nrouter=10.0.2.2\ndns=10.0.2.3\nhostname=slirp\nlease=86400\nserverid=10.0.2.2\nsiaddr=10.0.2.2"},
		{"network", "/addr=10.9.0.1%2f16", "ip=10.9.2.15\nsubnet=255.255.0.0\nmask=16\nrouter=10.9.0.1\ndns=10.9.2.3\nhostname=slirp\nlease=86400\nserverid=10.9.0.1\nsiaddr=10.9.0.1"},
		{"all", "/hostname=h/vdomainname=dom/vdnssearch=foo.com,bar.org/bootfile=boot/tftp_server_name=tsn/dhcp=10.0.2.99/vnameserver=10.0.2.7",
			"ip=10.0.2.99\nsubnet=255.255.255.0\nmask=24\nrouter=10.0.2.2\ndns=10.0.2.7\ndomain=dom\nhostname=h\nsearch=foo.com bar.org\nlease=86400\nserverid=10.0.2.2\nsiaddr=10.0.2.2\nboot_file=boot\ntftp=tsn"},
		{"restricted", "/restricted", "ip=10.0.2.15\nsubnet=255.255.255.0\nmask=24\nhostname=slirp\nlease=86400\nserverid=10.0.2.2\nsiaddr=10.0.2.2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := leaseOf(t, "slirp://"+tt.options); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			if got := leaseOf(t, theirs+tt.options); got != tt.want {
				t.Errorf("the C library gives\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
	t.Run("asked for", func(t *testing.T) {
		if got := leaseOf(t, "slirp://", "-r", "10.0.2.40"); !strings.HasPrefix(got, "ip=10.0.2.40\n") {
			t.Errorf("got\n%s\nwant 10.0.2.40", got)
		}
	})
}

// TestDHCPRenewal renews a lease by unicast. Only what is refused is told to all.
func TestDHCPRenewal(t *testing.T) {
	st := guest(t, "slirp://")
	one := testenv.ListenPacket(t, st, "udp4", "10.0.2.15:68")
	all := testenv.ListenPacket(t, st, "udp4", "255.255.255.255:68")
	for _, tt := range []struct {
		what string
		msg  []byte
		at   net.PacketConn
		typ  byte
	}{
		{"renewal", withClient(dhcpMsg(1, dhcpRequest), 15), one, dhcpAck},
		{"inform", withClient(dhcpMsg(1, dhcpInform), 15), one, dhcpAck},
		{"what another has", withClient(dhcpMsg(2, dhcpRequest), 15), all, dhcpNak},
		{"without an address", dhcpMsg(1, dhcpRequest, requested(15)...), all, dhcpAck},
		{"with that of the host", withClient(dhcpMsg(1, dhcpRequest, requested(15)...), 2), all, dhcpAck},
	} {
		testenv.Must(one.WriteTo(tt.msg, net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.0.2.2:67"))))(t)
		testenv.Check(t, tt.at.SetReadDeadline(time.Now().Add(testenv.Timeout)))
		b := make([]byte, 1500)
		if n, _, err := tt.at.ReadFrom(b); err != nil || n < dhcpHeaderLen+7 || b[dhcpHeaderLen+6] != tt.typ {
			t.Errorf("%s: got %d bytes, %v", tt.what, n, err)
		}
	}
}

// needC returns the locator of the C library's network, in Debian's vde_plug.
func needC(t testing.TB) string {
	t.Helper()
	if files, _ := filepath.Glob("/usr/lib/*/vdeplug/libvdeplug_slirp.so"); len(files) == 0 {
		testenv.Skip(t, "libvdeplug_slirp.so is missing (apt-get install libvdeplug-slirp)")
	}
	return "cmd://" + testenv.Need(t, "vde_plug", "vdeplug") + " slirp://"
}
