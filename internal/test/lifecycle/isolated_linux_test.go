//go:build amd64 || arm64

package lifecycle

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/mdlayher/netlink"
	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/testenv/private"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

func init() { register(isolate, intrude, isolatedEnds, isolatedPlain) }

// intrude is a command that tries forbidden things with another process, and prints those
// that succeed.
func intrude() {
	pid := must(strconv.Atoi(os.Args[1]))
	runtime.LockOSThread() // the tracer is a thread
	nl := must(netlink.Dial(unix.NETLINK_ROUTE, nil))
	ask := func(typ netlink.HeaderType, flags netlink.HeaderFlags, header int, attrs func(*netlink.AttributeEncoder)) error {
		ae := netlink.NewAttributeEncoder()
		attrs(ae)
		body := must(ae.Encode())
		if typ != unix.RTM_GETLINK { // which has an answer of its own
			flags |= netlink.Acknowledge
		}
		_, err := nl.Execute(netlink.Message{Header: netlink.Header{Type: typ, Flags: netlink.Request | flags}, Data: append(make([]byte, header), body...)})
		return err
	}
	var nsid int32
	there := func(ae *netlink.AttributeEncoder) {
		ae.String(unix.IFLA_IFNAME, "vde0")
		ae.Int32(unix.IFLA_TARGET_NETNSID, nsid)
	}
	bridge := func(name string, where func(*netlink.AttributeEncoder)) error {
		return ask(unix.RTM_NEWLINK, netlink.Create|netlink.Excl, unix.SizeofIfInfomsg, func(ae *netlink.AttributeEncoder) {
			ae.String(unix.IFLA_IFNAME, name)
			ae.Nested(unix.IFLA_LINKINFO, func(ae *netlink.AttributeEncoder) error {
				ae.String(unix.IFLA_INFO_KIND, "bridge")
				return nil
			})
			where(ae)
		})
	}
	open := func(name string, flag int) error {
		return testenv.Closing(os.OpenFile(fmt.Sprintf("/proc/%d/%s", pid, name), flag, 0))
	}
	// Anybody may ask for the number of a namespace here, or give it one; the test is what
	// can be done with the number.
	ask(unix.RTM_NEWNSID, 0, 4, func(ae *netlink.AttributeEncoder) {
		ae.Int32(unix.NETNSA_NSID, int32(pid))
		ae.Uint32(unix.NETNSA_PID, uint32(pid))
	})
	nsid = must(numberOf(nl, pid))
	if nsid < 0 {
		fail("the namespace of process %d has no number", pid)
	}
	check(exec.Command("ip", "link", "add", "own", "type", "veth", "peer", "name", "own2").Run())
	for _, try := range []struct {
		name string
		call func() error
	}{
		{"list", func() error { return ask(unix.RTM_GETLINK, 0, unix.SizeofIfInfomsg, there) }},
		{"make", func() error {
			return bridge("made", func(ae *netlink.AttributeEncoder) { ae.Uint32(unix.IFLA_NET_NS_PID, uint32(pid)) })
		}},
		{"move", func() error {
			return ask(unix.RTM_NEWLINK, 0, unix.SizeofIfInfomsg, func(ae *netlink.AttributeEncoder) {
				ae.String(unix.IFLA_IFNAME, "own")
				ae.Uint32(unix.IFLA_NET_NS_PID, uint32(pid))
			})
		}},
		{"delete", func() error { return ask(unix.RTM_DELLINK, 0, unix.SizeofIfInfomsg, there) }},
		{"mem", func() error { return open("mem", os.O_RDONLY) }},
		{"mem+", func() error { return open("mem", os.O_RDWR) }},
		{"ns/net", func() error { return open("ns/net", os.O_RDONLY) }},
		{"ns/user", func() error { return open("ns/user", os.O_RDONLY) }},
		{"fd", func() error { _, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/0", pid)); return err }},
		{"read", func() error {
			b := make([]byte, 1)
			_, err := unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &b[0], Len: 1}}, []unix.RemoteIovec{{Base: uintptr(unsafe.Pointer(&b[0])), Len: 1}}, 0)
			if err == unix.EFAULT {
				return nil // it was let in
			}
			return err
		}},
		{"trace", func() error {
			err := unix.PtraceAttach(pid)
			if err == nil {
				unix.Wait4(pid, nil, unix.WALL, nil)
				unix.PtraceDetach(pid)
			}
			return err
		}},
	} {
		if try.call() == nil {
			fmt.Print(try.name, " ")
		}
	}
	// It may still trace its own children.
	child := exec.Command("sleep", "1000")
	check(child.Start())
	pid = child.Process.Pid
	check(open("mem", os.O_RDWR))
	child.Process.Kill()
	child.Wait()
}

