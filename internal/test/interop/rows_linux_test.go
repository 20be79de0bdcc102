package interop

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

// rows are the rows of the table, in order.
var rows = []row{
	{"vde", "client", "vde_switch, with vdens on it", []string{"vde2", "vdens"}, 1504, vdeClassic},
	{"vde", "client", "`vde_plug null:// switch://…`, with vdens on it", []string{"vdeplug", "libvdeplug2", "vdens"}, largestMTU, vdePlugSwitch},
	{"vde", "client", "`vdens plug null:// switch://…` of ours, with Debian's vdens on it", []string{"vdens"}, largestMTU, vdeOurs},
	{"switch", "the switch", "vdens", []string{"libvdeplug2", "vdens"}, largestMTU, serveVdens("switch")},
	{"switch", "the switch", "vde_plug", []string{"vdeplug", "libvdeplug2", "vdens"}, largestMTU, servePlug("switch")},
	{"switch", "the switch", "libvdestack", []string{"libvdestack0", "libvdeplug2"}, largestMTU, serveLibvdestack("switch")},
	{"hub", "the hub", "vdens", []string{"libvdeplug2", "vdens"}, largestMTU, serveVdens("hub")},
	{"hub", "the hub", "vde_plug", []string{"vdeplug", "libvdeplug2", "vdens"}, largestMTU, servePlug("hub")},
	{"hub", "the hub", "libvdestack", []string{"libvdestack0", "libvdeplug2"}, largestMTU, serveLibvdestack("hub")},
	{"multi", "the centre", "vdens", []string{"libvdeplug2", "vdens"}, largestMTU, serveVdens("multi")},
	{"multi", "the centre", "vde_plug", []string{"vdeplug", "libvdeplug2", "vdens"}, largestMTU, servePlug("multi")},
	{"multi", "the centre", "libvdestack", []string{"libvdestack0", "libvdeplug2"}, largestMTU, serveLibvdestack("multi")},
	{"bonding", "the centre", "vdens", []string{"libvdeplug2", "vdens"}, largestMTU, serveVdens("bonding")},
	{"bonding", "the centre", "vde_plug", []string{"vdeplug", "libvdeplug2", "vdens"}, largestMTU, servePlug("bonding")},
	{"bonding", "the centre", "libvdestack", []string{"libvdestack0", "libvdeplug2"}, largestMTU, serveLibvdestack("bonding")},
	{"vxvde", "IPv4 outside", "vdens", []string{"libvdeplug2", "vdens"}, largestMTU, alike("vxvde://234.0.1.1")},
	{"vxvde", "IPv6 outside", "vdens", []string{"libvdeplug2", "vdens"}, largestMTU, alike("vxvde:///v6/if=test0")},
	{"vxlan", "multicast, IPv4 outside", "the kernel's vxlan", []string{"linux"}, largestMTU - 50,
		vxlanKernel("vxlan://239.1.1.1/vni=42/if=vde0", "group 239.1.1.1 dev vde0")},
	{"vxlan", "multicast, IPv6 outside", "the kernel's vxlan", []string{"linux"}, largestMTU - 70,
		vxlanKernel("vxlan://ff05::42/vni=42/if=vde0", "group ff05::42 dev vde0")},
	{"vxlan", "a list of hosts", "the kernel's vxlan", []string{"linux"}, largestMTU - 50,
		vxlanKernel("vxlan:///vni=42/remote=10.9.8.2", "remote 10.9.8.1 dev vde0")},
	{"vxlan", "multicast, IPv4 outside", "vdens, with the option `hashsize=0`", []string{"libvdeplug2", "vdens"}, largestMTU, vxlanDebian},
	{"vlan", "on `vde_plug null:// switch://…`", "vdens, the same", []string{"libvdeplug-vlan", "libvdeplug2", "vdens"}, largestMTU, vlanVDE},
	{"vlan", "on vxvde", "vdens, the same", []string{"libvdeplug-vlan", "libvdeplug2", "vdens"}, largestMTU, alike("vlan://7{vxvde://234.0.1.2}")},
	{"vlan, qinq", "two tags on vxvde", "vdens, the same", []string{"libvdeplug-vlan", "libvdeplug2", "vdens"}, largestMTU - 4, alike("vlan://7{vlan://8/qinq{vxvde://234.0.1.3}}")},
	{"agno", "on vxvde", "vdens, the same", []string{"libvdeplug-agno", "libvdeplug2", "vdens"}, largestMTU - 16, agnoDebian},
	{"ptp", "an end", "vdens", []string{"libvdeplug2", "vdens"}, largestMTU, ptpDebian},
	{"ptp, seqpacket", "an end", "none in Debian: `vdens plug` of ours, to a switch with Debian's vdens", []string{"vdens"}, largestMTU, ptpSeqpacket},
	{"udp", "an end", "vdens", []string{"libvdeplug2", "vdens"}, largestMTU, udpDebian},
	{"seqpacket", "an end", "vdens", []string{"libvdeplug2", "vdens"}, largestMTU, seqpacketDebian},
	{"cmd", "starts the command", "vde_plug to a vde_switch, with vdens on it", []string{"vdeplug", "libvdeplug2", "vde2", "vdens"}, 1504, cmdPlug},
	{"vdesl", "an end of a null modem of ptys", "vdens", []string{"libvdeplug-vdesl", "libvdeplug2", "vdens"}, largestMTU, vdeslDebian},
	{"tap", "on an interface of the kernel", "the kernel", []string{"linux"}, largestMTU, tapKernel},
	{"tap", "on a bridge of the kernel", "vdens", []string{"linux", "libvdeplug2", "vdens"}, largestMTU, tapDebian},
	{"pcap", "an end of a veth pair", "the kernel", []string{"linux"}, largestMTU, pcapKernel},
	{"pcap", "an end of a veth pair", "vdens", []string{"linux", "libvdeplug-pcap", "libpcap0.8", "vdens"}, largestMTU, pcapDebian},
	{"macvtap", "on an end of a veth pair", "the kernel", []string{"linux"}, largestMTU, macvtapKernel},
	{"mem", "a stack", "the kernel, another stack", []string{"linux"}, largestMTU, stacks("%s://%s", "mem")},
	{"lan", "a stack", "the kernel, another stack", []string{"linux"}, largestMTU, stacks("%s://%s", "lan")},
	{"netemu", "a stack behind it, on mem", "the kernel, another stack", []string{"linux"}, largestMTU,
		stacks("netemu://delay=1ms/loss=1%%/duplicate=1%%/reorder=1%%/seed=1{%s://%s}", "mem")},
	{"slirp", "the NAT, by `slirp_plug` at the other end of ssh", "vdens, a guest, on `cmd://ssh HOST slirp_plug`", []string{"libvdeplug2", "vdens"}, largestMTU, slirpOurs},
	{"slirp", "a guest", "`vde_plug slirp://…`, the NAT", []string{"vdeplug", "libvdeplug-slirp", "libslirp0"}, 9000, slirpDebian},
}

