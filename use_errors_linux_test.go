package vdestack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/dns/dnstest"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

func TestSocketErrors(t *testing.T) {
	s := open(t, "mem://"+t.Name(), "10.0.0.1/24", "fc00::1/64")
	lo := open(t, "")
	testenv.Listen(t, s, "tcp", "10.0.0.1:80")
	behind := open(t, "mem://"+t.Name(), "10.0.0.3/24")
	testenv.Check(t, s.Sysctl("net.ipv4.ip_forward", "1"))
	testenv.Check(t, behind.Run(t.Context(), "ip route add default via 10.0.0.1"))
	dial := func(network, address string) func() error {
		return func() error { _, err := s.Dial(network, address); return err }
	}
	from := func(local net.Addr, timeout time.Duration, address string) func() error {
		d := Dialer{Stack: s}
		d.LocalAddr, d.Timeout = local, timeout
		return func() error { _, err := d.Dial("tcp", address); return err }
	}
	lookup := func(network, host string) func() error {
		return func() error { _, err := s.LookupNetIP(t.Context(), network, host); return err }
	}
	asking := func(server string) func() error {
		return func() error {
			s, err := New(t.Context(), Config{
				Interfaces: []Interface{{VNL: "mem://" + t.Name(), Addrs: testenv.Prefixes("10.0.0.2/24")}},
				DNS:        DNS{Servers: []netip.AddrPort{netip.MustParseAddrPort(server)}},
			})
			if err != nil {
				return err
			}
			defer s.Close()
			_, err = s.LookupNetIP(t.Context(), "ip", "a.example")
			return err
		}
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
		{"no route", dial("tcp", "192.0.2.1:80"), `dial tcp 192.0.2.1:80: connect: network is unreachable (no route of the stack leads there: give an interface a gateway, or ip route add)`},
		{"no route, UDP", dial("udp", "192.0.2.1:53"), `dial udp 192.0.2.1:53: connect: network is unreachable (no route of the stack leads there: give an interface a gateway, or ip route add)`},
		{"no route, IP", dial("ip4:icmp", "192.0.2.1"), `dial ip4:icmp: connect: network is unreachable (no route of the stack leads there: give an interface a gateway, or ip route add)`},
		{"no route, IPv6", dial("tcp", "[2001:db8::1]:80"), `dial tcp [2001:db8::1]:80: connect: network is unreachable (no route of the stack leads there: give an interface a gateway, or ip route add)`},
		{"no route of a router", func() error { _, err := behind.Dial("tcp", "192.0.2.1:80"); return err }, `dial tcp 192.0.2.1:80: connect: network is unreachable`},
		{"nobody", from(nil, 10*time.Millisecond, "10.0.0.99:1"), `dial tcp 10.0.0.99:1: i/o timeout`},
		{"no port", func() error {
			s := open(t, "")
			testenv.Check(t, s.Sysctl("net.ipv4.ip_local_port_range", "40000 40000"))
			at := testenv.Listen(t, s, "tcp", "127.0.0.1:80").Addr().String()
			testenv.Dial(t, s, "tcp", at)
			_, err := s.Dial("tcp", at)
			return err
		}, `dial tcp 127.0.0.1:80: connect: cannot assign requested address (each port is in use, or was in the last minute: net.ipv4.tcp_tw_reuse 1 makes that a second, net.ipv4.ip_local_port_range has more)`},
		{"negative port", dial("tcp", "10.0.0.1:-1"), `dial tcp: address -1: invalid port`},
		{"no servers", dial("tcp", "nosuch.invalid:80"), `dial tcp: lookup nosuch.invalid: the stack has no DNS servers (set Config.DNS, or call SetDNS)`},
		{"zone", dial("tcp", "[fe80::1%nosuch]:80"), `dial tcp: address fe80::1%nosuch: zone "nosuch" is no interface of the stack`},
		{"brackets", dial("tcp", "fe80::1:80"), `dial tcp: address fe80::1:80: too many colons in address`},
		{"IP network", dial("ip5:icmp", "10.0.0.1"), `dial ip5:icmp: unknown network ip5:icmp`},
		{"no IP protocol", dial("ip4", "10.0.0.1"), `dial ip4: unknown network ip4`},
		{"IP protocol", dial("ip4:nosuch", "10.0.0.1"), `dial ip4:nosuch: address nosuch: unknown IP protocol: a number from 0 to 255, icmp, igmp, tcp, udp or ipv6-icmp`},
		{"IP family", dial("ip4:icmp", "fc00::1"), `dial ip4:icmp: lookup fc00::1: no suitable address found`},
		{"type of local address", from(&net.UDPAddr{Port: 7}, 0, "10.0.0.1:1"), `dial tcp: address :7: mismatched local address type`},
		{"local address", from(&net.TCPAddr{IP: net.IPv4(10, 9, 9, 9)}, 0, "10.0.0.1:1"), `dial tcp 10.9.9.9:0->10.0.0.1:1: bind: cannot assign requested address`},

		{"no address", dial("tcp", ""), `dial tcp: missing address`},
		{"blank in a name", dial("tcp", "a b:80"), `dial tcp: lookup a b: no such host`},
		{"no address of IPv4", dial("tcp", "10.0.0.256:80"), `dial tcp: lookup 10.0.0.256: no such host`},
		{"no zone", dial("tcp", "[fe80::1]:80"), `dial tcp [fe80::1]:80: connect: invalid argument (a link-local address needs a zone, the name of an interface: fe80::1%vde0)`},
		{"no zone, IP", dial("ip6:icmp", "fe80::1"), `dial ip6:icmp: connect: invalid argument (a link-local address needs a zone, the name of an interface: fe80::1%vde0)`},
		{"index of no interface", dial("tcp", "[fe80::1%99]:80"), `dial tcp [fe80::1%99]:80: connect: network is unreachable`},
		{"group", dial("tcp", "224.0.0.1:5"), `dial tcp 224.0.0.1:5: connect: network is unreachable`},
		{"group, UDP", dial("udp", "239.1.2.3:5"), `dial udp 239.1.2.3:5: connect: network is unreachable (no route says from which interface: ip route add 224.0.0.0/4 dev vde0, or a gateway, or an address of the stack as LocalAddr)`},
		{"group, IP", dial("ip4:udp", "239.1.2.3"), `dial ip4:udp: connect: network is unreachable (no route says from which interface: ip route add 224.0.0.0/4 dev vde0, or a gateway, or an address of the stack as LocalAddr)`},
		{"group of IPv6, loopback only", func() error {
			_, err := open(t, "").Dial("udp", "[ff05::123]:5")
			return err
		}, `dial udp [ff05::123]:5: connect: network is unreachable (no interface is up that has IPv6, and is the zone if there is one)`},
		{"group, from an address", func() error {
			d := Dialer{Stack: s}
			d.LocalAddr = &net.UDPAddr{IP: net.IPv4(10, 0, 0, 1)}
			c, err := d.Dial("udp", "239.1.2.3:5")
			if err == nil {
				c.Close()
				err = errors.New("none")
			}
			return err
		}, "none"},
		{"family, UDP", dial("udp4", "[::1]:5"), `dial udp4: address ::1: no suitable address found`},
		{"long path", dial("unix", strings.Repeat("x", 200)), `dial unix ` + strings.Repeat("x", 200) + `: connect: invalid argument (a socket address has room for 107 bytes, this path has 200)`},
		{"IP protocol, number", dial("ip4:256", "10.0.0.1"), `dial ip4:256: address 256: unknown IP protocol: a number from 0 to 255, icmp, igmp, tcp, udp or ipv6-icmp`},
		{"IP, no host", dial("ip4:icmp", ""), `dial ip4:icmp: lookup : no such host`},
		{"IP, type of local address", func() error {
			d := Dialer{Stack: s}
			d.LocalAddr = &net.TCPAddr{Port: 7}
			_, err := d.Dial("ip4:icmp", "10.0.0.1")
			return err
		}, `dial ip4:icmp :7: address :7: mismatched local address type`},
		{"look up, network", lookup("tcp", "a.example"), `unknown network tcp`},
		{"look up, no host", lookup("ip", ""), `lookup : no such host`},
		{"look up, family", lookup("ip6", "10.0.0.1"), `lookup 10.0.0.1: no suitable address found`},
		{"look up, no servers", lookup("ip", "a.example"), `lookup a.example: the stack has no DNS servers (set Config.DNS, or call SetDNS)`},
		{"look up, zone of the server", asking("[fe80::1%nosuch]:53"), `lookup a.example on [fe80::1%nosuch]:53: dial udp: address fe80::1%nosuch: zone "nosuch" is no interface of the stack`},
		{"look up, no server there", asking("10.0.0.1:53"), `lookup a.example on 10.0.0.1:53: read udp …->10.0.0.1:53: read: connection refused`},

		{"listen, in use", listen("tcp", "10.0.0.1:80"), `listen tcp 10.0.0.1:80: bind: address already in use`},
		{"listen, no port", listen("tcp", "10.0.0.1"), `listen tcp: address 10.0.0.1: missing port in address`},
		{"listen, name", listen("tcp", "nosuch.invalid:80"), `listen tcp: lookup nosuch.invalid: the stack has no DNS servers (set Config.DNS, or call SetDNS)`},
		{"listen, zone", listen("tcp", "[fe80::1%nosuch]:80"), `listen tcp: address fe80::1%nosuch: zone "nosuch" is no interface of the stack`},
		{"listen, no stream", listen("udp", "10.0.0.1:80"), `listen udp 10.0.0.1:80: address 10.0.0.1:80: unexpected address type`},
		{"listen, no zone", listen("tcp", "[fe80::1]:80"), `listen tcp [fe80::1]:80: bind: invalid argument (a link-local address needs a zone, the name of an interface: fe80::1%vde0)`},
		{"listen, IP", listen("ip4:icmp", "10.0.0.1"), `listen ip4:icmp 10.0.0.1: address 10.0.0.1: unexpected address type`},
		{"packets, stream", packet("tcp", "10.0.0.1:80"), `listen tcp 10.0.0.1:80: address 10.0.0.1:80: unexpected address type`},
		{"packets, address", packet("udp", "192.0.2.1:80"), `listen udp 192.0.2.1:80: bind: cannot assign requested address`},
		{"packets, IP address", packet("ip4:icmp", "192.0.2.1"), `listen ip4:icmp: bind: cannot assign requested address`},
		{"packets, IP zone", packet("ip6:icmp", "fe80::1%nosuch"), `listen ip6:icmp: address fe80::1%nosuch: zone "nosuch" is no interface of the stack`},
		{"packets, no IP protocol", packet("ip4", "10.0.0.1"), `listen ip4: unknown network ip4`},
		{"packets, IP family", packet("ip6:icmp", "10.0.0.1"), `listen ip6:icmp: address 10.0.0.1: not an address of this family`},
		{"group", group(s, "udp", "", "10.0.0.1:80"), `listen udp 10.0.0.1:80: address 10.0.0.1:80: not a multicast group`},
		{"group, family", group(s, "udp6", "", "224.0.0.9:80"), `listen udp6 224.0.0.9:80: address 224.0.0.9:80: not a group of this family`},
		{"group, zero", func() error { _, err := s.ListenMulticastUDP("udp", "", netip.AddrPort{}); return err }, `listen udp :0: address invalid AddrPort: not a multicast group`},
		{"group, zone", group(s, "udp", "", "[ff02::1%nosuch]:80"), `listen udp [ff02::1%nosuch]:80: address ff02::1%nosuch: zone "nosuch" is no interface of the stack`},
		{"group, two interfaces", group(s, "udp", "lo", "[ff02::1%vde0]:80"), `listen udp [ff02::1%vde0]:80: address [ff02::1%vde0]:80: its zone is another interface than "lo"`},
		{"group, interface of 16", group(s, "udp", "abcdefghijklmnop", "224.0.0.9:80"), `listen udp 224.0.0.9:80: interface "abcdefghijklmnop" of the stack: rtnl: look up interface "abcdefghijklmnop": numerical result out of range (interface name "abcdefghijklmnop" is longer than 15 bytes)`},
		{"group, network", group(s, "tcp", "", "224.0.0.9:80"), `listen tcp 224.0.0.9:80: unknown network tcp`},
		{"group, interface", group(s, "udp", "eth9", "224.0.0.9:80"), `listen udp 224.0.0.9:80: interface "eth9" of the stack: rtnl: look up interface "eth9": no such device (there is no such interface)`},
		{"group, loopback", group(lo, "udp", "", "224.0.0.9:80"), `listen udp 224.0.0.9:80: stack: no interface is up and capable of multicast`},

		{"domain", socket(12345, unix.SOCK_STREAM, 0), `stack: socket: address family not supported by protocol (the kernel has no sockets of domain 12345, see socket(2))`},
		{"negative domain", socket(-1, unix.SOCK_STREAM, 0), `stack: socket: address family not supported by protocol (the kernel has no sockets of domain -1, see socket(2))`},
		{"type", socket(unix.AF_INET, 99, 0), `stack: socket: invalid argument (there is no type 0x63, or no protocol 0, see socket(2))`},
		{"type of the domain", socket(unix.AF_INET, unix.SOCK_SEQPACKET, 0), `stack: socket: socket type not supported (the kernel has no sockets of type 0x5 in domain 2, see socket(2))`},
		{"negative type", socket(unix.AF_INET, -1, 0), `stack: socket: invalid argument (there is no type -0x1, or no protocol 0, see socket(2))`},
		{"negative protocol", socket(unix.AF_INET, unix.SOCK_STREAM, -1), `stack: socket: invalid argument (there is no type 0x1, or no protocol -1, see socket(2))`},
		{"raw without protocol", socket(unix.AF_INET, unix.SOCK_RAW, 0), `stack: socket: protocol not supported (the kernel has no protocol 0 for type 0x3 in domain 2, see socket(2))`},
		{"protocol", socket(unix.AF_INET, unix.SOCK_STREAM, 99), `stack: socket: protocol not supported (the kernel has no protocol 99 for type 0x1 in domain 2, see socket(2))`},
	})
}

