//go:build amd64 || arm64

package lifecycle

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

func init() { register(givenUp, notDumpable) }

// givenUp calls everything in stacks that were made before a drop. Calls that the drop
// makes impossible are refused with the reason; the others work.
func givenUp() {
	drop := os.Args[1]
	// With the same user it has all rights of the stacks' user.
	taken := drop == "setuid" || drop == "seteuid"
	s := must(vdestack.Open("mem://given", "10.6.0.1/24"))
	peer := must(vdestack.Open("mem://given", "10.6.0.2/24"))
	old := must(s.RTNL())
	tun := must(s.TUN(vdestack.TUNConfig{Name: "older"}))
	index := s.Stats().Interfaces[0].Index
	check(drops[drop]())

	ctx := contextOf(time.Minute)
	socket := func(domain, typ, proto int) func() error {
		return func() error { return testenv.Closing(s.Socket(domain, typ, proto)) }
	}
	configure := func(nl *rtnl.Conn, addr string) error { return nl.AddrAdd(index, netip.MustParsePrefix(addr)) }
	from := func(port int) func() error {
		return func() error {
			d := vdestack.Dialer{Stack: s, Dialer: net.Dialer{LocalAddr: &net.UDPAddr{Port: port}}}
			return testenv.Closing(d.Dial("udp", "10.6.0.2:9"))
		}
	}
	for _, tt := range []struct {
		name  string
		takes bool // capabilities over the stack
		call  func() error
	}{
		{"Socket", false, socket(unix.AF_INET, unix.SOCK_STREAM, 0)},
		{"Socket, packet", false, socket(unix.AF_PACKET, unix.SOCK_RAW, 0)},
		{"Socket, raw", false, socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)},
		{"Listen", false, func() error {
			ln, err := s.Listen("tcp", "10.6.0.1:8080")
			if err == nil {
				echo(peer, ln)
				ln.Close()
			}
			return err
		}},
		{"Listen, low port", true, func() error { return testenv.Closing(s.Listen("tcp", ":80")) }},
		{"ListenPacket, low port", true, func() error { return testenv.Closing(s.ListenPacket("udp", ":53")) }},
		{"ListenPacket, raw", false, func() error { return testenv.Closing(s.ListenPacket("ip4:icmp", "0.0.0.0")) }},
		{"Dial", false, from(5000)},
		{"Dial, low port", true, from(500)},
		{"Sysctl", true, func() error { return s.Sysctl("net.ipv4.ip_forward", "1") }},
		{"RTNL, reading", false, func() error { return listLinks(s) }},
		{"RTNL", true, func() error {
			nl := must(s.RTNL())
			defer nl.Close()
			return configure(nl, "10.7.0.1/24")
		}},
		{"RTNL, older", true, func() error { return configure(old, "10.7.0.2/24") }},
		{"Netlink", false, func() error { return testenv.Closing(s.Netlink(unix.NETLINK_GENERIC)) }},
		{"Stats", false, func() error { return s.Stats().Interfaces[0].Err }},
		{"NetNS", false, func() error { return testenv.Closing(peer.NetNS()) }},
		{"Open", true, func() error { return testenv.Closing(vdestack.Open("lan://another", "10.8.0.1/24")) }},
		{"Open, the same network", true, func() error { return testenv.Closing(vdestack.Open("mem://given", "10.6.0.3/24")) }},
		{"plug", true, func() error { return testenv.Closing(vdeplug.Open("mem://given", nil)) }},
		{"Command", true, func() error {
			if drop == "chroot" {
				return nil // there are no programs
			}
			return s.Command(ctx, "/bin/true").Run()
		}},
		{"AddInterface, mem", true, func() error { return s.AddInterface(ctx, vdestack.Interface{Name: "more", VNL: "mem://given"}) }},
		{"AddInterface", true, func() error { return s.AddInterface(ctx, vdestack.Interface{}) }},
		{"TUN", true, func() error { return testenv.Closing(s.TUN(vdestack.TUNConfig{})) }},
		{"TUN, older", false, func() error { return testenv.Closing(tun, nil) }},
		{"RemoveInterface", true, func() error { return s.RemoveInterface("vde0") }},
		{"SetDNS", false, func() error { return s.SetDNS(vdestack.DNS{}) }},
		{"ReadSysctl", false, func() error {
			_, err := s.ReadSysctl("net.ipv4.ip_forward")
			return err
		}},
		{"Close", false, s.Close},
		{"Close, lent", true, peer.Close}, // removes the interface, because NetNS was called
	} {
		err := tt.call()
		if tt.takes && taken {
			wantText(tt.name, err, "the program has become user 65534", "change the user before the first stack is made")
		} else if err != nil {
			fail("%s: %v", tt.name, err)
		}
	}
	if taken {
		// The program may make itself dumpable, and is another user then.
		check(unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0))
		s := must(vdestack.Open("mem://new", "10.6.0.1/24"))
		ln := must(s.Listen("tcp", ":80"))
		second := must(vdestack.Open("mem://new", "10.6.0.2/24"))
		ln2 := must(s.Listen("tcp", "10.6.0.1:81"))
		echo(second, ln2)
		check(s.Sysctl("net.ipv4.ip_forward", "1"))
		out, err := s.Command(ctx, "id", "-u").Output()
		if err != nil || strings.TrimSpace(string(out)) != fmt.Sprint(os.Geteuid()) {
			fail("a command of the new user: %q, %v", out, err)
		}
		check(ln.Close())
		check(second.Close())
		check(s.Close())
	}
}

// notDumpable changes the user before the first stack.
func notDumpable() {
	check(drops["setuid"]())
	wantText("a stack", testenv.Closing(vdestack.Open("mem://first", "10.6.0.1/24")), "call prctl(PR_SET_DUMPABLE, 1) before the first stack")
	if v, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); v == 1 || err != nil {
		fail("the process was made dumpable")
	}
	check(unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0))
	s := must(vdestack.Open("mem://first", "10.6.0.1/24"))
	check(testenv.Closing(s.Listen("tcp", ":80")))
	check(s.Close())
}

// TestGivenUp uses stacks after the program has given up rights.
func TestGivenUp(t *testing.T) {
	testenv.Long(t)
	if os.Geteuid() != 0 {
		t.Log("an ordinary user has nothing to give up")
		return
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		testenv.Skip(t, "%v", err)
	}
	for drop := range drops {
		t.Run(drop, func(t *testing.T) { run(t, program(t, "givenUp", drop)) })
	}
	t.Run("before", func(t *testing.T) { run(t, program(t, "notDumpable")) })
}
