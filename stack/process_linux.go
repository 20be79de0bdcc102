//go:build amd64 || arm64

package stack

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/vdestack/vdestack/internal/netns"
	"golang.org/x/sys/unix"
)

// killWait bounds how long Close waits for a command that it killed.
const killWait = time.Second

// A process is a command that was started and not yet waited for: until then, the
// numbers of the process and its group are not used again.
type process struct {
	s     *Stack
	exec  *netns.Exec
	names *nameFiles // nil without Cmd.Names
	pid   int
	group bool
}

// start executes a command in the stack.
func (s *Stack) start(ctx context.Context, c *Cmd, files []*os.File) (_ *process, err error) {
	if s.isClosed() {
		return nil, s.errClosed()
	}
	e := &netns.Exec{Path: c.Path, Args: c.argv(), Env: c.environ(), Files: files, Setpgid: !c.KeepGroup, SysAdmin: c.SysAdmin, Hostname: c.Hostname}
	for _, b := range c.Binds {
		e.Mounts = append(e.Mounts, netns.Mount{From: b.From, To: b.To})
	}
	var names *nameFiles
	if c.Names {
		if names, err = s.mountNames(e); err != nil {
			return nil, s.wrap(fmt.Errorf("starting %s: %w", c.Path, err))
		}
	}
	if c.Dir != "" {
		fd, err := unix.Open(c.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, &os.PathError{Op: "chdir", Path: c.Dir, Err: err}
		}
		e.Dir = os.NewFile(uintptr(fd), c.Dir)
		defer e.Dir.Close()
	}
	pid, err := s.ns.Start(ctx, e)
	if err != nil {
		return nil, s.wrap(err)
	}
	if names != nil {
		s.named.add(s, names)
	}
	if e.SysfsErr != nil {
		s.sysfs.Do(func() {
			s.log.Warn("commands find the machine's interfaces in /sys/class/net", "error", e.SysfsErr)
		})
	}
	p := &process{s: s, exec: e, names: names, pid: pid, group: e.Setpgid}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commands[p] = struct{}{}
	if s.closed {
		p.signal(unix.SIGKILL)
	}
	return p, nil
}

// kill ends the command and its group, unless it has ended already.
func (p *process) kill() {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if _, ok := p.s.commands[p]; ok {
		p.signal(unix.SIGKILL)
	}
}

// signal is called with the stack's mutex held, which keeps the number valid.
func (p *process) signal(sig unix.Signal) {
	pid := p.pid
	if p.group {
		pid = -pid
	}
	if unix.Kill(pid, sig) == unix.EPERM { // the program has become another user
		p.s.ns.Kill(pid, sig)
	}
}

// wait waits until the command has ended, and forgets it; then reap takes its status,
// and its number can be used again.
func (p *process) wait(reap func() error) error {
	for {
		if err := unix.Waitid(unix.P_PID, p.pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != unix.EINTR {
			break
		}
	}
	p.s.ns.Refresh() // it may have changed settings
	p.s.named.remove(p.names)
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	delete(p.s.commands, p)
	p.exec.Ended()
	err := reap()
	if p.group && unix.Kill(-p.pid, 0) == nil {
		p.s.orphans = append(p.s.orphans, p.pid)
	}
	return err
}

// killCommands ends all commands of the stack and what they left running in their process
// groups, and waits for the commands. It is called once, when no more can start.
func (s *Stack) killCommands() {
	s.mu.Lock()
	var fds []int
	for p := range s.commands {
		if fd, err := unix.PidfdOpen(p.pid, 0); err == nil {
			fds = append(fds, fd)
		}
		p.signal(unix.SIGKILL)
	}
	orphans := s.orphans
	s.mu.Unlock()
	if len(orphans) > 0 {
		s.killOrphans(orphans)
	}
	end := time.Now().Add(killWait)
	for _, fd := range fds {
		for time.Now().Before(end) {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Until(end).Milliseconds())+1)
			if n == 1 || err != nil && err != unix.EINTR {
				break
			}
		}
		unix.Close(fd)
	}
}

// killOrphans kills the members of process groups whose leader was waited for. The
// number of such a group may have been used again: only processes in the stack's
// namespace are killed.
func (s *Stack) killOrphans(groups []int) {
	f, err := s.ns.File()
	if err != nil {
		return
	}
	defer f.Close()
	ours, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
	if err != nil {
		return
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, d := range procs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		if link, err := os.Readlink("/proc/" + d.Name() + "/ns/net"); err == nil && link == ours {
			stat, _ := os.ReadFile("/proc/" + d.Name() + "/stat")
			if slices.Contains(groups, groupIn(stat)) {
				unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			}
		}
		unix.Close(fd)
	}
}

// groupIn reads the process group from proc_pid_stat(5): the third field after the
// name, which is in parentheses and may contain some. It is -1 if there is none.
func groupIn(text []byte) int {
	f := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(f) < 3 {
		return -1
	}
	group, err := strconv.Atoi(string(f[2]))
	if err != nil {
		return -1
	}
	return group
}
