package vdestack

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

func TestSocketErrors(t *testing.T) {
	s := open(t, "mem://"+t.Name(), "10.0.0.1/24", "fc00::1/64")
	lo := open(t, "")
	busy, err := s.Listen("tcp", "10.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	dial := func(network, address string) func() error {
		return func() error { _, err := s.Dial(network, address); return err }
	}
	from := func(local net.Addr, timeout time.Duration, address string) func() error {
		d := Dialer{Stack: s}
		d.LocalAddr, d.Timeout = local, timeout
		return func() error { _, err := d.Dial("tcp", address); return err }
	}
	listen := func(network, address string) func() error {
		return func() error { _, err := s.Listen(network, address); return err }
	}
	packet := func(network, address string) func() error {
		return func() error { _, err := s.ListenPacket(network, address); return err }
	}
	group := func(s *Stack, network, ifname, group string) func() error {
		return func() error {
			_, err := s.ListenMulticastUDP(network, ifname, netip.MustParseAddrPort(group))
			return err
		}
	}
	socket := func(domain, typ, proto int) func() error {
		return func() error { _, err := s.Socket(domain, typ, proto); return err }
	}
	mistakes(t, "\x00", []mistake{
		{"refused", dial("tcp", "10.0.0.1:1"), `dial tcp 10.0.0.1:1: connect: connection refused`},
		{"no route", dial("tcp", "192.0.2.1:80"), `dial tcp 192.0.2.1:80: connect: network is unreachable`},
		{"nobody", from(nil, 10*time.Millisecond, "10.0.0.99:1"), `dial tcp 10.0.0.99:1: i/o timeout`},
		{"no port", dial("tcp", "10.0.0.1"), `dial tcp: address 10.0.0.1: missing port in address`},
		{"large port", dial("tcp", "10.0.0.1:65536"), `dial tcp: address 65536: invalid port`},
		{"negative port", dial("tcp", "10.0.0.1:-1"), `dial tcp: address -1: invalid port`},
		{"name of a port", dial("tcp", "10.0.0.1:nosuch"), `dial tcp: lookup tcp/nosuch: unknown port`},
		{"no servers", dial("tcp", "nosuch.invalid:80"), `dial tcp: lookup nosuch.invalid: the stack has no DNS servers (set Config.DNS)`},
		{"family", dial("tcp4", "[fc00::1]:80"), `dial tcp4: address fc00::1: no suitable address found`},
		{"zone", dial("tcp", "[fe80::1%nosuch]:80"), `dial tcp: address fe80::1%nosuch: zone "nosuch" is no interface of the stack`},
		{"brackets", dial("tcp", "fe80::1:80"), `dial tcp: address fe80::1:80: too many colons in address`},
		{"network", dial("foo", "10.0.0.1:1"), `dial foo: unknown network foo`},
		{"no network", dial("", ""), `dial: unknown network `},
		{"unix", dial("unix", "/nonexistent/socket"), `dial unix /nonexistent/socket: connect: no such file or directory`},
		{"no IP protocol", dial("ip4", "10.0.0.1"), `dial ip4: unknown network ip4`},
		{"IP protocol", dial("ip4:nosuch", "10.0.0.1"), `dial ip4:nosuch: address nosuch: unknown IP protocol: a number from 0 to 255, icmp, igmp, tcp, udp or ipv6-icmp`},
		{"IP family", dial("ip4:icmp", "fc00::1"), `dial ip4:icmp: lookup fc00::1: no suitable address found`},
		{"type of local address", from(&net.UDPAddr{Port: 7}, 0, "10.0.0.1:1"), `dial tcp: address :7: mismatched local address type`},
		{"local address", from(&net.TCPAddr{IP: net.IPv4(10, 9, 9, 9)}, 0, "10.0.0.1:1"), `dial tcp 10.9.9.9:0->10.0.0.1:1: bind: cannot assign requested address`},

		{"listen, in use", listen("tcp", "10.0.0.1:80"), `listen tcp 10.0.0.1:80: bind: address already in use`},
		{"listen, address", listen("tcp", "192.0.2.1:80"), `listen tcp 192.0.2.1:80: bind: cannot assign requested address`},
		{"listen, port", listen("tcp", "10.0.0.1:65536"), `listen tcp: address 65536: invalid port`},
		{"listen, no port", listen("tcp", "10.0.0.1"), `listen tcp: address 10.0.0.1: missing port in address`},
		{"listen, family", listen("tcp4", "[fc00::1]:80"), `listen tcp4: address fc00::1: no suitable address found`},
		{"listen, name", listen("tcp", "nosuch.invalid:80"), `listen tcp: lookup nosuch.invalid: the stack has no DNS servers (set Config.DNS)`},
		{"listen, zone", listen("tcp", "[fe80::1%nosuch]:80"), `listen tcp: address fe80::1%nosuch: zone "nosuch" is no interface of the stack`},
		{"listen, network", listen("foo", ":0"), `listen foo: unknown network foo`},
		{"listen, no stream", listen("udp", "10.0.0.1:80"), `listen udp 10.0.0.1:80: address 10.0.0.1:80: unexpected address type`},
		{"packets, no IP protocol", packet("ip4", "10.0.0.1"), `listen ip4: unknown network ip4`},
		{"packets, IP family", packet("ip6:icmp", "10.0.0.1"), `listen ip6:icmp: address 10.0.0.1: not an address of this family`},
		{"group", group(s, "udp", "", "10.0.0.1:80"), `listen udp 10.0.0.1:80: address 10.0.0.1:80: not a multicast group`},
		{"group, family", group(s, "udp6", "", "224.0.0.9:80"), `listen udp6 224.0.0.9:80: address 224.0.0.9:80: not a group of this family`},
		{"group, network", group(s, "tcp", "", "224.0.0.9:80"), `listen tcp 224.0.0.9:80: unknown network tcp`},
		{"group, interface", group(s, "udp", "eth9", "224.0.0.9:80"), `listen udp 224.0.0.9:80: interface "eth9" of the stack: rtnl: look up interface "eth9": no such device`},
		{"group, loopback", group(lo, "udp", "", "224.0.0.9:80"), `listen udp 224.0.0.9:80: stack: no interface is up and capable of multicast`},

		{"domain", socket(12345, unix.SOCK_STREAM, 0), `stack: socket: address family not supported by protocol (domain 12345, type 0x1, protocol 0: the kernel does not know this domain, see socket(2))`},
		{"negative domain", socket(-1, unix.SOCK_STREAM, 0), `stack: socket: address family not supported by protocol (domain -1, type 0x1, protocol 0: the kernel does not know this domain, see socket(2))`},
		{"type", socket(unix.AF_INET, 99, 0), `stack: socket: invalid argument (domain 2, type 0x63, protocol 0: the domain has no such type, see socket(2))`},
		{"type of the domain", socket(unix.AF_INET, unix.SOCK_SEQPACKET, 0), `stack: socket: socket type not supported (domain 2, type 0x5, protocol 0: the domain has no such type, see socket(2))`},
		{"protocol", socket(unix.AF_INET, unix.SOCK_STREAM, 99), `stack: socket: protocol not supported (domain 2, type 0x1, protocol 99: the domain and type have no such protocol, 0 is the usual one)`},
	})
}