// numberOf returns the number of the network namespace of a process.
func numberOf(nl *netlink.Conn, pid int) (int32, error) {
	ae := netlink.NewAttributeEncoder()
	ae.Uint32(unix.NETNSA_PID, uint32(pid))
	body := must(ae.Encode())
	answers, err := nl.Execute(netlink.Message{Header: netlink.Header{Type: unix.RTM_GETNSID, Flags: netlink.Request}, Data: append(make([]byte, 4), body...)})
	if err != nil || len(answers) != 1 {
		return 0, fmt.Errorf("%d answers, %w", len(answers), err)
	}
	ad, err := netlink.NewAttributeDecoder(answers[0].Data[4:])
	if err != nil {
		return 0, err
	}
	for ad.Next() {
		if ad.Type() == unix.NETNSA_NSID {
			return ad.Int32(), nil
		}
	}
	return 0, fmt.Errorf("no number: %w", ad.Err())
}

// openHost makes the stack of a host.
func openHost(vnl string, host int, isolated bool) *vdestack.Stack {
	cfg := on(vnl, fmt.Sprintf("10.0.0.%d/24", host))
	cfg.Isolated = isolated
	return newStack(cfg)
}

// isolate has commands of stacks, isolated and not, try forbidden things with each other,
// with the helpers and with the program.
func isolate() {
	ctx := contextOf(time.Minute)
	open := func(host int, isolated bool) (*vdestack.Stack, int) {
		s := openHost("mem://isolate", host, isolated)
		cmd := s.Command(ctx, "sleep", "1000")
		check(cmd.Start())
		return s, cmd.Process.Pid
	}
	a, inA := open(1, false)
	own := slices.DeleteFunc(children(), func(pid int) bool { return pid == inA })
	b, inB := open(2, false)
	e, inE := open(5, false)
	c, inC := open(3, true)
	isolated := slices.DeleteFunc(children(), func(pid int) bool { return slices.Contains(append(own, inA, inB, inC, inE), pid) })
	d, inD := open(4, true)
	if len(own) != 1 || len(isolated) != 1 {
		fail("helpers %v and %v, want one each", own, isolated)
	}
	links := "list make move delete "
	for _, tt := range []struct {
		name string
		in   *vdestack.Stack
		pid  int
		may  string
	}{
		{"from isolated to another", c, inA, ""},
		{"from isolated to isolated", c, inD, ""},
		{"from another to isolated", a, inC, ""},
		{"from isolated to the first helper", c, own[0], ""},
		{"from another to an isolated helper", a, isolated[0], ""},
		{"from isolated to the program", c, os.Getpid(), ""},
		{"from another to the program", a, os.Getpid(), ""},
		// See stack.Cmd.
		{"within one trust domain", a, inB, links + "mem mem+ ns/net ns/user fd read trace "},
		// It is in the network of one of its stacks, or of none. What is done there must
		// not be in the way of other attempts.
		{"from isolated to its own helper", c, isolated[0], links},
		{"from another to its own helper", e, own[0], links},
	} {
		cmd := tt.in.Command(ctx, "/proc/self/exe", strconv.Itoa(tt.pid))
		cmd.Env = append(os.Environ(), testenv.ProgramVariable+"=intrude")
		out, err := cmd.CombinedOutput()
		if err != nil {
			fail("%s: %v: %s", tt.name, err, out)
		}
		could := string(out)
		fmt.Printf("%s: %q\n", tt.name, could)
		switch {
		case strings.HasSuffix(tt.name, "its own helper"):
			for name := range strings.FieldsSeq(could) {
				if !strings.Contains(tt.may, name+" ") {
					fail("%s: could %q", tt.name, could)
				}
			}
		case could != tt.may:
			fail("%s: could %q, want %q", tt.name, could, tt.may)
		case tt.may == "":
			check(tt.in.Command(ctx, "ip", "link", "del", "own").Run())
		}
	}
	for _, s := range []*vdestack.Stack{a, b, c, d, e} {
		check(s.Close())
	}
}