func TestCommandErrors(t *testing.T) {
	dir := testenv.ShortDir(t)
	s := open(t, "")
	for name, mode := range map[string]os.FileMode{"script": 0o700, "file": 0o600} {
		testenv.Check(t, os.WriteFile(filepath.Join(dir, name), []byte("hello"), mode))
	}
	orphan := filepath.Join(dir, "orphan")
	testenv.Check(t, os.WriteFile(orphan, []byte("#!/nonexistent/interpreter\n"), 0o700))
	closed := testenv.Must(os.Open(dir + "/file"))(t)
	closed.Close()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	run := func(name string, arg ...string) func() error {
		return func() error { return s.Command(t.Context(), name, arg...).Run() }
	}
	with := func(f func(c *Cmd) error) func() error {
		return func() error { return f(s.Command(t.Context(), "true")) }
	}
	bind := func(from, to string) func() error {
		return with(func(c *Cmd) error { c.Binds = []Bind{{From: from, To: to}}; return c.Run() })
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
		{"zero byte", run("/bin/echo", "a\x00b"), `stack: argument "a\x00b" has a zero byte`},
		{"long argument", run("/bin/echo", strings.Repeat("x", 1<<20)), `stack: exec /bin/echo: argument list too long (the arguments and the environment are too long, see execve(2))`},
		{"environment", with(func(c *Cmd) error { c.Env = []string{"A=b\x00c"}; return c.Run() }), `stack: environment variable "A=b\x00c" has a zero byte`},
		{"no directory", with(func(c *Cmd) error { c.Dir = "/no/such"; return c.Run() }), `chdir /no/such: no such file or directory`},
		{"file for directory", with(func(c *Cmd) error { c.Dir = dir + "/file"; return c.Run() }), `chdir DIR/file: not a directory`},
		{"zero byte, directory", with(func(c *Cmd) error { c.Dir = "/\x00"; return c.Run() }), `stack: directory "/\x00" has a zero byte`},
		{"zero byte, path", with(func(c *Cmd) error { c.Path = "/\x00"; return c.Run() }), `stack: path "/\x00" has a zero byte`},
		{"no path", with(func(c *Cmd) error { c.Path = ""; return c.Run() }), `stack: Path of the command is empty`},
		{"path below a file", run(dir + "/file/x"), `stack: exec DIR/file/x: not a directory (no such program)`},
		{"bind, nothing there", bind("/nonexistent", dir+"/file"), `stack: starting …/true: mounting /nonexistent over DIR/file: mount: no such file or directory (both must exist: stat /nonexistent: no such file or directory)`},
		{"bind, nowhere", bind(dir+"/file", "/nonexistent"), `stack: starting …/true: mounting DIR/file over /nonexistent: mount: no such file or directory (both must exist: stat /nonexistent: no such file or directory)`},
		{"bind, file and directory", bind(dir+"/file", dir), `stack: starting …/true: mounting DIR/file over DIR: mount: not a directory (both must be directories, or neither)`},
		{"bind, directory and file", bind(dir, dir+"/file"), `stack: starting …/true: mounting DIR over DIR/file: mount: not a directory (both must be directories, or neither)`},
		{"bind, relative", bind("file", dir), `stack: bind of "file" over "DIR": path "file" is not absolute, or has a zero byte`},
		{"bind, empty", bind("", ""), `stack: bind of "" over "": path "" is not absolute, or has a zero byte`},
		{"bind, zero byte", bind("/etc\x00", "/etc"), `stack: bind of "/etc\x00" over "/etc": path "/etc\x00" is not absolute, or has a zero byte`},
		{"closed input", with(func(c *Cmd) error { c.Stdin = closed; return c.Run() }), `stack: the file for descriptor 0 of the command: file already closed`},
		{"closed extra file", with(func(c *Cmd) error { c.ExtraFiles = []*os.File{nil, closed}; return c.Run() }), `stack: the file for descriptor 4 of the command: file already closed`},
		{"output fails", with(func(c *Cmd) error {
			c.Path, c.Args, c.Stdout = "/bin/echo", []string{"echo", "x"}, failingWriter{}
			return c.Run()
		}), `disk full`},
		{"pipe after start", with(func(c *Cmd) error { c.Run(); _, err := c.StdoutPipe(); return err }), `stack: command was started already`},
		{"outputs twice", with(func(c *Cmd) error { c.Stderr = os.Stderr; _, err := c.CombinedOutput(); return err }), `stack: Stdout or Stderr is set already`},
		{"context done", func() error { return s.Command(cancelled, "true").Run() }, `context canceled`},
		{"killed", run("sh", "-c", "kill -9 $$"), `signal: killed`},
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
		{"line, backslash", line("echo a\\"), `command line: byte 6, at "\\": nothing after this backslash`},
		{"line, variable", line("$X"), `command [""]: exec: "": executable file not found in $PATH`},
		{"line, status", line("sh -c 'exit 3'; true"), `command ["sh" "-c" "exit 3"]: exit status 3`},
	})
}