func TestCommandErrors(t *testing.T) {
	dir := shortDir(t)
	s := open(t, "")
	for name, mode := range map[string]os.FileMode{"script": 0o700, "file": 0o600} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("hello"), mode); err != nil {
			t.Fatal(err)
		}
	}
	orphan := filepath.Join(dir, "orphan")
	if err := os.WriteFile(orphan, []byte("#!/nonexistent/interpreter\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	run := func(name string, arg ...string) func() error {
		return func() error { return s.Command(t.Context(), name, arg...).Run() }
	}
	with := func(f func(c *Cmd) error) func() error {
		return func() error { return f(s.Command(t.Context(), "true")) }
	}
	line := func(commands string) func() error {
		return func() error { return s.Run(t.Context(), commands) }
	}
	mistakes(t, dir, []mistake{
		{"not in PATH", run("no-such-command"), `exec: "no-such-command": executable file not found in $PATH`},
		{"no name", run(""), `exec: "": executable file not found in $PATH`},
		{"no file", run("/no/such/command"), `stack: exec /no/such/command: no such file or directory (no such program)`},
		{"no interpreter", run(orphan), `stack: exec DIR/orphan: no such file or directory (the file is there, but not the interpreter that it names in its first line or its ELF header)`},
		{"not executable", run(dir + "/file"), `stack: exec DIR/file: permission denied (it must be a file that this user may execute, chmod +x, not on a file system mounted noexec)`},
		{"directory", run(dir), `stack: exec DIR: permission denied (it must be a file that this user may execute, chmod +x, not on a file system mounted noexec)`},
		{"no program", run(dir + "/script"), `stack: exec DIR/script: exec format error (neither a program for this machine nor a script that begins with #!)`},
		{"zero byte", run("/bin/echo", "a\x00b"), `stack: exec /bin/echo: argument with a zero byte: invalid argument`},
		{"long argument", run("/bin/echo", strings.Repeat("x", 1<<20)), `stack: exec /bin/echo: argument list too long (the arguments and the environment are too long, see execve(2))`},
		{"environment", with(func(c *Cmd) error { c.Env = []string{"A=b\x00c"}; return c.Run() }), `stack: environment variable "A=b\x00c" has a zero byte`},
		{"no directory", with(func(c *Cmd) error { c.Dir = "/no/such"; return c.Run() }), `chdir /no/such: no such file or directory`},
		{"file for directory", with(func(c *Cmd) error { c.Dir = dir + "/file"; return c.Run() }), `chdir DIR/file: not a directory`},
		{"not started", with((*Cmd).Wait), `stack: command was not started`},
		{"started twice", with(func(c *Cmd) error { c.Run(); return c.Start() }), `stack: command was started already`},
		{"waited twice", with(func(c *Cmd) error { c.Run(); return c.Wait() }), `stack: Wait was called already`},
		{"zero Cmd", new(Cmd).Run, `stack: a Cmd is made by Stack.Command`},
		{"output twice", with(func(c *Cmd) error { c.Stdout = os.Stdout; _, err := c.Output(); return err }), `stack: Stdout is set already`},
		{"input twice", with(func(c *Cmd) error { c.Stdin = os.Stdin; _, err := c.StdinPipe(); return err }), `stack: Stdin is set already`},
		{"status", run("sh", "-c", "exit 3"), `exit status 3`},
		{"line, quote", line("echo 'x"), `command line: byte 5, at "'x": this quote does not end`},
		{"line, zero byte", line("echo \x00"), `command line: byte 5, at "\x00": a command line has no NUL`},
		{"line, not in PATH", line("true; no-such-command a"), `command ["no-such-command" "a"]: exec: "no-such-command": executable file not found in $PATH`},
		{"line, status", line("sh -c 'exit 3'; true"), `command ["sh" "-c" "exit 3"]: exit status 3`},
	})
}

