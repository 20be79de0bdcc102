package vdestack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vdeproto/vdetest"
	"github.com/vdestack/vdestack/vdeplug"
)

// A mistake is one way to be wrong, and the whole text of the error. DIR stands
// for the directory of the test, soon for a time below a second, and … for words
// of the kernel or the system's library, which are not the same everywhere.
type mistake struct {
	name string
	make func() error
	want string
}

// newText is what Linux 6.1 does not say yet: its errors end before it.
const newText = ` (ipv4: Address already assigned)`

var soon = regexp.MustCompile(`within (\d+m|0)s`)

// mistakes makes each mistake of a table. None may panic, hang or leave
// anything behind.
func mistakes(t *testing.T, dir string, table []mistake) {
	t.Helper()
	netnstest.NoLeaks(t)
	before := runtime.NumGoroutine()
	for _, m := range table {
		t.Run(m.name, func(t *testing.T) {
			made := make(chan error, 1)
			go func() {
				defer func() {
					if r := recover(); r != nil {
						made <- fmt.Errorf("panic: %v\n%s", r, debug.Stack())
					}
				}()
				made <- m.make()
			}()
			select {
			case err := <-made:
				if err == nil {
					t.Fatalf("no error, want %q", m.want)
				}
				got := soon.ReplaceAllString(strings.ReplaceAll(err.Error(), dir, "DIR"), "soon")
				if !matches(got, m.want) && got != strings.TrimSuffix(m.want, newText) {
					t.Errorf("got\n\t%s\nwant\n\t%s", got, m.want)
				}
				for text, is := range map[string]error{"stack is closed": net.ErrClosed, "there is no stack": ErrNoStack} {
					// Resolvers of package net have the text only.
					if strings.Contains(got, text) && !errors.Is(err, is) && m.name != "Resolver" {
						t.Errorf("%s is not %q", got, is)
					}
				}
			case <-time.After(20 * time.Second):
				t.Fatal("hangs")
			}
		})
	}
	testenv.Eventually(t, "no client that leaves a switch", func() bool {
		return !strings.Contains(stacksOfAll(), "vdeproto.handshakeLock.leave")
	})
	netnstest.NoGoroutines(t, before)
}

// stacksOfAll returns the stacks of all goroutines.
func stacksOfAll() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

// matches compares texts; … in want stands for any.
func matches(got, want string) bool {
	pattern := strings.ReplaceAll(regexp.QuoteMeta(want), "…", ".+")
	return regexp.MustCompile("(?s)^" + pattern + "$").MatchString(got)
}

// opening and making return the errors of Open and New.
func opening(vnl string, prefixes ...string) func() error {
	return func() error { return testenv.Closing(Open(vnl, prefixes...)) }
}

func making(ctx context.Context, cfg Config) func() error {
	return func() error { return testenv.Closing(New(ctx, cfg)) }
}

