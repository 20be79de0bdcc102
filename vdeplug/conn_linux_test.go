package vdeplug

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// TestLinuxConn is TestConn for the schemes that only Linux has.
func TestLinuxConn(t *testing.T) {
	testenv.Long(t)
	remotes := writeFile(t, filepath.Join(t.TempDir(), "hosts"), "127.0.0.3\n127.0.0.4:4790\n")
	for _, vnl := range []string{
		"cmd://cat", "cmd://sleep 1000", vxlanTest(2), "vxlan:///if=lo", "vxlan:///v6/if=test0",
		"vxlan:///bind=127.0.0.2/remotes='file:" + remotes + "'",
		vxvdeFamilies[0].vnl, vxvdeFamilies[1].vnl,
	} {
		t.Run(vnl, func(t *testing.T) {
			testConn(t, func(t *testing.T) Conn { return openPlug(t, vnl) })
		})
	}
	t.Run("pcap", func(t *testing.T) {
		wirePCAP(t)
		testConn(t, func(t *testing.T) Conn { return openPlug(t, "pcap://here0") })
	})
	t.Run("tap", func(t *testing.T) {
		needTAP(t)
		testConn(t, func(t *testing.T) Conn {
			c, name := openTAPTest(t, "")
			ip(t, "link set "+name+" up")
			return c
		})
	})
	t.Run("vdesl", func(t *testing.T) {
		testConn(t, func(t *testing.T) Conn {
			_, name := testenv.PTY(t)
			return openPlug(t, "vdesl://"+name+"[speed=115200]")
		})
	})
	for _, kind := range []string{"switch", "hub", "multi", "bonding"} {
		t.Run(kind+", and a client", func(t *testing.T) {
			testConn(t, func(t *testing.T) Conn {
				c, dir := serve(t, kind, "")
				openInbox(t, dir)
				return c
			})
		})
	}
	eachSwitch(t, func(t *testing.T, kind switchKind) {
		testConn(t, func(t *testing.T) Conn { return openPlug(t, newSwitch(t, kind.command).Dir) })
	})
}

// TestOpenLinuxErrors opens locators that schemes of Linux reject.
func TestOpenLinuxErrors(t *testing.T) {
	testenv.NoLeaks(t)
	plain := writeFile(t, filepath.Join(t.TempDir(), "plain"), "x")
	for _, tt := range []struct {
		vnl, text string
		err       error
	}{
		{"cmd://", "no command given", nil},
		{"= ;", "no command given", nil},
		{"cmd://cat; cat", "2 commands given, want one", nil},
		{"cmd://cat 'x", `byte 4, at "'x": this quote does not end`, nil},
		{"cmd://no-such-command-here x", `"no-such-command-here"`, exec.ErrNotFound},
		{"cmd:///nowhere/cat", "/nowhere/cat", fs.ErrNotExist},
		{"cmd://" + plain, plain, fs.ErrPermission},
		{"cmd://''", "no command", nil},
		{"pcap://", "no interface given", nil},
		{"pcap://a/b", `interface "a/b": byte '/' has no place in a name`, nil},
		{"macvtap://", "no interface given", nil},
		{"macvtap://a/b", `interface "a/b": byte '/' has no place in a name`, nil},
		{"macvtap://nix0", `interface "nix0": no such interface here`, nil},
		{"macvtap://lo", `interface "lo" has no device /dev/tap1: either it is no macvtap interface`, nil},
		{"vdesl://", "no device given", nil},
		{"vdesl:///dev/null", "/dev/null is not a serial line", nil},
		{"vdesl:///dev/nix", "open /dev/nix: no such file", nil},
		{"vdesl:///dev/null[speed=1]", `vdesl option "speed=1": must be one of 9600, 19200, 38400,`, nil},
		{"vdesl:///dev/null[speed]", "must be one of", nil},
		{"vdesl:///dev/null[parity=no]", `vdesl option "parity=no": unknown (have speed)`, nil},
		{"seqpacket://", `"": must be the number of a descriptor`, nil},
		{"seqpacket://x", `"x": must be the number of a descriptor`, nil},
		{"seqpacket://-1", `"-1": must be the number`, nil},
		{"seqpacket://99999", "descriptor 99999: it is not open", nil},
		{"seqpacket://0x3", "must be the number", nil},
		{"seqpacket://3/port", "must be the number", nil},
		{"udp://7001", `no "->" in the address (it is [saddr:]sport->daddr:dport)`, nil},
		{"udp://7001->7002", `destination "7002" has no address or no port`, nil},
		{"udp://7001->127.0.0.1:", `destination "127.0.0.1:" has no address or no port`, nil},
		{"udp://7001->:7002", `destination ":7002" has no address or no port`, nil},
		{"udp://x y->127.0.0.1:7002", `source port "x y": `, nil},
		{"udp://7001->127.0.0.1:70000", `destination port "70000": `, nil},
		{"udp://7001->127.0.0.1:0", `destination port "0": nothing can be sent there`, nil},
		{"udp://127.0.0.1:7001->::1:7002", `source "127.0.0.1" and destination "::1": one is IPv4, the other IPv6`, nil},
		{"udp://10.1.2.3:7005->127.0.0.1:7003", `source 10.1.2.3:7005 is not an address of this host`, nil},
		{"udp://7005->10.1.2.3:7003", `destination 10.1.2.3:7003: connect: network is unreachable`, nil},
		{"udp://7005->fe80::1%nosuch0:7003", `zone "nosuch0" of fe80::1%nosuch0: `, nil},
		{"udp://7005->nosuch.invalid:7003", `destination "nosuch.invalid": `, nil},
		{"vxvde:///if=nosuch0", `option "if=nosuch0": no such interface`, unix.ENODEV},
		{"vxvde:///if=sixteen-bytes-xx", `at most 15 bytes`, nil},
		{"vxvde:///bind=10.11.12.13", `option "bind=10.11.12.13": not an address of this host`, unix.EADDRNOTAVAIL},
		{"vxvde://ff05::1/if=test0/bind=fd09::99", `option "bind=fd09::99": not an address of this host`, unix.EADDRNOTAVAIL},
	} {
		wantOpenError(t, tt.vnl, tt.text, tt.err)
	}
	if os.Geteuid() != 0 {
		wantOpenError(t, "pcap://lo", "no permission: it takes CAP_NET_RAW", os.ErrPermission)
		return
	}
	wantOpenError(t, "pcap://nix0", `interface "nix0": no such interface here`, unix.ENODEV)
	wantOpenError(t, "pcap://lo", `interface "lo": it is not of the kind of Ethernet (ARPHRD 772)`)
}