func TestSettingErrors(t *testing.T) {
	s := open(t, "mem://"+t.Name(), "10.0.0.1/24")
	sysctl := func(name, value string) func() error { return func() error { return s.Sysctl(name, value) } }
	nl := func(f func(c *rtnl.Conn, index int) error) func() error {
		return func() error {
			c, err := s.RTNL()
			if err != nil {
				return err
			}
			defer c.Close()
			return f(c, s.Stats().Interfaces[0].Index)
		}
	}
	add := func(l rtnl.LinkSpec) func() error {
		return nl(func(c *rtnl.Conn, _ int) error { _, err := c.LinkAdd(l); return err })
	}
	control := func() error {
		f, err := os.Open("/dev/null")
		if err != nil {
			return err
		}
		defer f.Close()
		raw, err := f.SyscallConn()
		return errors.Join(err, s.Control("tcp", "10.0.0.1:1", raw))
	}
	prefix, gw := prefixes("10.0.0.1/24", "10.9.0.0/16"), addrs("192.0.2.1")[0]
	mistakes(t, "\x00", []mistake{
		{"sysctl of the machine", sysctl("kernel.hostname", "x"), `stack: sysctl "kernel.hostname": only settings that begin with net. belong to a stack`},
		{"sysctl, empty part", sysctl("net..ipv4", "x"), `stack: sysctl "net..ipv4" is not the name of a setting`},
		{"sysctl, dots", sysctl("net/../kernel", "x"), `stack: sysctl "net/../kernel" is not the name of a setting`},
		{"sysctl, unknown", sysctl("net.ipv4.nosuch", "x"), `stack: sysctl net.ipv4.nosuch: open /proc/sys/net/ipv4/nosuch: no such file or directory (no such setting in a stack; /proc/sys/net/ipv4 may have what is meant)`},
		{"sysctl, directory", sysctl("net.ipv4", "x"), `stack: sysctl net.ipv4: open /proc/sys/net/ipv4: is a directory (no such setting in a stack; /proc/sys/net may have what is meant)`},
		{"sysctl, value", sysctl("net.ipv4.ip_forward", "maybe"), `stack: sysctl net.ipv4.ip_forward="maybe": invalid argument`},

		{"link", nl(func(c *rtnl.Conn, _ int) error { _, err := c.IfNameToIndex("eth9"); return err }), `rtnl: look up interface "eth9": no such device`},
		{"index", nl(func(c *rtnl.Conn, _ int) error { return c.LinkSetUp(99) }), `rtnl: set up interface 99: no such device`},
		{"MTU", nl(func(c *rtnl.Conn, i int) error { return c.LinkSetMTU(i, 1<<20) }), `rtnl: set MTU 1048576 of interface 1048576: invalid argument (mtu greater than device maximum)`},
		{"MAC", nl(func(c *rtnl.Conn, i int) error { return c.LinkSetAddr(i, net.HardwareAddr{2, 3}) }), `rtnl: set hardware address of interface 1048576: invalid argument (hardware address of 2 bytes, want 6)`},
		{"zero prefix", nl(func(c *rtnl.Conn, i int) error { return c.AddrAdd(i, netip.Prefix{}) }), `rtnl: add address invalid Prefix on interface 1048576: invalid argument (the prefix is not valid)`},
		{"address twice", nl(func(c *rtnl.Conn, i int) error { return c.AddrAdd(i, prefix[0]) }), `rtnl: add address 10.0.0.1/24 on interface 1048576: file exists (ipv4: Address already assigned)`},
		{"route without path", nl(func(c *rtnl.Conn, _ int) error { return c.RouteAdd(prefix[1], gw, 0) }), `rtnl: add route 10.9.0.0/16 via 192.0.2.1: network is unreachable (Nexthop has invalid gateway)`},
		{"route without destination", nl(func(c *rtnl.Conn, _ int) error { return c.RouteAdd(netip.Prefix{}, netip.Addr{}, 0) }), `rtnl: add route without destination: invalid argument (neither a valid destination nor a gateway)`},
		{"no route", nl(func(c *rtnl.Conn, i int) error { return c.RouteDel(prefix[1], netip.Addr{}, i) }), `rtnl: delete route 10.9.0.0/16 on interface 1048576: no such process`},
		{"no kind", add(rtnl.LinkSpec{}), `rtnl: add link: invalid argument (Kind is empty)`},
		{"kind", add(rtnl.LinkSpec{Kind: "nosuch"}), `rtnl: add nosuch link: operation not supported (Unknown device type)`},
		{"name twice", add(rtnl.LinkSpec{Kind: "bridge", Name: "vde0"}), `rtnl: add bridge link vde0: file exists`},
		{"name of 16", add(rtnl.LinkSpec{Kind: "bridge", Name: "abcdefghijklmnop"}), `rtnl: add bridge link abcdefghijklmnop: numerical result out of range (interface name "abcdefghijklmnop" is longer than 15 bytes)`},
		{"no socket", control, `stack: what was to be moved into the stack is no socket: getsockopt: socket operation on non-socket`},
	})
}