func TestLocatorErrors(t *testing.T) {
	dir := testenv.ShortDir(t)
	file := filepath.Join(dir, "file")
	testenv.Check(t, os.WriteFile(file, []byte("\n"), 0o600))
	mistakes(t, dir, []mistake{
		{"unknown scheme", opening("foo://x"), `stack: interface vde0: vdeplug: open "foo://x": unknown scheme "foo" (have ` + strings.Join(vdeplug.Schemes(), ", ") + `): unsupported operation`},
		{"no scheme", opening("://x"), `stack: interface vde0: vdeplug: open "://x": "" before "://" is no scheme (a path with "://" in it is written vde://PATH)`},
		{"zero byte", opening("mem://a\x00b"), `stack: interface vde0: vdeplug: open "mem://a\x00b": NUL at byte 7`},
		{"quote", opening("vde://'abc"), `stack: interface vde0: vdeplug: open "vde://'abc": byte 6, at "'abc": this quote does not end`},
		{"brace", opening("vde://abc{def"), `stack: interface vde0: vdeplug: open "vde://abc{def": byte 9, at "{def": no "}" after this "{"`},
		{"bracket", opening("vde://abc[1"), `stack: interface vde0: vdeplug: open "vde://abc[1": byte 9, at "[1": no "]" after this "["`},
		{"option", opening("vde:///tmp/x[foo=1]"), `stack: interface vde0: vdeplug: open "vde:///tmp/x[foo=1]": vde option "foo=1": unknown (have group, mode, port, portgroup)`},
		{"missing switch", opening("vde:///nonexistent/switch"), `stack: interface vde0: vdeplug: open "vde:///nonexistent/switch": no switch there: /nonexistent/switch/ctl does not exist: lstat /nonexistent: no such file or directory`},
		{"missing switch, path", opening("/nonexistent/switch"), `stack: interface vde0: vdeplug: open "/nonexistent/switch": no switch there: /nonexistent/switch/ctl does not exist: lstat /nonexistent: no such file or directory`},
		{"other directory", opening("vde://" + dir), `stack: interface vde0: vdeplug: open "vde://DIR": no switch there: DIR/ctl does not exist: stat DIR/ctl: no such file or directory`},
		{"file", opening("vde://" + file), `stack: interface vde0: vdeplug: open "vde://DIR/file": DIR/file is not the directory of a switch: stat DIR/file/ctl: not a directory`},
		{"empty file", opening(file), `stack: interface vde0: vdeplug: open "DIR/file": file DIR/file: the first line is empty; it must be a locator`},
		{"udp", opening("udp://x"), `stack: interface vde0: vdeplug: open "udp://x": no "->" in the address (it is [saddr:]sport->daddr:dport)`},
		{"udp port", opening("udp://1->127.0.0.1:999999"), `stack: interface vde0: vdeplug: open "udp://1->127.0.0.1:999999": destination port "999999": address 999999: invalid port`},
		{"vxvde group", opening("vxvde://10.0.0.1"), `stack: interface vde0: vdeplug: open "vxvde://10.0.0.1": group "10.0.0.1": 10.0.0.1 is no multicast address (224.0.0.0 to 239.255.255.255, or ff00::/8)`},
		{"ptp", opening("ptp:///nonexistent/ptp"), `stack: interface vde0: vdeplug: open "ptp:///nonexistent/ptp": /nonexistent/ptp: bind: no such file or directory`},
		{"command", opening("cmd://nosuchcommand arg"), `stack: interface vde0: vdeplug: open "cmd://nosuchcommand …": exec: "nosuchcommand": executable file not found in $PATH`},
		{"two commands", opening("=a;b"), `stack: interface vde0: vdeplug: open "=a …": 2 commands given, want one (with quotes: sh -c '…; …')`},
		{"command's quote", opening("cmd://'a b"), `stack: interface vde0: vdeplug: open "cmd://…": command line: byte 0, at "'a b": this quote does not end`},
		{"tap", opening("tap://a/b"), `stack: interface vde0: vdeplug: open "tap://a/b": interface "a/b": byte '/' has no place in a name`},
		{"long tap", opening("tap://abcdefghijklmnop"), `stack: interface vde0: vdeplug: open "tap://abcdefghijklmnop": interface "abcdefghijklmnop": a name has at most 15 bytes`},
	})
}

