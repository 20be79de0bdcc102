package stack_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vdeproto/vdetest"
	"golang.org/x/sys/unix"
)

// A program is one of those that networks are made of. It can be started again.
type program struct {
	*plugtest.Process
	start func()
}

// newProgram starts a program, and waits until there is a switch in dir, which the
// program makes or is on.
func newProgram(t *testing.T, dir string, command func() *exec.Cmd) *program {
	t.Helper()
	p := &program{}
	p.start = func() {
		p.Process = vdetest.Start(t, dir, command(), func() error {
			return testenv.Closing(net.Dial("unix", filepath.Join(dir, "ctl")))
		}).Process
	}
	p.start()
	return p
}

// hold starts the program again when it has given up.
func (p *program) hold() {
	select {
	case <-p.Ended:
		p.start()
	default:
	}
}

// startSwitch starts vde_switch.
func startSwitch(t *testing.T, dir string) *program {
	t.Helper()
	return newProgram(t, dir, func() *exec.Cmd { return vdetest.Classic(t, dir) })
}

func openLogged(t *testing.T, vnl, addr string) (*Stack, *testenv.Buffer) {
	t.Helper()
	log := &testenv.Buffer{}
	cfg := on(vnl, addr)
	cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
	return made(t, cfg), log
}

// An upload is a TCP stream from 10.0.0.1 to 10.0.0.2.
type upload struct {
	pattern
	t     *testing.T
	ended chan error
	conn  net.Conn
}

func startUpload(t *testing.T, from, to *Stack) *upload {
	t.Helper()
	ln := testenv.Must(to.Listen("tcp", "10.0.0.2:5000"))(t)
	x := &upload{t: t, ended: make(chan error, 2)}
	go func() {
		c, err := ln.Accept()
		ln.Close()
		if err == nil {
			_, err = io.Copy(&x.pattern, c)
			c.Close()
		}
		x.ended <- err
	}()
	x.conn = testenv.Must(from.Dial("tcp", "10.0.0.2:5000"))(t)
	go func() {
		if _, err := io.Copy(x.conn, &x.pattern); err != nil {
			x.ended <- err
		}
		x.conn.(*net.TCPConn).CloseWrite()
	}()
	return x
}

// passes waits until more has passed.
func (x *upload) passes(what string, meanwhile ...func()) {
	x.t.Helper()
	goal := x.received.Load() + 1<<20
	testenv.Eventually(x.t, what, func() bool {
		for _, f := range meanwhile {
			f()
		}
		return x.received.Load() > goal
	})
}

// complete ends the transfer, and looks that all has arrived.
func (x *upload) complete() {
	x.t.Helper()
	x.stop.Store(true)
	select {
	case err := <-x.ended:
		if err != nil || x.received.Load() != x.sent.Load() {
			x.t.Errorf("%d bytes of %d have arrived: %v", x.received.Load(), x.sent.Load(), err)
		}
	case <-time.After(20 * time.Second):
		x.t.Error("the transfer does not end")
	}
	x.conn.Close()
}