// What becomes of a row when its peer ends and returns.
const (
	goesOn = "connections go on"
	again  = "it is reached again"
)

// opposite is a rig with a peer that can be made again when it was killed.
func opposite(us party, peer func() party) *rig {
	r := &rig{us: us, them: peer()}
	r.fate = func(t *testing.T) string {
		r.them.kill()
		r.them = peer()
		r.them.serveEcho(t)
		return again
	}
	return r
}

// alike is a network with the same locator for both.
func alike(vnl string) func(*testing.T, string) *rig {
	return func(t *testing.T, _ string) *rig { return against(t, vnl, vnl) }
}

// against is a stack of ours and Debian's vdens.
func against(t *testing.T, ours, theirs string) *rig {
	t.Helper()
	return opposite(stackParty{open(t, ours, server)}, func() party { return debian(t, theirs, client) })
}

// behind is a network through a program, which is ended in two ways and started again
// while a connection is in use. The connection is to a second stack of ours, because
// Debian's vdens does not notice the end of the program.
func behind(t *testing.T, vnl string, start func() *process) *rig {
	t.Helper()
	p := start()
	us := open(t, vnl, server)
	r := &rig{us: stackParty{us}, them: debian(t, vnl, client)}
	r.fate = func(t *testing.T) string {
		third := host{"10.0.0.3", "fc00::1:3"}
		serveEcho(t, open(t, vnl, third))
		outlives(t, us, third, func(sig syscall.Signal) {
			p.end(sig)
		}, func() {
			p = start()
		})
		r.them.kill()
		r.them = debian(t, vnl, client)
		r.them.serveEcho(t)
		return goesOn
	}
	return r
}

