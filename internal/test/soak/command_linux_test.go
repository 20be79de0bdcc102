package soak

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/vdestack/vdestack"
	"golang.org/x/sys/unix"
)

// doExit runs commands that end at once, with success or not.
func (t *task) doExit(m *member) error {
	switch t.rng.IntN(6) {
	case 0:
		return m.st.Command(t.ctx, "true").Run()
	case 1:
		return m.st.Run(t.ctx, "true 'a b'; true")
	case 2:
		return t.bind(m)
	case 3:
		err := m.st.Command(t.ctx, "no-such-command").Run()
		if errors.Is(err, exec.ErrNotFound) {
			return nil
		}
		return fmt.Errorf("a missing command: %w", err)
	case 4:
		want := fmt.Sprint(t.rng.Uint64())
		out, err := m.st.Command(t.ctx, "sh", "-c", "echo "+want+" >&2; echo "+want).CombinedOutput()
		if err == nil && string(out) != want+"\n"+want+"\n" {
			err = fmt.Errorf("got %q, want %q twice: %w", out, want, errCorrupt)
		}
		return err
	}
	want := t.rng.IntN(256)
	err := m.st.Command(t.ctx, "sh", "-c", fmt.Sprintf("exit %d", want)).Run()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if want == 0 && err == nil || ok && want != 0 && exit.ExitCode() == want {
		return nil
	}
	return fmt.Errorf("exit %d: %w", want, err)
}

// bind runs a command that sees another file in the place of one.
func (t *task) bind(m *member) error {
	f, err := os.CreateTemp(t.dir, "bind")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	want := fmt.Sprint(t.rng.Uint64())
	_, err = f.WriteString(want)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	cmd := m.st.Command(t.ctx, "cat", "/etc/passwd")
	cmd.Binds = []vdestack.Bind{{From: f.Name(), To: "/etc/passwd"}}
	out, err := cmd.Output()
	if err == nil && string(out) != want {
		err = fmt.Errorf("the command sees %q, want %q: %w", out, want, errCorrupt)
	}
	return err
}

// doCat moves a payload through cat.
func (t *task) doCat(m *member) error {
	cmd := m.st.Command(t.ctx, "cat")
	size := randomSize(t.rng, maxPayload)
	if t.chance(2) {
		want := t.payload(size)
		cmd.Stdin = bytes.NewReader(want)
		out, err := cmd.Output()
		if err == nil && !bytes.Equal(out, want) {
			err = fmt.Errorf("cat turned %d bytes into %d: %w", len(want), len(out), errCorrupt)
		}
		return err
	}
	in, out, err := startPiped(cmd)
	if err != nil {
		return err
	}
	sent := make(chan error, 1)
	rng := t.soak.rand(t.rng.Uint64())
	go func() {
		defer in.Close()
		sent <- t.sendPayload(in, rng, size)
	}()
	err = receivePayload(out)
	io.Copy(io.Discard, out) // to the end of the command
	return errors.Join(err, <-sent, cmd.Wait())
}

// startPiped starts a command with pipes.
func startPiped(cmd *vdestack.Cmd) (in io.WriteCloser, out io.Reader, err error) {
	if in, err = cmd.StdinPipe(); err != nil {
		return nil, nil, err
	}
	if out, err = cmd.StdoutPipe(); err != nil {
		return nil, nil, err
	}
	return in, out, cmd.Start()
}

// doSurroundings checks from outside that a running command is in the namespace of its
// stack and has only its own descriptors.
func (t *task) doSurroundings(m *member) error {
	cmd := m.st.Command(t.ctx, "cat")
	in, _, err := startPiped(cmd)
	if err != nil {
		return err
	}
	dir := fmt.Sprintf("/proc/%d", cmd.Process.Pid)
	space, nerr := os.Readlink(dir + "/ns/net")
	files := links(dir + "/fd")
	in.Close()
	if err := cmd.Wait(); err != nil {
		return err
	}
	switch {
	case nerr != nil:
		return nerr
	case space != m.space:
		return fmt.Errorf("the command is in the namespace %s, not in %s", space, m.space)
	}
	for fd, target := range files {
		// The program may have opened files by now.
		isFile := strings.HasPrefix(target, "/") && !strings.HasPrefix(target, "/dev/")
		if n, _ := strconv.Atoi(fd); n > 2 && !isFile && !t.inherited[n] {
			return fmt.Errorf("the command has the descriptor %s, %s", fd, target)
		}
	}
	return nil
}

// doCancel ends a command that sleeps, and its children, by its context.
func (t *task) doCancel(m *member) error {
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	script := []string{"sleep 1000", "sleep 1000 & wait", "exec sleep 1000", "while :; do :; done"}
	cmd := m.st.Command(ctx, "sh", "-c", script[t.rng.IntN(len(script))])
	wait := time.Duration(t.rng.IntN(30)) * time.Millisecond
	if t.chance(2) {
		defer time.AfterFunc(wait, cancel).Stop()
	} else if wait > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, wait)
		defer stop()
		cmd = m.st.Command(ctx, cmd.Args[0], cmd.Args[1:]...)
	} else {
		cancel()
	}
	err := cmd.Run()
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return fmt.Errorf("cancelled: %w", err)
}

// doKillCommand kills a command or its whole group, as a crash does, and starts it again.
func (t *task) doKillCommand(m *member) error {
	for range 1 + t.rng.IntN(3) {
		script := []string{"exec cat", "cat", "sleep 1000 & cat"}
		cmd := m.st.Command(t.ctx, "sh", "-c", "echo; "+script[t.rng.IntN(len(script))])
		in, out, err := startPiped(cmd)
		if err != nil {
			return err
		}
		started := t.chance(2)
		if started {
			_, err = io.ReadFull(out, make([]byte, 1))
		}
		if t.chance(2) {
			cmd.Process.Kill()
		} else {
			unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		}
		in.Close() // otherwise cat waits as an orphan
		exit, ok := errors.AsType[*exec.ExitError](cmd.Wait())
		if err != nil {
			return err
		}
		if !ok || !killed(exit) {
			return fmt.Errorf("a command that was killed: %w", errors.Join(exit, errCorrupt))
		}
	}
	return nil
}

// doSocket makes sockets of all kinds.
func (t *task) doSocket(m *member) error {
	kinds := [][3]int{
		{unix.AF_INET, unix.SOCK_STREAM, 0},
		{unix.AF_INET6, unix.SOCK_DGRAM, 0},
		{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP},
		{unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6},
		{unix.AF_PACKET, unix.SOCK_RAW, 0},
		{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE},
		{unix.AF_UNIX, unix.SOCK_SEQPACKET, 0},
	}
	for range 1 + t.rng.IntN(20) {
		k := kinds[t.rng.IntN(len(kinds))]
		f, err := m.st.Socket(k[0], k[1]|unix.SOCK_NONBLOCK*t.rng.IntN(2), k[2])
		if err != nil {
			return fmt.Errorf("socket %v: %w", k, err)
		}
		if err := m.inside(f); err != nil {
			f.Close()
			return fmt.Errorf("socket %v: %w", k, err)
		}
		if !t.chance(10) { // else the garbage collector closes it
			f.Close()
		}
	}
	return nil
}