func TestSettingErrors(t *testing.T) {
	s := open(t, "mem://"+t.Name(), "10.0.0.1/24")
	sysctl := func(name, value string) func() error { return func() error { return s.Sysctl(name, value) } }
	control := func() error {
		f, err := os.Open("/dev/null")
		if err != nil {
			return err
		}
		defer f.Close()
		raw, err := f.SyscallConn()
		return errors.Join(err, s.Control("tcp", "10.0.0.1:1", raw))
	}
	mistakes(t, "\x00", []mistake{
		{"sysctl of the machine", sysctl("kernel.hostname", "x"), `stack: sysctl "kernel.hostname": only settings that begin with net. belong to a stack`},
		{"sysctl, empty part", sysctl("net..ipv4", "x"), `stack: sysctl "net..ipv4" is not the name of a setting`},
		{"sysctl, dots", sysctl("net/../kernel", "x"), `stack: sysctl "net/../kernel" is not the name of a setting`},
		{"sysctl, unknown", sysctl("net.ipv4.nosuch", "x"), `stack: sysctl net.ipv4.nosuch: open /proc/sys/net/ipv4/nosuch: no such file or directory (no such setting in a stack; /proc/sys/net/ipv4 may have what is meant)`},
		{"sysctl, directory", sysctl("net.ipv4", "x"), `stack: sysctl net.ipv4: open /proc/sys/net/ipv4: is a directory (no such setting in a stack; /proc/sys/net may have what is meant)`},
		{"sysctl, value", sysctl("net.ipv4.ip_forward", "maybe"), `stack: sysctl net.ipv4.ip_forward="maybe": invalid argument (the kernel does not take this value)`},
		{"sysctl, long value", sysctl("net.ipv4.ip_forward", strings.Repeat("1", 5000)), `stack: sysctl net.ipv4.ip_forward="` + strings.Repeat("1", 80) + `": invalid argument (the kernel does not take this value)`},
		{"sysctl, value of another", sysctl("net.ipv4.tcp_congestion_control", "nosuch"), `stack: sysctl net.ipv4.tcp_congestion_control="nosuch": no such file or directory (the kernel does not have what the value names)`},
		{"sysctl, no name", sysctl("", "x"), `stack: sysctl "": only settings that begin with net. belong to a stack`},
		{"sysctl, no setting", sysctl("net.", "x"), `stack: sysctl "net." is not the name of a setting`},
		{"sysctl, no text", sysctl("net.ipv4.\x1b[31m", "x"), `stack: sysctl "net.ipv4.\x1b[31m" is not the name of a setting`},
		{"sysctl, no UTF-8", sysctl("net.ipv4.\xff", "x"), `stack: sysctl "net.ipv4.\xff" is not the name of a setting`},
		{"sysctl, interface", sysctl("net/ipv4/conf/eth9/forwarding", "1"), `stack: sysctl net/ipv4/conf/eth9/forwarding: open /proc/sys/net/ipv4/conf/eth9/forwarding: no such file or directory (no such setting in a stack; /proc/sys/net/ipv4/conf/eth9 may have what is meant)`},
		{"sysctl, for reading only", sysctl("net.ipv4.tcp_available_congestion_control", "x"), `stack: sysctl net.ipv4.tcp_available_congestion_control: open /proc/sys/net/ipv4/tcp_available_congestion_control: permission denied (the kernel lets nobody set it in a network namespace, or it is for reading only)`},

		{"nil socket", func() error { return s.Control("tcp", "10.0.0.1:1", nil) }, `stack: Control was called without a socket: invalid argument`},
		{"no socket", control, `stack: what was to be moved into the stack is no socket: getsockopt: socket operation on non-socket`},
	})
}