// outlives uses connections from a stack to a host while the network between them ends and
// returns.
func outlives(t *testing.T, s *vdestack.Stack, h host, end func(syscall.Signal), back func()) {
	t.Helper()
	var held []*heldConn
	for _, addr := range h {
		held = append(held, hold(t, s, addr))
	}
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGKILL} {
		for _, c := range held {
			c.begin()
		}
		end(sig)
		for _, c := range held {
			c.begin()
		}
		back()
		for _, c := range held {
			c.complete(t)
		}
	}
}

func vdeClassic(t *testing.T, _ string) *rig {
	dir := filepath.Join(testenv.ShortDir(t), "sw")
	return behind(t, "vde://"+dir, func() *process {
		return startSwitch(t, dir, testenv.Need(t, "vde_switch", "vde2"), "-s", dir)
	})
}

func vdePlugSwitch(t *testing.T, _ string) *rig {
	dir := filepath.Join(testenv.ShortDir(t), "sw")
	return behind(t, "vde://"+dir, func() *process {
		os.RemoveAll(dir) // it does not start where one was killed
		return startSwitch(t, dir, testenv.Need(t, "vde_plug", "vdeplug"), "null://", "switch://"+dir)
	})
}

func vdeOurs(t *testing.T, vdens string) *rig {
	dir := filepath.Join(testenv.ShortDir(t), "sw")
	return behind(t, "vde://"+dir, func() *process {
		return startSwitch(t, dir, vdens, "plug", "null://", "switch://"+dir)
	})
}

// serveVdens, and the next two functions, serve with one of our four servers.
func serveVdens(scheme string) func(*testing.T, string) *rig {
	return func(t *testing.T, _ string) *rig {
		dir := filepath.Join(testenv.ShortDir(t), "sw")
		return against(t, scheme+"://"+dir, "vde://"+dir)
	}
}

func servePlug(scheme string) func(*testing.T, string) *rig {
	return func(t *testing.T, _ string) *rig {
		dir := filepath.Join(testenv.ShortDir(t), "sw")
		return against(t, scheme+"://"+dir, "cmd://"+testenv.Need(t, "vde_plug", "vdeplug")+" vde://"+dir)
	}
}

func serveLibvdestack(scheme string) func(*testing.T, string) *rig {
	return func(t *testing.T, _ string) *rig {
		exe, dir := cProgram(t, "shell"), filepath.Join(testenv.ShortDir(t), "sw")
		return opposite(stackParty{open(t, scheme+"://"+dir, server)}, func() party {
			return shell{start(t, exe, "vde://"+dir)}.up(t, "vde0", client)
		})
	}
}

// The hosts below a network that is in the packets of another.
var (
	below1 = host{"10.9.8.1", "fd98::1"}
	below2 = host{"10.9.8.2", "fd98::2"}
)

// within starts our vdens on a network of a stack.
func within(t *testing.T, s *vdestack.Stack, vdens, vnl string) party {
	t.Helper()
	return shell{startIn(t, s, vdens, ourArgs(vnl, server)...)}
}

// debianWithin starts Debian's vdens on a network of a stack.
func debianWithin(t *testing.T, s *vdestack.Stack, vnl string) party {
	t.Helper()
	return shell{startIn(t, s, testenv.Need(t, "vdens", "vdens"), vnl, "/bin/sh")}.up(t, "vde0", client)
}

func vxlanKernel(vnl, device string) func(*testing.T, string) *rig {
	return func(t *testing.T, vdens string) *rig {
		ip := testenv.Need(t, "ip", "iproute2")
		below := "mem://" + t.Name()
		one, two := stackParty{open(t, below, below1)}, stackParty{open(t, below, below2)}
		for _, s := range []stackParty{one, two} { // for packets in packets
			must(t, s, fmt.Sprintf("%s link set vde0 mtu %d", ip, largestMTU))
		}
		device := func() {
			must(t, two, fmt.Sprintf("%s link add vx type vxlan id 42 dstport 4789 %s && %s", ip, device, upScript(t, "vx", client)))
		}
		device()
		return &rig{us: within(t, one.Stack, vdens, vnl), them: two, dev: "vx", fate: func(t *testing.T) string {
			must(t, two, ip+" link del vx")
			device()
			return again
		}}
	}
}

