package vdestack

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/vdeplug"
)

// TestPlugErrors gets each option of each plug wrong.
func TestPlugErrors(t *testing.T) {
	var table []mistake
	for _, p := range []struct{ name, vnl, want string }{
		{"no port", "vde://sw[port=]", `vde option "port=": must be a number from 0 to 16777215`},
		{"negative port", "vde://sw[port=-1]", `vde option "port=-1": must be a number from 0 to 16777215`},
		{"two ports", "vde://sw[port=1/port=2]", `vde option "port=2": already set by "port=1"`},
		{"two kinds of port", "vde://sw[3/port=4]", `vde option "port=4": the port is set already`},
		{"port group with a slash", "vde://sw[portgroup=a%2fb]", `vde option "portgroup=a/b": must be the number of a port or the name of a group of ports`},
		{"no group", "vde://sw[group=]", `vde option "group=": needs a value`},
		{"unknown group", "vde://sw[group=no-such-group]", `option "group=no-such-group": must be a gid or a group of users: group: unknown group no-such-group`},
		{"mode", "vde://sw[mode=8]", `vde option "mode=8": must be an octal number from 0 to 777`},
		{"no name of an option", "vde://sw[=5]", `byte 9, at "=5]": no name before "="`},
		{"text after bracket", "vde://sw[1]x", `byte 11, at "x": text after "]"`},
		{"text after brace", "vde://sw{y}x", `byte 11, at "x": text after "}"`},
		{"inner network", "vde://sw{vde://}", `vde: {vde://}: it has no inner network (write a brace of a path as \{)`},
		{"encoded zero", "vde://sw%00", `byte 8, at "%00": NUL has no place in a locator`},
		{"backslash", "vde://sw\\", `byte 8, at "\\": nothing after this backslash`},
		{"vxvde, inner network", "vxvde://{x}", `vxvde: {x}: it has no inner network (write a brace of a path as \{)`},
		{"vxvde, option", "vxvde:///nosuch=1", `vxvde option "nosuch=1": unknown (have bind, expiretime, grp, hashsize, if, port, rcvbuf, ttl, v4, v6, vni)`},
		{"vxvde, option twice", "vxvde:///ttl=1/ttl=2", `vxvde option "ttl=2": already set by "ttl=1"`},
		{"vxvde, port 0", "vxvde:///port=0", `vxvde option "port=0": must be a port from 1 to 65535 or the name of a UDP service`},
		{"vxvde, service", "vxvde:///port=no-such", `vxvde option "port=no-such": must be a port from 1 to 65535 or the name of a UDP service`},
		{"vxvde, VNI", "vxvde:///vni=16777216", `vxvde option "vni=16777216": 16777216 does not fit in 24 bits (at most 16777215)`},
		{"vxvde, VNI of a group", "vxvde:///vni=no-such", `vxvde option "vni=no-such": must be a gid or a group of users: group: unknown group no-such`},
		{"vxvde, group of users", "vxvde:///grp=no-such", `vxvde option "grp=no-such": must be a gid or a group of users: group: unknown group no-such`},
		{"vxvde, no TTL", "vxvde:///ttl=", `vxvde option "ttl=": must be a number from 1 to 255`},
		{"vxvde, TTL", "vxvde:///ttl=0", `vxvde option "ttl=0": must be a number from 1 to 255`},
		{"vxvde, flag with a value", "vxvde:///v4=1", `vxvde option "v4=1": takes no value`},
		{"vxvde, v4", "vxvde://ff05::1/v4", `group "ff05::1": ff05::1 is not of the family that option "v4" says`},
		{"vxvde, v6", "vxvde://239.0.0.1/v6", `group "239.0.0.1": 239.0.0.1 is not of the family that option "v6" says`},
		{"vxvde, no interface", "vxvde:///if=", `vxvde option "if=": needs a value`},
		{"vxvde, unknown interface", "vxvde:///if=nosuch9", `option "if=nosuch9": no such interface here: no such device`},
		{"vxvde, interface of 16", "vxvde:///if=abcdefghijklmnop", `option "if=abcdefghijklmnop": a name of an interface has at most 15 bytes`},
		{"vxvde, two interfaces", "vxvde://ff02::1%a/if=b", `group ff02::1%a is on another interface than the option "if=b" or the group says`},
		{"vxvde, link-local", "vxvde://ff02::1", `group "ff02::1" is a different one on each interface: say which with if=NAME`},
		{"vxvde, name", "vxvde://a..b", `group "a..b": lookup a..b: no such host`},
		{"vxvde, bind", "vxvde:///bind=x", `vxvde option "bind=x": must be an IP address of this host`},
		{"vxvde, bind elsewhere", "vxvde:///bind=192.0.2.1", `option "bind=192.0.2.1": not an address of this host: bind: cannot assign requested address`},
		{"vxvde, bind of the other family", "vxvde:///bind=::1", `option "bind=::1" and the group 239.0.0.1 are of different families`},
		{"vxvde, no buffer", "vxvde:///rcvbuf=0", `vxvde option "rcvbuf=0": must be a number of bytes from 1 to 2147483647, as 65536, 64k or 2M`},
		{"vxvde, buffer", "vxvde:///rcvbuf=3G", `vxvde option "rcvbuf=3G": must be a number of bytes from 1 to 2147483647, as 65536, 64k or 2M`},
		{"vxvde, table", "vxvde:///hashsize=-1", `vxvde option "hashsize=-1": must be a number from 0 to 1048576`},
		{"vxvde, expiry", "vxvde:///expiretime=0", `vxvde option "expiretime=0": must be a number from 1 to 2147483647`},
		{"ptp, no path", "ptp://", `no path given`},
		{"udp, no arrow", "udp://", `no "->" in the address (it is [saddr:]sport->daddr:dport)`},
		{"udp, no destination", "udp://->", `destination "" has no address or no port (it is daddr:dport)`},
		{"udp, no address", "udp://1->:5", `destination ":5" has no address or no port (it is daddr:dport)`},
		{"udp, no port", "udp://1->host", `destination "host" has no address or no port (it is daddr:dport)`},
		{"udp, port 0", "udp://1->127.0.0.1:0", `destination port "0": nothing can be sent there`},
		{"udp, negative port", "udp://1->127.0.0.1:-1", `destination port "-1": address -1: invalid port`},
		{"udp, service", "udp://5->127.0.0.1:no-such", `destination port "no-such": lookup udp/no-such: unknown port`},
		{"udp, source service", "udp://no-such->127.0.0.1:5", `source port "no-such": lookup udp/no-such: unknown port`},
		{"udp, name", "udp://5->a..b:6", `destination "a..b": lookup a..b: no such host`},
		{"udp, source name", "udp://a..b:5->127.0.0.1:6", `source "a..b": lookup a..b: no such host`},
		{"udp, families", "udp://[::1]:5->127.0.0.1:6", `source "::1" and destination "127.0.0.1": one is IPv4, the other IPv6`},
		{"udp, source elsewhere", "udp://192.0.2.1:5555->127.0.0.1:6", `source 192.0.2.1:5555 is not an address of this host: bind: cannot assign requested address`},
		{"udp, zone", "udp://5555->[fe80::1%nosuch]:6", `zone "nosuch" of fe80::1%nosuch: route ip+net: no such network interface`},
		{"tap, dot", "tap://.", `interface ".": not a name`},
		{"tap, blank", "tap://a b", `interface "a b": byte ' ' has no place in a name`},
		{"tap, pattern", "tap://vde%d", `interface "vde%d": byte '%' has no place in a name`},
		{"cmd, blank", "cmd:// ", `no command given`},
		{"cmd, semicolon", "cmd://;", `no command given`},
		{"cmd, directory", "cmd:///", `exec: "/": is a directory`},
		{"case of the scheme", "MEM://x", `unknown scheme "MEM" (have ` + strings.Join(vdeplug.Schemes(), ", ") + `): unsupported operation`},
		{"blank in the scheme", "a b://x", `"a b" before "://" is no scheme (a path with "://" in it is written vde://PATH)`},
	} {
		table = append(table, mistake{p.name, opening(p.vnl), fmt.Sprintf("stack: interface vde0: vdeplug: open %q: %s", p.vnl, p.want)})
	}
	table = append(table, mistake{"lan as a plug", func() error { _, err := vdeplug.Open("lan://x", nil); return err }, `vdeplug: open "lan://x": "lan://x" joins the interfaces of stacks, and has no plugs (mem:// and lan:///PATH have): unsupported operation`})
	mistakes(t, "\x00", table)
}