// TestIsolated has commands of isolated stacks attack others.
func TestIsolated(t *testing.T) {
	testenv.Long(t)
	run(t, program(t, "isolate"))
}

// isolatedEnds has isolated stacks on networks with others, and checks that their helpers
// end with them.
func isolatedEnds() {
	ctx := contextOf(time.Minute)
	check(openHost("mem://first", 1, false).Close())
	before := descriptors()
	wantHelpers(1, "at first")
	for _, vnl := range []string{"mem://ends", "lan://ends", "switch://" + os.Args[1]} {
		a, b, c := openHost(vnl, 1, true), openHost(vnl, 2, false), openHost(vnl, 3, true)
		wantHelpers(3, "of three stacks")
		stacks := []*vdestack.Stack{a, b, c}
		for i, s := range stacks {
			ln := must(s.Listen("tcp", fmt.Sprintf("10.0.0.%d:80", i+1)))
			for j, from := range stacks {
				if i != j {
					echo(from, ln)
				}
			}
			check(ln.Close())
			check(s.Sysctl("net.ipv4.ip_forward", "1"))
			check(s.Command(ctx, "ip", "addr", "add", "10.1.0.1/24", "dev", "vde0").Run())
		}
		if strings.HasPrefix(vnl, "mem") {
			check(testenv.Closing(vdeplug.Open(vnl, nil)))
		}
		// It can be joined, and lives until both are closed.
		f := must(a.NetNS())
		joined := newStack(vdestack.Config{NetNS: fmt.Sprintf("/proc/self/fd/%d", f.Fd())})
		check(f.Close())
		check(a.Close())
		wantHelpers(3, "while a stack is joined")
		check(testenv.Closing(joined.Listen("tcp", "127.0.0.1:0")))
		for _, s := range []*vdestack.Stack{joined, b, c} {
			check(s.Close())
		}
		wantHelpers(1, "after Close")
	}
	wantDescriptors(before)
	wantText("isolated and joined", testenv.Closing(vdestack.New(ctx, vdestack.Config{Isolated: true, NetNS: "/proc/self/ns/net"})), "Isolated with NetNS")
}

// isolatedPlain is root where there are no user namespaces.
func isolatedPlain() {
	check(os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0))
	s := newStack(vdestack.Config{})
	err := testenv.Closing(vdestack.New(contextOf(time.Minute), vdestack.Config{Isolated: true}))
	wantText("isolated", err, "isolating takes a user namespace", "user.max_user_namespaces=0")
	check(s.Close())
}

func TestIsolatedPlain(t *testing.T) {
	cmd := program(t, "isolatedPlain")
	cmd.SysProcAttr = private.Root(unix.CLONE_NEWNET)
	run(t, cmd)
}

// TestIsolatedEnds counts what isolated stacks leave.
func TestIsolatedEnds(t *testing.T) {
	testenv.Long(t)
	run(t, program(t, "isolatedEnds", t.TempDir()+"/switch"))
}