func TestClosedErrors(t *testing.T) {
	s := open(t, "mem://"+t.Name(), "10.0.0.1/24")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	hook := net.Dialer{Control: s.Control}
	mistakes(t, "\x00", []mistake{
		{"Dial", func() error { _, err := s.Dial("tcp", "10.0.0.2:80"); return err }, `dial tcp: use of closed network connection`},
		{"Listen", func() error { _, err := s.Listen("tcp", ":0"); return err }, `listen tcp: use of closed network connection`},
		{"ListenPacket", func() error { _, err := s.ListenPacket("udp", ":0"); return err }, `listen udp: use of closed network connection`},
		{"ListenPacket, IP", func() error { _, err := s.ListenPacket("ip4:icmp", "10.0.0.1"); return err }, `listen ip4:icmp: stack: stack is closed: use of closed network connection`},
		{"ListenMulticastUDP", func() error {
			_, err := s.ListenMulticastUDP("udp", "", netip.MustParseAddrPort("224.0.0.9:80"))
			return err
		}, `listen udp 224.0.0.9:80: listen udp4: use of closed network connection`},
		{"Control", func() error { _, err := hook.Dial("tcp", "127.0.0.1:1"); return err }, `dial tcp 127.0.0.1:1: stack: stack is closed: use of closed network connection`},
		{"Socket", func() error { _, err := s.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); return err }, `stack: stack is closed: use of closed network connection`},
		{"LookupNetIP", func() error { _, err := s.LookupNetIP(t.Context(), "ip", "nosuch.invalid"); return err }, `lookup nosuch.invalid: the stack has no DNS servers (set Config.DNS)`},
		{"RTNL", func() error { _, err := s.RTNL(); return err }, `rtnl: dial: stack: stack is closed: use of closed network connection`},
		{"NetNS", func() error { _, err := s.NetNS(); return err }, `stack: stack is closed: use of closed network connection`},
		{"Sysctl", func() error { return s.Sysctl("net.ipv4.ip_forward", "1") }, `stack: stack is closed: use of closed network connection`},
		{"Command", func() error { return s.Command(t.Context(), "true").Run() }, `stack: stack is closed: use of closed network connection`},
		{"Run", func() error { return s.Run(t.Context(), "true") }, `command ["true"]: stack: stack is closed: use of closed network connection`},
	})
}