// TestReconnect kills what networks are made of under a TCP transfer, in every
// way, and starts it again: the transfer completes.
func TestReconnect(t *testing.T) {
	testenv.Long(t)
	type rig struct {
		from, to string   // networks
		killed   *program // under the transfer
		steady   bool     // the interfaces do not notice
		remove   bool     // it does not start where there is a directory
	}
	plugSwitch := func(t *testing.T, dir string) *program {
		return newProgram(t, dir, func() *exec.Cmd { return vdetest.Plug(t, dir) })
	}
	for _, tt := range []struct {
		name string
		make func(t *testing.T, dir string) rig
	}{
		{"vde_switch", func(t *testing.T, dir string) rig {
			return rig{from: dir, to: dir, killed: startSwitch(t, dir)}
		}},
		{"switch of vde_plug", func(t *testing.T, dir string) rig {
			return rig{from: dir, to: dir, killed: plugSwitch(t, dir), remove: true}
		}},
		{"nested", func(t *testing.T, dir string) rig {
			vnl := "vlan://5{vlan://6/qinq{" + dir + "}}" // vde_switch carries no tags
			return rig{from: vnl, to: vnl, killed: plugSwitch(t, dir), remove: true}
		}},
		{"command of a switch", func(t *testing.T, dir string) rig {
			plug := plugCommand(t, dir)
			return rig{from: "cmd://" + plug, to: "=" + plug, killed: startSwitch(t, dir)}
		}},
		{"peer of ptp", func(t *testing.T, dir string) rig {
			startSwitch(t, dir)
			ptp := "ptp://" + dir + ".ptp"
			plug := newProgram(t, dir, func() *exec.Cmd { return exec.Command(testenv.Need(t, "vde_plug", "vdeplug"), ptp, dir) })
			return rig{from: ptp, to: dir, killed: plug, steady: true}
		}},
	} {
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			t.Run(tt.name+", "+sig.String(), func(t *testing.T) {
				netnstest.NoLeaks(t)
				dir := filepath.Join(testenv.ShortDir(t), "net")
				r := tt.make(t, dir)
				from, log := openLogged(t, r.from, "10.0.0.1/24")
				to, _ := openLogged(t, r.to, "10.0.0.2/24")
				x := startUpload(t, from, to)
				x.passes("the beginning")
				for n := range uint64(2) {
					r.killed.Stop(t, sig)
					// vde_plug sees the end of its switch, or waits for it for ever in
					// recv, as it happens.
					killCommands(t, dir)
					if !r.steady {
						for _, s := range []*Stack{from, to} {
							testenv.Eventually(t, "the end of the network", func() bool { return s.Stats().Interfaces[0].Err != nil || s.Stats().Interfaces[0].Reconnects > n })
						}
					}
					// When it is terminated, vde_plug leaves its directory if a client that
					// comes back has a socket there.
					if r.remove {
						os.RemoveAll(dir)
					}
					r.killed.start()
					// As long as our end of ptp has not seen that its peer is gone,
					// up to 0.2 s, vde_plug finds that there are two already.
					x.passes("the rest", r.killed.hold)
					if r.steady {
						continue
					}
					for _, s := range []*Stack{from, to} {
						st := s.Stats().Interfaces[0]
						if st.Reconnects <= n || st.Err != nil || st.Reconnecting {
							t.Errorf("%+v", st)
						}
					}
				}
				x.complete()
				t.Logf("%d bytes; %s", x.sent.Load(), log)
				text := log.String()
				if gone, back := strings.Index(text, "network is gone, reconnecting"), strings.Index(text, "network is back"); (gone < 0 || back < gone) != r.steady {
					t.Errorf("logged %q", text)
				}
			})
		}
	}
}

// plugCommand is a command that is a plug of Debian's. It leaves its number.
func plugCommand(t *testing.T, dir string) string {
	return fmt.Sprintf("sh -c 'echo $$ >>%s.pids; exec %s %s 2>/dev/null'", dir, testenv.Need(t, "vde_plug", "vdeplug"), dir)
}

// killCommands kills those of plugCommand that are still there.
func killCommands(t *testing.T, dir string) {
	t.Helper()
	text, err := os.ReadFile(dir + ".pids")
	if err != nil {
		return // there are none
	}
	for pid := range strings.FieldsSeq(string(text)) {
		// The number may be that of another process by now.
		if line, _ := os.ReadFile("/proc/" + pid + "/cmdline"); bytes.Contains(line, []byte(dir)) {
			n := testenv.Must(strconv.Atoi(pid))(t)
			syscall.Kill(n, syscall.SIGKILL)
		}
	}
}

