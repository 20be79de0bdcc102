package interop

import (
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestEchoExample is a client of our server in a namespace of Debian's vdens.
func TestEchoExample(t *testing.T) {
	testenv.Long(t)
	exe := testenv.Build(t, root, "echo_example")
	for config, server := range map[string]host{"netlink": {"10.0.0.60", "fc00::1:60"}, "commands": server} {
		t.Run(config, func(t *testing.T) {
			on(t, func(t *testing.T, ours, theirs string) {
				p := start(t, exe, "-config", config, ours)
				p.expect(t, "listening on ")
				s := debian(t, theirs, client)
				ping(t, s, server)
				s.echo(t, server)
				if err := p.end(syscall.SIGTERM); err != nil {
					t.Errorf("the server: %v", err)
				}
			})
		})
	}
}

// TestLibvdestack is a client of a server in C on libvdestack.
func TestLibvdestack(t *testing.T) {
	testenv.Long(t)
	exe, ip := cProgram(t, "echo"), testenv.Need(t, "ip", "iproute2")
	on(t, func(t *testing.T, ours, theirs string) {
		p := start(t, exe, theirs, ip, server.prefixes()[0], server.prefixes()[1])
		p.expect(t, "listening")
		echo(t, open(t, ours, client), server)
	})
}

// TestVdens has our vdens and Debian's talk, either being the server.
func TestVdens(t *testing.T) {
	testenv.Long(t)
	exe := testenv.Build(t, root, "vdens")
	on(t, func(t *testing.T, vnl, theirs string) {
		us, them := ours(t, exe, vnl, client), debian(t, theirs, server)
		ping(t, us, server)
		ping(t, them, client)
		them.serveEcho(t)
		us.echo(t, server)
		us.serveEcho(t)
		them.echo(t, client)

		io.WriteString(us.stdin, "exit 7\n")
		var status *exec.ExitError
		if err := us.end(0); !errors.As(err, &status) || status.ExitCode() != 7 {
			t.Errorf("our vdens ended with %v, want status 7, that of the shell", err)
		}
	})
}

// TestSwitchStacks has two stacks of the process, a client stack and Debian's vdens on one
// switch.
func TestSwitchStacks(t *testing.T) {
	testenv.Long(t)
	noProcesses(t)
	dir := filepath.Join(testenv.ShortDir(t), "sw")
	third := host{"10.0.0.3", "fc00::1:3"}
	a, b := open(t, "switch://"+dir, server), open(t, "switch://"+dir, client)
	c := open(t, dir, third)
	for _, s := range []*vdestack.Stack{a, b, c} {
		serveEcho(t, s)
	}
	echo(t, a, client)
	echo(t, b, third)
	echo(t, c, server)
	them := debian(t, dir, host{"10.0.0.4", "fc00::1:4"})
	for _, h := range []host{server, client, third} {
		ping(t, them, h)
		them.echo(t, h)
	}
}

// TestSwitchChain joins a switch of ours and Debian's with vde_plug, and has a
// stack on the one and vdens on the other.
func TestSwitchChain(t *testing.T) {
	noProcesses(t)
	dir := filepath.Join(testenv.ShortDir(t), "sw")
	s := open(t, "switch://"+dir, server)
	serveEcho(t, s)
	classic := vdeSwitch(t)
	start(t, testenv.Need(t, "vde_plug", "vdeplug"), "vde://"+dir, classic)
	them := debian(t, classic, client)
	ping(t, them, server)
	them.echo(t, server)
	them.serveEcho(t)
	echo(t, s, client)
}