// TestPlugFileErrors meets files, sockets and programs that are not what the
// locator says.
func TestPlugFileErrors(t *testing.T) {
	dir := testenv.ShortDir(t)
	for name, text := range map[string]string{
		"file": "hello\n", "long.vnl": strings.Repeat("x", 1<<17), "other.vnl": dir + "/file\n", "bad.vnl": "foo://x\n", "full/ctl": "",
	} {
		path := filepath.Join(dir, name)
		os.Mkdir(filepath.Dir(path), 0o700)
		testenv.Check(t, os.WriteFile(path, []byte(text), 0o600))
	}
	testenv.Check(t, os.Mkdir(filepath.Join(dir, "sw"), 0o700))
	testenv.Opened(net.Listen("unix", filepath.Join(dir, "sw/ctl")))(t)
	for range 2 {
		testenv.Opened(vdeplug.Open("ptp://"+dir+"/taken", nil))(t)
	}
	port := testenv.Opened(net.ListenPacket("udp", "127.0.0.1:0"))(t)
	local := port.LocalAddr().String()
	long := strings.Repeat("x", 120)
	testenv.Check(t, os.Mkdir(filepath.Join(dir, long), 0o700))
	home := filepath.Join(dir, "home", ".vdeplug")
	testenv.Check(t, os.MkdirAll(home, 0o700))
	testenv.Check(t, os.WriteFile(filepath.Join(home, "default"), []byte("foo://x\n"), 0o600))
	t.Setenv("HOME", filepath.Dir(home))
	schemes := strings.Join(vdeplug.Schemes(), ", ")
	const groups = `(few switches have port groups; the options are port=N, portgroup=NAME, group=NAME and mode=OCTAL): connect: no such file or directory`
	var table []mistake
	for _, p := range []struct{ name, vnl, want string }{
		{"port group", "vde://DIR/sw[portgroup=x]", `no port group "x": there is no socket DIR/sw/x ` + groups},
		{"mistyped option", "vde://DIR/sw[x]", `no port group "x": there is no socket DIR/sw/x ` + groups},
		{"no socket", "vde://DIR/full", `no switch there: stale socket DIR/full/ctl, the switch that made it is gone: connect: connection refused`},
		{"long path", "vde://DIR/" + long, `the path DIR/` + long + `/ctl has … bytes, a socket address has room for 107: use a shorter one (a link does not help): file name too long`},
		{"long line", "DIR/long.vnl", `file DIR/long.vnl: the first line is longer than 65536 bytes, no locator`},
		{"file of a file", "DIR/other.vnl", `file DIR/other.vnl: it names another file, "DIR/file" (the first line must be the locator itself)`},
		{"file of a wrong locator", "DIR/bad.vnl", `file DIR/bad.vnl says "foo://x": unknown scheme "foo" (have ` + schemes + `): unsupported operation`},
		{"ptp, long path", "ptp://DIR/" + long, `path "DIR/` + long + `" has … bytes, a socket's path at most 106`},
		{"ptp, file", "ptp://DIR/file", `DIR/file exists and is not a socket`},
		{"ptp, socket", "ptp://DIR/sw/ctl", `DIR/sw/ctl is a socket of another kind (later versions of vdeplug make it, see the option seqpacket): protocol wrong type for socket`},
		{"ptp, both ends", "ptp://DIR/taken", `DIR/taken already has two ends: address already in use`},
		{"udp, port in use", "udp://" + local + "->127.0.0.1:9", `source ` + local + ` is used by another program: bind: address already in use`},
		{"cmd, file", "cmd://DIR/file", `fork/exec DIR/file: permission denied (it must be a file that this user may execute, chmod +x)`},
		{"cmd, no file", "cmd://DIR/nosuch", `fork/exec DIR/nosuch: no such file or directory`},
	} {
		vnl := strings.ReplaceAll(p.vnl, "DIR", dir)
		table = append(table, mistake{p.name, opening(vnl), fmt.Sprintf("stack: interface vde0: vdeplug: open %q: %s", p.vnl, p.want)})
	}
	table = append(table, mistake{"default network", func() error { _, err := vdeplug.Open("", nil); return err },
		`vdeplug: open "": file DIR/home/.vdeplug/default says "foo://x": unknown scheme "foo" (have ` + schemes + `): unsupported operation`})
	mistakes(t, dir, table)
}