// TestReconnectCommand kills the command of a network itself.
func TestReconnectCommand(t *testing.T) {
	testenv.Long(t)
	netnstest.NoLeaks(t)
	dir := filepath.Join(testenv.ShortDir(t), "net")
	sw := startSwitch(t, dir)
	from, _ := openLogged(t, "="+plugCommand(t, dir), "10.0.0.1/24")
	to, _ := openLogged(t, dir, "10.0.0.2/24")
	x := startUpload(t, from, to)
	x.passes("the beginning")
	for n, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, syscall.SIGKILL} {
		text := testenv.Must(os.ReadFile(dir + ".pids"))(t)
		all := strings.Fields(string(text))
		var pid int
		fmt.Sscan(all[len(all)-1], &pid)
		testenv.Check(t, syscall.Kill(pid, sig))
		testenv.Eventually(t, "another command", func() bool { return from.Stats().Interfaces[0].Reconnects == uint64(n)+1 })
		x.passes("the rest")
	}
	x.complete()
	testenv.Check(t, from.Close())
	sw.Stop(t, syscall.SIGTERM)
	noChildren(t)
}

// TestReconnectNever has networks that cannot come back, or are not to.
func TestReconnectNever(t *testing.T) {
	netnstest.NoLeaks(t)
	dir := filepath.Join(testenv.ShortDir(t), "net")
	sw := startSwitch(t, dir)

	// A descriptor is gone with its socket.
	fds := testenv.Must(unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0))(t)
	pair, log := openLogged(t, fmt.Sprintf("seqpacket://%d", fds[0]), "10.0.0.1/24")
	unix.Close(fds[1])
	testenv.Eventually(t, "the end of the socket", func() bool {
		st := pair.Stats().Interfaces[0]
		return st.Err != nil && !st.Reconnecting
	})
	works(t, pair)
	if text := log.String(); !strings.Contains(text, "network is gone") || strings.Contains(text, "reconnecting") {
		t.Errorf("logged %q", text)
	}

	// Whoever does not want it.
	once := openOnce(t, dir, "10.0.0.3/24")
	// Nobody may go there any more, which does not stop root.
	refused, log := openLogged(t, dir, "10.0.0.4/24")
	sw.Stop(t, syscall.SIGTERM)
	for _, s := range []*Stack{once, refused} {
		testenv.Eventually(t, "the end of the switch", func() bool { return s.Stats().Interfaces[0].Err != nil })
	}
	if st := once.Stats().Interfaces[0]; st.Reconnecting {
		t.Errorf("%+v", st)
	}
	if os.Geteuid() != 0 {
		testenv.Check(t, os.Mkdir(dir, 0))
		testenv.Eventually(t, "the end of the attempts", func() bool {
			st := refused.Stats().Interfaces[0]
			return !st.Reconnecting && strings.Contains(fmt.Sprint(st.Err), "permission denied")
		})
		testenv.Check(t, os.Chmod(dir, 0o700))
		os.Remove(dir)
		if text := log.String(); !strings.Contains(text, "permission denied") {
			t.Errorf("logged %q", text)
		}
	}
	works(t, once)
	works(t, refused)

	// The switch is no longer asked by who has given up.
	sw.start()
	last, _ := openLogged(t, dir, "10.0.0.5/24")
	works(t, last)
	if st := once.Stats().Interfaces[0]; st.Err == nil || st.Reconnects != 0 {
		t.Errorf("%+v", st)
	}
}

// TestReconnectClose closes stacks whose networks are gone.
func TestReconnectClose(t *testing.T) {
	netnstest.NoLeaks(t)
	dir := filepath.Join(testenv.ShortDir(t), "net")
	sw := startSwitch(t, dir)
	var stacks []*Stack
	for _, vnl := range []string{dir, "vlan://5{" + dir + "}", "=true", "=sh -c 'exit 1'"} {
		s, _ := openLogged(t, vnl, "10.0.0.1/24")
		stacks = append(stacks, s)
	}
	sw.Kill(t)
	for _, s := range stacks {
		testenv.Eventually(t, "an end", func() bool { return s.Stats().Interfaces[0].Err != nil || s.Stats().Interfaces[0].Reconnects > 0 })
		testenv.Check(t, s.Close())
	}
	noChildren(t)
}