func vxlanDebian(t *testing.T, vdens string) *rig {
	below := "mem://" + t.Name()
	one, two := open(t, below, below1), open(t, below, below2)
	const vnl = "vxlan://239.1.1.1/vni=42/if=vde0"
	return opposite(within(t, one, vdens, vnl), func() party { return debianWithin(t, two, vnl+"/hashsize=0") })
}

func vlanVDE(t *testing.T, _ string) *rig {
	dir := filepath.Join(testenv.ShortDir(t), "sw")
	// Not vde_switch, which has to be configured for VLANs.
	startSwitch(t, dir, testenv.Need(t, "vde_plug", "vdeplug"), "null://", "switch://"+dir)
	vnl := "vlan://7{vde://" + dir + "}"
	return against(t, vnl, vnl)
}

func agnoDebian(t *testing.T, _ string) *rig {
	key := filepath.Join(testenv.ShortDir(t), "key")
	testenv.Check(t, os.WriteFile(key, []byte("00112233445566778899aabbccddeeff\n"), 0o600))
	vnl := "agno://" + key + "{vxvde://234.0.1.4}"
	return against(t, vnl, vnl)
}

func ptpDebian(t *testing.T, _ string) *rig {
	vnl := "ptp://" + filepath.Join(testenv.ShortDir(t), "cable")
	return opposite(stackParty{open(t, vnl, server)}, func() party {
		// Until ours has seen that the other end is gone, up to 0.2 s, a new one
		// finds that there are two.
		var s shell
		testenv.Eventually(t, "an end for vdens", func() bool {
			s = shell{start(t, testenv.Need(t, "vdens", "vdens"), vnl, "/bin/sh")}
			s.pipe.SetReadDeadline(time.Now().Add(testenv.Timeout))
			fmt.Fprintln(s.stdin, "echo here")
			_, err := s.stdout.ReadString('\n')
			return err == nil
		})
		return s.up(t, "vde0", client)
	})
}

func ptpSeqpacket(t *testing.T, vdens string) *rig {
	dir := testenv.ShortDir(t)
	cable, sw := "ptp://"+dir+"/cable[seqpacket]", dir+"/sw"
	c := testenv.Must(vdeplug.Open("switch://"+sw, nil))(t)
	t.Cleanup(func() { c.Close() })
	us := open(t, cable, server)
	other := func() *process { return start(t, vdens, "plug", cable, "vde://"+sw) }
	p := other()
	return &rig{us: stackParty{us}, them: debian(t, "vde://"+sw, client), fate: func(t *testing.T) string {
		outlives(t, us, client, func(sig syscall.Signal) { p.end(sig) }, func() { p = other() })
		return goesOn
	}}
}

func udpDebian(t *testing.T, _ string) *rig {
	return against(t, "udp://7001->127.0.0.1:7002", "udp://7002->127.0.0.1:7001")
}

func seqpacketDebian(t *testing.T, _ string) *rig {
	fds := testenv.Must(unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0))(t)
	peer := func(fd int) party {
		cmd := exec.Command(testenv.Need(t, "vdens", "vdens"), "seqpacket://3", "/bin/sh")
		f := os.NewFile(uintptr(fd), "pair")
		defer f.Close()
		cmd.ExtraFiles = []*os.File{f}
		return shell{startCmd(t, cmd)}.up(t, "vde0", client)
	}
	us := open(t, fmt.Sprintf("seqpacket://%d", fds[0]), server)
	r := &rig{us: stackParty{us}, them: peer(fds[1])}
	r.fate = func(t *testing.T) string {
		r.them.kill()
		link := func() vdestack.InterfaceStats { return us.Stats().Interfaces[0] }
		testenv.Eventually(t, "the end of the socket", func() bool { return link().Err != nil && !link().Reconnecting })
		// The program that has started both makes another pair.
		us.Close()
		n := seqpacketDebian(t, "")
		r.us, r.them = n.us, n.them
		r.us.serveEcho(t)
		r.them.serveEcho(t)
		return "the socket is gone for good, which `Stats` and the log say"
	}
	return r
}

func cmdPlug(t *testing.T, _ string) *rig {
	vnl := vdeSwitch(t)
	exe, pids := script(t, testenv.Need(t, "vde_plug", "vdeplug"), vnl)
	us := open(t, "cmd://"+exe, server)
	return &rig{us: stackParty{us}, them: debian(t, vnl, client), fate: func(t *testing.T) string {
		var another func()
		outlives(t, us, client, func(sig syscall.Signal) { another = killRun(t, pids, sig) }, func() { another() })
		return goesOn
	}}
}

// script writes a program that executes a command without the character '. It returns the
// paths of the program and of a file to which each run adds its process number.
func script(t *testing.T, command ...string) (path, pids string) {
	t.Helper()
	dir := testenv.ShortDir(t)
	path, pids = filepath.Join(dir, "run"), filepath.Join(dir, "pids")
	text := fmt.Sprintf("#!/bin/sh\necho $$ >>%s\nexec '%s'\n", pids, strings.Join(command, "' '"))
	testenv.Check(t, os.WriteFile(path, []byte(text), 0o700))
	return path, pids
}

// killRun ends the last run of a script. It returns a function that waits for another run.
func killRun(t *testing.T, pids string, sig syscall.Signal) (another func()) {
	t.Helper()
	runs := func() (list []string) {
		text := testenv.Must(os.ReadFile(pids))(t)
		return strings.Fields(string(text))
	}
	list := runs()
	pid := testenv.Must(strconv.Atoi(list[len(list)-1]))(t)
	testenv.Check(t, unix.Kill(pid, sig))
	return func() {
		testenv.Eventually(t, "another command", func() bool { return len(runs()) > len(list) })
	}
}

func vdeslDebian(t *testing.T, _ string) *rig {
	m := newModem(t)
	return opposite(stackParty{open(t, "vdesl://"+m.ours, server)}, func() party {
		m.unplug(t)
		p := debian(t, "vdesl://"+m.theirs, client)
		m.plug()
		return p
	})
}

// alone is a stack in which a test makes interfaces.
func alone(t *testing.T) stackParty {
	t.Helper()
	s := testenv.Must(vdestack.New(t.Context(), vdestack.Config{}))(t)
	t.Cleanup(func() { s.Close() })
	return stackParty{s}
}

// downUp is the fate of an interface of the kernel: it is set down and up.
func downUp(s stackParty, dev string) func(t *testing.T) string {
	return func(t *testing.T) string {
		ip := testenv.Need(t, "ip", "iproute2")
		must(t, s, fmt.Sprintf("%[1]s addr flush dev %[2]s; %[1]s link set %[2]s down; %s", ip, dev, upScript(t, dev, client)))
		return again
	}
}

// tapKernel has the kernel in which the interface is.
func tapKernel(t *testing.T, vdens string) *rig {
	s := alone(t)
	us := within(t, s.Stack, vdens, "tap://tap0")
	us.run(t, "true") // it is there
	must(t, s, upScript(t, "tap0", client))
	return &rig{us: us, them: s, dev: "tap0", fate: downUp(s, "tap0")}
}

func tapDebian(t *testing.T, vdens string) *rig {
	s := alone(t)
	ip := testenv.Need(t, "ip", "iproute2")
	must(t, s, ip+" link add br0 type bridge && "+ip+" link set br0 up")
	us := within(t, s.Stack, vdens, "tap://tap0")
	us.run(t, "true")
	join := func(name string) {
		must(t, s, fmt.Sprintf("%s link set %s master br0 mtu %d up", ip, name, largestMTU))
	}
	join("tap0")
	return opposite(us, func() party {
		p := debianWithin(t, s.Stack, "tap://tap1")
		join("tap1")
		return p
	})
}

// wire makes a veth pair in a stack, wire0 and wire1.
func wire(t *testing.T, s stackParty) {
	t.Helper()
	ip := testenv.Need(t, "ip", "iproute2")
	must(t, s, fmt.Sprintf("%[1]s link add wire0 mtu %[2]d type veth peer name wire1 mtu %[2]d && %[1]s link set wire0 up && %[1]s link set wire1 up", ip, largestMTU))
}

func pcapKernel(t *testing.T, vdens string) *rig {
	s := alone(t)
	wire(t, s)
	must(t, s, upScript(t, "wire1", client))
	us := within(t, s.Stack, vdens, "pcap://wire0")
	return &rig{us: us, them: s, dev: "wire1", fate: downUp(s, "wire1")}
}

func pcapDebian(t *testing.T, vdens string) *rig {
	s := alone(t)
	wire(t, s)
	return opposite(within(t, s.Stack, vdens, "pcap://wire0"), func() party {
		return debianWithin(t, s.Stack, "pcap://wire1")
	})
}