// unusable calls every method of a stack that cannot be used, for a reason. target is an
// address where somebody listens on the host, which must not be reached.
func unusable(t *testing.T, s *Stack, target, reason string) []mistake {
	hook := net.Dialer{Control: s.Control}
	d, lc := Dialer{Stack: s}, ListenConfig{Stack: s}
	dial := func(network, address string) func() error {
		return func() error { return testenv.Closing(s.Dial(network, address)) }
	}
	lookup := func(call string) func() error {
		return func() error { _, err := dnstest.Call(t.Context(), s, call); return err }
	}
	return []mistake{
		{"Dial", dial("tcp", target), `dial tcp: ` + reason},
		{"Dial, IP", dial("ip4:icmp", "10.0.0.2"), `dial ip4:icmp: ` + reason},
		{"Dial, unix", dial("unix", "/nosuch"), `dial unix: ` + reason},
		{"Dial, name", dial("tcp", "nosuch.invalid:80"), `dial tcp: ` + reason},
		{"Dial, zone", dial("tcp", "[fe80::1%vde0]:80"), `dial tcp: ` + reason},
		{"Dialer", func() error { return testenv.Closing(d.Dial("tcp", target)) }, `dial tcp: ` + reason},
		{"Dialer, unix", func() error { return testenv.Closing(d.Dial("unix", target)) }, `dial unix: ` + reason},
		{"DialTCP", func() error {
			return testenv.Closing(d.DialTCP(t.Context(), "tcp", netip.AddrPort{}, netip.MustParseAddrPort(target)))
		}, `dial tcp: ` + reason},
		{"Listen", func() error { return testenv.Closing(s.Listen("tcp", "127.0.0.1:0")) }, `listen tcp: ` + reason},
		{"ListenPacket", func() error { return testenv.Closing(s.ListenPacket("udp", "127.0.0.1:0")) }, `listen udp: ` + reason},
		{"ListenPacket, IP", func() error { return testenv.Closing(s.ListenPacket("ip4:icmp", "127.0.0.1")) }, `listen ip4:icmp: ` + reason},
		{"ListenConfig", func() error { return testenv.Closing(lc.Listen(t.Context(), "tcp", "127.0.0.1:0")) }, `listen tcp: ` + reason},
		{"ListenConfig, packets", func() error { return testenv.Closing(lc.ListenPacket(t.Context(), "udp", "127.0.0.1:0")) }, `listen udp: ` + reason},
		{"ListenConfig, IP", func() error { return testenv.Closing(lc.ListenPacket(t.Context(), "ip4:icmp", "127.0.0.1")) }, `listen ip4:icmp: ` + reason},
		{"Control", func() error { return testenv.Closing(hook.Dial("tcp", target)) }, `dial tcp ` + target + `: ` + reason},
		{"HTTPClient", func() error { _, err := s.HTTPClient().Get("http://" + target); return err }, `Get "http://` + target + `": dial tcp: ` + reason},
		{"LookupIP and LookupNetIP", lookup("ip nosuch.invalid"), `lookup nosuch.invalid: ` + reason},
		{"LookupIP and LookupNetIP, literal", lookup("ip 10.0.0.2"), `lookup 10.0.0.2: ` + reason},
		{"LookupIPAddr, localhost", lookup("ipaddr localhost"), `lookup localhost: ` + reason},
		{"LookupHost", lookup("host 10.0.0.2"), `lookup 10.0.0.2: ` + reason},
		{"LookupAddr", lookup("addr 127.0.0.1"), `lookup 127.0.0.1: ` + reason},
		{"LookupCNAME", lookup("cname localhost"), `lookup localhost: ` + reason},
		{"LookupMX", lookup("mx nosuch.invalid"), `lookup nosuch.invalid: ` + reason},
		{"LookupNS", lookup("ns nosuch.invalid"), `lookup nosuch.invalid: ` + reason},
		{"LookupSRV", lookup("srv http tcp nosuch.invalid"), `lookup nosuch.invalid: ` + reason},
		{"LookupTXT", lookup("txt nosuch.invalid"), `lookup nosuch.invalid: ` + reason},
		{"Resolver", func() error { _, err := s.Resolver().LookupTXT(t.Context(), "nosuch.invalid."); return err }, `lookup nosuch.invalid. …` + reason},
		{"Socket", func() error { return testenv.Closing(s.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)) }, reason},
		{"NetNS", func() error { return testenv.Closing(s.NetNS()) }, reason},
		{"Emulator", func() error { _, err := s.Emulator("vde0"); return err }, reason},
		{"Sysctl", func() error { return s.Sysctl("net.ipv4.ip_forward", "1") }, reason},
		{"ReadSysctl", func() error { _, err := s.ReadSysctl("net.ipv4.ip_forward"); return err }, reason},
		{"AddInterface", func() error { return s.AddInterface(t.Context(), Interface{}) }, reason},
		{"RemoveInterface", func() error { return s.RemoveInterface("vde0") }, reason},
		{"SetDNS", func() error { return s.SetDNS(DNS{}) }, reason},
		{"Command", func() error { return s.Command(t.Context(), "true").Run() }, reason},
		{"Run", func() error { return s.Run(t.Context(), "true") }, `command ["true"]: ` + reason},
	}
}