// TestSwitchErrors meets switches that are there, and do not take the plug.
func TestSwitchErrors(t *testing.T) {
	testenv.Long(t)
	dir := testenv.ShortDir(t)
	listen := func(name string) net.Listener {
		os.Mkdir(filepath.Join(dir, name), 0o700)
		return testenv.Opened(net.Listen("unix", filepath.Join(dir, name, "ctl")))(t)
	}
	listen("silent")
	stale := listen("stale")
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	stale.Close()
	locked := filepath.Join(dir, "locked")
	testenv.Check(t, os.Mkdir(locked, 0))
	on := func(vnl string) func() error {
		return func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
			defer cancel()
			return testenv.Closing(New(ctx, Config{Name: "lab", Interfaces: []Interface{{VNL: vnl}}}))
		}
	}
	table := []mistake{
		{"stale", opening(dir + "/stale"), `stack: interface vde0: vdeplug: open "DIR/stale": no switch there: stale socket DIR/stale/ctl, the switch that made it is gone: connect: connection refused`},
		{"silent", opening(dir + "/silent"), `stack: interface vde0: vdeplug: open "DIR/silent": the switch did not answer within 3s: it may be full, or its ports may belong to other users: i/o timeout`},
		{"silent, deadline", on(dir + "/silent"), `lab: interface vde0: vdeplug: open "DIR/silent": the switch did not answer soon: it may be full, or its ports may belong to other users: context deadline exceeded`},
		{"silent port", on(dir + "/silent[7]"), `lab: interface vde0: vdeplug: open "DIR/silent[7]": the switch did not answer soon: it may be full, or port 7 may not exist or belong to another user: context deadline exceeded`},
	}
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		table = append(table, mistake{"no permission", opening(locked), fmt.Sprintf(`stack: interface vde0: vdeplug: open "DIR/locked": no permission: DIR/locked has mode 0000 and owner %d:%d, this is user %d group %d (see the options -m, -g and --dirmode of vde_switch): stat DIR/locked/ctl: permission denied`, uid, gid, uid, gid)})
	}
	mistakes(t, dir, table)

	t.Run("full", func(t *testing.T) {
		full := filepath.Join(dir, "full")
		var s *Stack
		vdetest.Start(t, full, vdetest.Classic(t, full, "-n", "2"), func() (err error) {
			s, err = Open(full)
			return err
		})
		defer s.Close()
		mistakes(t, dir, []mistake{
			{"switch", on(dir + "/full"), `lab: interface vde0: vdeplug: open "DIR/full": the switch did not answer soon: it may be full, or its ports may belong to other users: context deadline exceeded`},
		})
	})
}

func TestConfigErrors(t *testing.T) {
	with := func(i Interface) func() error {
		i.VNL = "mem://" + t.Name()
		return making(t.Context(), Config{Name: "lab", Interfaces: []Interface{i}})
	}
	two := func(a, b Interface) func() error {
		a.VNL, b.VNL = "mem://"+t.Name(), "mem://"+t.Name()
		return making(t.Context(), Config{Name: "lab", Interfaces: []Interface{a, b}})
	}
	named := func(names ...string) func() error {
		cfg := Config{Name: "lab"}
		for _, n := range names {
			cfg.Interfaces = append(cfg.Interfaces, Interface{Name: n})
		}
		return making(t.Context(), cfg)
	}
	mac := func(b ...byte) func() error { return with(Interface{MAC: b}) }
	addr := func(p ...netip.Prefix) func() error { return with(Interface{Addrs: p}) }
	gateway := func(a ...netip.Addr) func() error {
		return with(Interface{Addrs: testenv.Prefixes("10.0.0.1/24", "fc00::1/64"), Gateways: a})
	}
	dns := func(d DNS) func() error { return making(t.Context(), Config{DNS: d}) }
	joining := func(path string) func() error { return making(t.Context(), Config{NetNS: path}) }
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	mistakes(t, "\x00", []mistake{
		{"address without network", opening("", "10.0.0.1/24"), `stack: address "10.0.0.1/24" has no interface: the network is empty`},
		{"no length", opening("mem://x", "10.0.0.1"), `stack: address "10.0.0.1" is not ADDRESS/LENGTH, such as 10.0.0.50/24 or fc00::1:50/64`},
		{"no address", opening("mem://x", "fred/24"), `stack: address "fred/24" is not ADDRESS/LENGTH, such as 10.0.0.50/24 or fc00::1:50/64`},
		{"empty address", opening("mem://x", ""), `stack: address "" is not ADDRESS/LENGTH, such as 10.0.0.50/24 or fc00::1:50/64`},
		{"length", opening("mem://x", "10.0.0.1/33"), `stack: address "10.0.0.1/33" is not ADDRESS/LENGTH, such as 10.0.0.50/24 or fc00::1:50/64`},
		{"address with zone", opening("mem://x", "fe80::1%vde0/64"), `stack: address "fe80::1%vde0/64" is not ADDRESS/LENGTH, such as 10.0.0.50/24 or fc00::1:50/64`},
		{"mapped address", opening("mem://x", "::ffff:10.0.0.1/120"), `stack: interface vde0: address ::ffff:10.0.0.1/120 is IPv4 written as IPv6: write it as 10.0.0.1`},
		{"unspecified address", opening("mem://x", "0.0.0.0/0"), `stack: interface vde0: address 0.0.0.0/0 cannot be that of an interface: it is not of a single host`},
		{"multicast address", opening("mem://x", "ff02::1/64"), `stack: interface vde0: address ff02::1/64 cannot be that of an interface: it is not of a single host`},
		{"address twice", opening("mem://x", "10.0.0.1/24", "10.0.0.1/24"), `stack: interface vde0: address 10.0.0.1/24 is given twice`},
		{"network's address", opening("mem://x", "10.0.0.0/24"), `stack: interface vde0: address 10.0.0.0/24 is that of the network, not of a host in it: the first host has 10.0.0.1/24`},
		{"network's address, /30", opening("mem://x", "10.0.0.4/30"), `stack: interface vde0: address 10.0.0.4/30 is that of the network, not of a host in it: the first host has 10.0.0.5/30`},
		{"network's broadcast address", opening("mem://x", "10.0.255.255/16"), `stack: interface vde0: address 10.0.255.255/16 is for broadcasts in the network, not of a host in it: the last host has 10.0.255.254/16`},
		{"routers' address", opening("mem://x", "fc00::1:0/112"), `stack: interface vde0: address fc00::1:0/112 is that of all routers of the network (RFC 4291, section 2.6.1), not of a host in it: the first host has fc00::1:1/112`},
		{"broadcast address", opening("mem://x", "255.255.255.255/32"), `stack: interface vde0: address 255.255.255.255/32 cannot be that of an interface: it is not of a single host`},
		{"loopback address", opening("mem://x", "::1/128"), `stack: interface vde0: address ::1/128 belongs to loopback, which has it`},
		{"address in two networks", opening("mem://x", "fc00::1/64", "fc00::1/48"), `stack: interface vde0: addresses fc00::1/64 and fc00::1/48: IPv6 has an address once on an interface`},
		{"zero prefix", addr(netip.Prefix{}), `lab: interface vde0: an address is the zero Prefix: write ADDRESS/LENGTH, such as 10.0.0.50/24`},
		{"invalid prefix", addr(netip.PrefixFrom(netip.MustParseAddr("10.0.0.1"), 33)), `lab: interface vde0: address 10.0.0.1 has no length from 0 to 32: write ADDRESS/LENGTH, such as 10.0.0.50/24`},

		{"name of 16", named("abcdefghijklmnop"), `lab: interface "abcdefghijklmnop": name "abcdefghijklmnop" has 16 bytes, at most 15 are allowed`},
		{"slash", named("a/b"), `lab: interface "a/b": name "a/b" must be text without blanks, / : and %, and not . or .. alone`},
		{"blank", named("a b"), `lab: interface "a b": name "a b" must be text without blanks, / : and %, and not . or .. alone`},
		{"colon", named("a:b"), `lab: interface "a:b": name "a:b" must be text without blanks, / : and %, and not . or .. alone`},
		{"per cent", named("a%d"), `lab: interface "a%d": name "a%d" must be text without blanks, / : and %, and not . or .. alone`},
		{"zero byte", named("a\x00b"), `lab: interface "a\x00b": name "a\x00b" must be text without blanks, / : and %, and not . or .. alone`},
		{"no text", named("\xff\xfe"), `lab: interface "\xff\xfe": name "\xff\xfe" must be text without blanks, / : and %, and not . or .. alone`},
		{"dot", named("."), `lab: interface ".": name "." must be text without blanks, / : and %, and not . or .. alone`},
		{"dots", named(".."), `lab: interface "..": name ".." must be text without blanks, / : and %, and not . or .. alone`},
		{"loopback", named("lo"), `lab: interface lo: name "lo" belongs to loopback`},
		{"all", named("all"), `lab: interface "all": name "all" means all interfaces to the kernel (net.ipv4.conf.all): take another`},
		{"default", named("default"), `lab: interface "default": name "default" means all interfaces to the kernel (net.ipv4.conf.default): take another`},
		{"name twice", named("a", "b", "a"), `lab: interface a: name "a" is that of another interface too`},
		{"default name twice", named("vde1", ""), `lab: interface vde1: name "vde1" is that of another interface too`},

		{"MTU too large", with(Interface{MTU: 9217}), `lab: interface vde0: MTU 9217 is not within 68 and 9216`},
		{"MTU too small", with(Interface{MTU: 67}), `lab: interface vde0: MTU 67 is not within 68 and 9216`},
		{"negative MTU", with(Interface{MTU: -1}), `lab: interface vde0: MTU -1 is not within 68 and 9216`},
		{"MTU of IPv6", with(Interface{MTU: 1279, Addrs: testenv.Prefixes("fc00::1/64")}), `lab: interface vde0: address fc00::1/64: IPv6 needs an MTU of 1280, this one is 1279`},
		{"empty MAC", with(Interface{MAC: net.HardwareAddr{}}), `lab: interface vde0: MAC "" has 0 bytes, an Ethernet address has 6`},
		{"MAC of 2", mac(2, 3), `lab: interface vde0: MAC "02:03" has 2 bytes, an Ethernet address has 6`},
		{"MAC of 8", mac(2, 3, 4, 5, 6, 7, 8, 9), `lab: interface vde0: MAC "02:03:04:05:06:07:08:09" has 8 bytes, an Ethernet address has 6`},
		{"group MAC", mac(1, 2, 3, 4, 5, 6), `lab: interface vde0: MAC "01:02:03:04:05:06" is a group address: the lowest bit of its first byte must be 0`},
		{"zero MAC", mac(0, 0, 0, 0, 0, 0), `lab: interface vde0: MAC "00:00:00:00:00:00" is no address; leave it out for a random one`},

		{"gateway without path", gateway(testenv.Addrs("10.1.0.1")...), `lab: interface vde0: gateway 10.1.0.1 is in no network of the addresses [10.0.0.1/24 fc00::1/64]: rtnl: add route default via 10.1.0.1 on interface 1048576: network is unreachable (Nexthop has invalid gateway)`},
		{"gateway without path, IPv6", gateway(testenv.Addrs("fc01::1")...), `lab: interface vde0: gateway fc01::1 is in no network of the addresses [10.0.0.1/24 fc00::1/64]: rtnl: add route default via fc01::1 on interface 1048576: no route to host (…)`},
		{"gateway without address", with(Interface{Gateways: testenv.Addrs("10.0.0.2")}), `lab: interface vde0: gateway 10.0.0.2 is in no network of the addresses []: rtnl: add route default via 10.0.0.2 on interface 1048576: network is unreachable (Nexthop has invalid gateway)`},
		{"gateway, broadcast", gateway(testenv.Addrs("10.0.0.255")...), `lab: interface vde0: rtnl: add route default via 10.0.0.255 on interface 1048576: invalid argument (…)`},
		{"gateways of two interfaces", two(Interface{Addrs: testenv.Prefixes("10.0.0.1/24"), Gateways: testenv.Addrs("10.0.0.2")}, Interface{Addrs: testenv.Prefixes("10.1.0.1/24"), Gateways: testenv.Addrs("10.1.0.2")}), `lab: interface vde1: gateway 10.1.0.2: interface vde0 has the default route of its family already; add others by RTNL, with a metric`},
		{"gateways of two interfaces, IPv6", two(Interface{Addrs: testenv.Prefixes("fc00::1/64"), Gateways: testenv.Addrs("fc00::2")}, Interface{Addrs: testenv.Prefixes("fc01::1/64"), Gateways: testenv.Addrs("fc01::2")}), `lab: interface vde1: gateway fc01::2: interface vde0 has the default route of its family already; add others by RTNL, with a metric`},
		{"two gateways", gateway(testenv.Addrs("10.0.0.2", "10.0.0.3")...), `lab: interface vde0: gateways 10.0.0.2 and 10.0.0.3: one default route a family`},
		{"zero gateway", gateway(netip.Addr{}), `lab: interface vde0: a gateway is the zero Addr: give the address of a router`},
		{"unspecified gateway", gateway(testenv.Addrs("0.0.0.0")...), `lab: interface vde0: gateway 0.0.0.0 is not the address of a host`},
		{"unspecified gateway with a zone", gateway(testenv.Addrs("::%vde0")...), `lab: interface vde0: gateway ::%vde0 is not the address of a host`},
		{"multicast gateway", gateway(testenv.Addrs("224.0.0.1")...), `lab: interface vde0: gateway 224.0.0.1 is not the address of a host`},
		{"mapped gateway", gateway(testenv.Addrs("::ffff:10.0.0.2")...), `lab: interface vde0: gateway ::ffff:10.0.0.2 is IPv4 written as IPv6: write it as 10.0.0.2`},
		{"own gateway", gateway(testenv.Addrs("10.0.0.1")...), `lab: interface vde0: gateway 10.0.0.1 is the interface's own address`},
		{"own gateway with a zone", gateway(testenv.Addrs("fc00::1%vde0")...), `lab: interface vde0: gateway fc00::1%vde0 is the interface's own address`},
		{"gateway's zone", gateway(testenv.Addrs("fe80::1%eth9")...), `lab: interface vde0: gateway fe80::1%eth9: its zone is another interface, this is vde0`},
		{"gateway, down", with(Interface{Down: true, Gateways: testenv.Addrs("10.0.0.2")}), `lab: interface vde0: gateway 10.0.0.2 needs the interface up`},

		{"zero server", dns(DNS{Servers: []netip.AddrPort{{}}}), `stack: dns: Servers: a server without an address`},
		{"unspecified server", dns(DNS{Servers: []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:53")}}), `stack: dns: Servers: 0.0.0.0 is not the address of a server`},
		{"ndots", dns(DNS{Ndots: -1}), `stack: dns: Ndots: -1 is negative`},
		{"search", dns(DNS{Search: []string{"a..b"}}), `stack: dns: Search: "a..b" is not a domain name`},
		{"host", dns(DNS{Hosts: map[string][]netip.Addr{"a b": nil}}), `stack: dns: Hosts: "a b" is not a host name`},

		{"DNS, name twice", dns(DNS{Hosts: map[string][]netip.Addr{"a": nil, "A.": nil}}), `stack: dns: Hosts: "A." and "a" are the same name`},
		{"DNS, zero address", dns(DNS{Hosts: map[string][]netip.Addr{"a": {{}}}}), `stack: dns: Hosts: "a": an address is the zero value`},
		{"DNS, literal as name", dns(DNS{Hosts: map[string][]netip.Addr{"10.0.0.1": nil}}), `stack: dns: Hosts: "10.0.0.1" is not a host name`},
		{"unspecified server with a zone", dns(DNS{Servers: []netip.AddrPort{netip.MustParseAddrPort("[::%vde0]:53")}}), `stack: dns: Servers: ::%vde0 is not the address of a server`},
		{"unspecified server as IPv6", dns(DNS{Servers: []netip.AddrPort{netip.MustParseAddrPort("[::ffff:0.0.0.0]:53")}}), `stack: dns: Servers: ::ffff:0.0.0.0 is not the address of a server`},
		{"DNS, multicast server", dns(DNS{Servers: []netip.AddrPort{netip.MustParseAddrPort("224.0.0.1:53")}}), `stack: dns: Servers: 224.0.0.1 is not the address of a server`},
		{"DNS, empty domain", dns(DNS{Search: []string{""}}), `stack: dns: Search: "" is not a domain name`},
		{"DNS, long label", dns(DNS{Search: []string{strings.Repeat("a", 64)}}), `stack: dns: Search: "` + strings.Repeat("a", 64) + `" is not a domain name`},

		{"no namespace", joining("/run/netns/nosuch"), `stack: open /run/netns/nosuch: no such file or directory (no such namespace: /run/netns has those of ip netns, /proc/PID/ns/net is that of a process that lives)`},
		{"no descriptor", joining("/proc/self/fd/99"), `stack: open /proc/self/fd/99: no such file or directory (no such namespace: /run/netns has those of ip netns, /proc/PID/ns/net is that of a process that lives)`},
		{"other namespace", joining("/proc/self/ns/mnt"), `stack: joining the namespace /proc/self/ns/mnt: it is no network namespace`},
		{"no file of a namespace", joining("/dev/null"), `stack: joining the namespace /dev/null: it is no network namespace`},
		{"directory for namespace", joining("/"), `stack: joining the namespace /: it is no network namespace`},
		{"cancelled, loopback only", making(cancelled, Config{Name: "lab"}), `lab: context canceled`},
		{"cancelled", making(cancelled, Config{Name: "lab", Interfaces: []Interface{{VNL: "mem://x"}}}), `lab: interface vde0: vdeplug: open "mem://x": context canceled`},
	})
}