// macvtapKernel has its interface in the namespace of this process, where its device can be
// made.
func macvtapKernel(t *testing.T, _ string) *rig {
	if os.Geteuid() != 0 {
		t.Skip("making a device needs root")
	}
	ip := testenv.Need(t, "ip", "iproute2")
	here := func(args string) {
		t.Helper()
		if out, err := exec.Command(ip, strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	s := alone(t)
	ns := testenv.Must(s.NetNS())(t)
	defer ns.Close()
	here(fmt.Sprintf("link add wire0 mtu %[1]d type veth peer name wire1 mtu %[1]d netns /proc/%d/fd/%d", largestMTU, os.Getpid(), ns.Fd()))
	t.Cleanup(func() { here("link del wire0") })
	here("link set wire0 up")
	here("link add link wire0 name mvt0 type macvtap mode passthru")
	here("link set mvt0 allmulticast on up") // IPv6 finds its neighbours so
	macvtapDevice(t, "mvt0")
	must(t, s, upScript(t, "wire1", client))
	return &rig{us: stackParty{open(t, "macvtap://mvt0", server)}, them: s, dev: "wire1", fate: downUp(s, "wire1")}
}

// macvtapDevice makes the device of an interface, if the machine does not do so itself.
func macvtapDevice(t *testing.T, name string) {
	t.Helper()
	sys := t.TempDir()
	if err := unix.Mount("none", sys, "sysfs", unix.MS_RDONLY, ""); err != nil {
		testenv.Skip(t, "the interfaces here cannot be looked at: %v", err)
	}
	defer unix.Unmount(sys, unix.MNT_DETACH)
	files, err := filepath.Glob(sys + "/class/net/" + name + "/tap*/dev")
	if err != nil || len(files) != 1 {
		t.Fatalf("%q, %v", files, err)
	}
	text := testenv.Must(os.ReadFile(files[0]))(t)
	var major, minor uint32
	if _, err := fmt.Sscanf(string(text), "%d:%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	device := "/dev/" + filepath.Base(filepath.Dir(files[0]))
	switch err := unix.Mknod(device, unix.S_IFCHR|0o600, int(unix.Mkdev(major, minor))); err {
	case nil:
		t.Cleanup(func() { os.Remove(device) })
	case unix.EEXIST:
	default:
		testenv.Skip(t, "mknod %s: %v", device, err)
	}
}

// stacks are two stacks of ours, one on a network made from the format, the other on the
// network inside of it.
func stacks(format, scheme string) func(*testing.T, string) *rig {
	return func(t *testing.T, _ string) *rig {
		return opposite(stackParty{open(t, fmt.Sprintf(format, scheme, t.Name()), server)}, func() party {
			return stackParty{open(t, scheme+"://"+t.Name(), client)}
		})
	}
}

// A heldConn is a connection to an echo server that is in use while networks end and
// return.
type heldConn struct {
	net.Conn
	parts   chan struct{} // to be sent
	pending int           // how many have not come back
	failed  chan error
}

func hold(t *testing.T, s *vdestack.Stack, addr string) *heldConn {
	t.Helper()
	conn := testenv.Must(dial(s, addr))(t)
	c := &heldConn{Conn: conn, parts: make(chan struct{}, 8), failed: make(chan error, 1)}
	go func() {
		for range c.parts {
			if _, err := c.Write(payload()); err != nil {
				c.failed <- err
				return
			}
		}
	}()
	t.Cleanup(func() {
		close(c.parts)
		c.Close()
	})
	return c
}

// begin sends another part, and does not wait.
func (c *heldConn) begin() {
	c.pending++
	c.parts <- struct{}{}
}

// complete wants all parts back.
func (c *heldConn) complete(t *testing.T) {
	t.Helper()
	want := bytes.Repeat(payload(), c.pending)
	got := make([]byte, len(want))
	c.SetReadDeadline(time.Now().Add(2 * testenv.Timeout))
	n, err := io.ReadFull(c, got)
	select {
	case serr := <-c.failed:
		t.Fatalf("%v: a part was not sent: %v", c.RemoteAddr(), serr)
	default:
	}
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%v: %d bytes of %d have come back, or not the same: %v", c.RemoteAddr(), n, len(want), err)
	}
	c.pending = 0
}