func TestClosedErrors(t *testing.T) {
	s := open(t, "mem://"+t.Name(), "10.0.0.1/24")
	testenv.Check(t, s.Close())
	host := testenv.Opened(net.Listen("tcp", "127.0.0.1:0"))(t)
	const closed = `stack: stack is closed: use of closed network connection`
	mistakes(t, "\x00", append(unusable(t, s, host.Addr().String(), closed),
		mistake{"RTNL", func() error { return testenv.Closing(s.RTNL()) }, `rtnl: dial: ` + closed},
		mistake{"ListenMulticastUDP", func() error {
			return testenv.Closing(s.ListenMulticastUDP("udp", "", netip.MustParseAddrPort("224.0.0.9:80")))
		}, `listen udp 224.0.0.9:80: listen udp4: ` + closed},
	))
}

// TestNoStack calls the methods of a Stack that Open did not make: they must not
// be those of the host.
func TestNoStack(t *testing.T) {
	host := testenv.Opened(net.Listen("tcp", "127.0.0.1:0"))(t)
	const none = `there is no stack, the error of Open or New says why: invalid argument`
	for name, s := range map[string]*Stack{"nil": nil, "zero": {}} {
		t.Run(name, func(t *testing.T) {
			mistakes(t, "\x00", append(unusable(t, s, host.Addr().String(), none),
				mistake{"RTNL", func() error { return testenv.Closing(s.RTNL()) }, none},
				mistake{"ListenMulticastUDP", func() error {
					return testenv.Closing(s.ListenMulticastUDP("udp", "", netip.MustParseAddrPort("224.0.0.9:80")))
				}, `listen udp 224.0.0.9:80: ` + none},
				mistake{"Close", s.Close, none},
			))
		})
		if got := s.Stats(); got.Interfaces != nil {
			t.Errorf("got %+v", got)
		}
	}
}

