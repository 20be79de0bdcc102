//go:build amd64 || arm64

package permissions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/stack"
	"golang.org/x/sys/unix"
)

// Functions that provoke refusals.

func filter(rules ...testenv.Rule) func() error {
	return func() error { return testenv.Refuse(rules...) }
}

// sysctl sets a limit of the user namespace.
func sysctl(name, value string) func() error {
	return func() error { return os.WriteFile("/proc/sys/user/"+name, []byte(value), 0) }
}

func dumpable(value uintptr) func() error {
	return func() error { return unix.Prctl(unix.PR_SET_DUMPABLE, value, 0, 0, 0) }
}

// limit sets the soft limit of a resource.
func limit(resource int, soft uint64) func() error {
	return func() error {
		var l unix.Rlimit
		if err := unix.Getrlimit(resource, &l); err != nil {
			return err
		}
		l.Cur = min(soft, l.Max)
		return unix.Setrlimit(resource, &l)
	}
}

// fewProcesses lets the process have no further threads, after those that the runtime
// needs have been started.
func fewProcesses() error {
	var all, done sync.WaitGroup
	all.Add(30)
	for range 30 {
		done.Go(func() {
			runtime.LockOSThread()
			all.Done()
			all.Wait()
			runtime.UnlockOSThread()
		})
	}
	done.Wait()
	return limit(unix.RLIMIT_NPROC, 1)()
}

// fewDescriptors leaves room for one more descriptor.
func fewDescriptors() error {
	next, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	unix.Close(next)
	return limit(unix.RLIMIT_NOFILE, uint64(next)+1)()
}

func mount(source, target, kind string, flags uintptr, options ...string) error {
	err := unix.Mount(source, target, kind, flags, strings.Join(options, ","))
	if err != nil {
		err = &os.PathError{Op: "mount", Path: target, Err: err}
	}
	return err
}

// bind mounts a file or directory over another, with more flags.
func bind(source, target string, more uintptr) error {
	if err := mount(source, target, "", unix.MS_BIND|unix.MS_REC); err != nil || more == 0 {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil {
		return err
	}
	locked := uintptr(st.Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	return mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|locked|more)
}

// hidepid mounts a /proc in which the files of others are hidden.
func hidepid() error { return mount("proc", "/proc", "proc", 0, "hidepid=2") }

// jail makes a directory with a /proc for a chroot.
func jail() error {
	if err := mount("none", "/tmp", "tmpfs", 0); err != nil {
		return err
	}
	if err := os.MkdirAll("/tmp/jail/proc", 0o755); err != nil {
		return err
	}
	return bind("/proc", "/tmp/jail/proc", 0)
}

// Functions that are refused.

// withStack calls f with a stack without interfaces.
func withStack(f func(s *vdestack.Stack) error) error {
	s, err := vdestack.Open("")
	if err != nil {
		return err
	}
	defer s.Close()
	return f(s)
}

// openOnly opens a stack, where there is no program to use it.
func openOnly() error { return withStack(func(*vdestack.Stack) error { return nil }) }

func openIsolated() error {
	return testenv.Closing(vdestack.New(context.Background(), vdestack.Config{Isolated: true}))
}

// openStack opens a stack without interfaces, and uses it.
func openStack() error {
	return withStack(func(s *vdestack.Stack) error {
		if err := testenv.Closing(s.Listen("tcp", "127.0.0.1:80")); err != nil {
			return err
		}
		ip, err := exec.LookPath("/sbin/ip")
		if err != nil {
			return err
		}
		// It needs a capability over the stack.
		text, err := s.Command(context.Background(), ip, "link", "set", "lo", "mtu", "1400").CombinedOutput()
		if len(text) > 0 {
			err = fmt.Errorf("%w: %s", err, text)
		}
		return err
	})
}

// interfaceUp opens a stack with an interface that must be a TAP, and one with a TUN. One of
// any kind opens without the device.
func interfaceUp() error {
	if err := testenv.Closing(vdestack.Open("null://", "10.0.0.1/24")); err != nil {
		return err
	}
	tap := testenv.Closing(vdestack.New(context.Background(), vdestack.Config{Interfaces: []vdestack.Interface{{VNL: "null://", Kind: stack.KindTAP}}}))
	tun := withStack(func(s *vdestack.Stack) error { return testenv.Closing(s.TUN(vdestack.TUNConfig{})) })
	reason := func(err error) string {
		if e, ok := errors.AsType[*vdestack.RefusedError](err); ok {
			return e.Reason
		}
		return ""
	}
	if reason(tap) != reason(tun) || (tap == nil) != (tun == nil) {
		return fmt.Errorf("as TAP: %v; as TUN: %v", tap, tun)
	}
	return tap
}

// twoStacks makes a socket in each of two stacks. The helper is in at most one of them,
// and in either, because the second may have been prepared.
func twoStacks() error {
	return inBoth(func(s *vdestack.Stack) error { return testenv.Closing(s.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)) })
}

// twoForwarding does the same with a setting.
func twoForwarding() error { return inBoth(setForwarding) }

func inBoth(f func(s *vdestack.Stack) error) error {
	return withStack(func(a *vdestack.Stack) error {
		return withStack(func(b *vdestack.Stack) error { return cmp.Or(f(a), f(b)) })
	})
}

// commandWithFiles runs a command that needs a mount namespace.
func commandWithFiles() error {
	return withStack(func(s *vdestack.Stack) error {
		c := s.Command(context.Background(), "/bin/true")
		c.Binds = []vdestack.Bind{{From: "/dev/null", To: "/etc/passwd"}}
		return c.Run()
	})
}

// forwarding sets a setting of a stack.
func forwarding() error { return withStack(setForwarding) }

func setForwarding(s *vdestack.Stack) error { return s.Sysctl("net.ipv4.ip_forward", "1") }

// routing makes a connection to ask the stack by netlink.
func routing() error {
	return withStack(func(s *vdestack.Stack) error { return testenv.Closing(s.RTNL()) })
}

// joinParent asks for the namespace of the test, which belongs to another user, or to the
// same user in a user namespace above.
func joinParent() error {
	return testenv.Closing(vdestack.New(context.Background(), vdestack.Config{NetNS: fmt.Sprintf("/proc/%d/ns/net", os.Getppid())}))
}

var held []*vdestack.Stack

// holdStacks keeps stacks open.
func holdStacks(n int) error {
	for range n {
		s, err := vdestack.Open("")
		if err != nil {
			return err
		}
		held = append(held, s)
	}
	return nil
}

func closeOne() error { return held[0].Close() }