// TestPing has sockets of ICMP that need no privilege, as ping uses them, and says
// what to do where the stack's setting forbids them.
func TestPing(t *testing.T) {
	s := open(t, "mem://"+t.Name(), "10.0.0.1/24", "fc00::1/64")
	for _, tt := range []struct {
		domain, proto int
		echo          byte
		to            unix.Sockaddr
	}{
		{unix.AF_INET, unix.IPPROTO_ICMP, 8, &unix.SockaddrInet4{Addr: [4]byte{10, 0, 0, 1}}},
		{unix.AF_INET6, unix.IPPROTO_ICMPV6, 128, &unix.SockaddrInet6{Addr: netip.MustParseAddr("fc00::1").As16()}},
	} {
		f := testenv.Socket(t, s, tt.domain, unix.SOCK_DGRAM, tt.proto)
		fd := int(f.Fd())
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10})
		testenv.Check(t, unix.Sendto(fd, []byte{tt.echo, 0, 0, 0, 0, 0, 0, 1, 'x'}, 0, tt.to))
		buf := make([]byte, 100)
		if n, _, err := unix.Recvfrom(fd, buf, 0); err != nil || n != 9 || buf[8] != 'x' {
			t.Errorf("got % x, %v", buf[:max(n, 0)], err)
		}
	}
	// A namespace begins with a range that has no group.
	fresh := s.Command(t.Context(), testenv.Need(t, "unshare", "util-linux"), "-rn", "sh", "-c", "echo; cat")
	stdin := testenv.Must(fresh.StdinPipe())(t)
	stdout := testenv.Must(fresh.StdoutPipe())(t)
	testenv.Check(t, fresh.Start())
	defer fresh.Wait()
	defer stdin.Close()
	testenv.Must(stdout.Read(make([]byte, 1)))(t)
	s = testenv.Must(New(t.Context(), Config{NetNS: fmt.Sprintf("/proc/%d/ns/net", fresh.Process.Pid)}))(t)
	defer s.Close()
	gid := os.Getegid()
	own := fmt.Sprintf("%q is that of this process", fmt.Sprintf("%d %d", gid, gid))
	mistakes(t, "\x00", []mistake{
		{"ICMP", func() error { _, err := s.Socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP); return err },
			`stack: socket: permission denied (domain 2, type 0x2, protocol 1: the setting net.ipv4.ping_group_range of the stack says which groups may: ` + own + `)`},
		{"ICMPv6", func() error {
			_, err := s.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMPV6)
			return err
		}, `stack: socket: permission denied (domain 10, type 0x802, protocol 58: the setting net.ipv4.ping_group_range of the stack says which groups may: ` + own + `)`},
	})
}

// TestString prints a stack.
func TestString(t *testing.T) {
	vnl := "mem://" + t.Name()
	s := made(t, Config{Name: "lab", Interfaces: []Interface{{VNL: vnl}, {}}})
	loopback := open(t, "")
	if got := loopback.Stats().Interfaces; len(got) != 0 {
		t.Errorf("a stack without network has the interfaces %v", got)
	}
	var none *Stack
	for _, tt := range []struct{ got, want string }{
		{s.Name(), "lab"}, {fmt.Sprint(s), "lab (vde0 " + vnl + ", vde1)"},
		{loopback.Name(), "stack"}, {fmt.Sprint(loopback), "stack (loopback only)"},
		{none.Name(), ""}, {none.String(), "no stack"}, {(&Stack{}).String(), "no stack"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
	s.Close()
	if got := s.String(); got != "lab (closed)" {
		t.Errorf("got %q", got)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }
