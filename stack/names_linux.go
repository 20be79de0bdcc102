//go:build amd64 || arm64

package stack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/vdestack/vdestack/internal/netns"
)

// hostServices are the directories with the sockets of the machine's services for host
// names: nscd, which glibc asks before it reads nsswitch.conf, systemd-resolved and
// avahi.
var hostServices = []string{"/run/nscd", "/var/run/nscd", "/run/systemd/resolve", "/run/avahi-daemon", "/var/run/avahi-daemon"}

// A dnsConfig is the DNS of a stack, and the files of commands with Names.
type dnsConfig struct {
	DNS
	resolvConf, hosts string
	untold            []string  // what the files cannot express
	tell              sync.Once // logs untold
}

// noDNS is the zero DNS, which most stacks have.
var noDNS = newDNSConfig(DNS{})

func newDNSConfig(d DNS) *dnsConfig {
	c := &dnsConfig{DNS: d}
	var more []string
	c.resolvConf, c.untold = d.resolvConf()
	c.hosts, more = d.hosts()
	c.untold = append(c.untold, more...)
	return c
}

// setDNS sets the DNS of the stack, which was checked.
func (s *Stack) setDNS(d DNS) {
	n := noDNS
	if !d.isZero() {
		n = newDNSConfig(d.clone())
	}
	s.named.set(s, n)
}

// SetDNS changes the DNS of the stack, for package vdestack and for commands with
// Cmd.Names, those that run included.
func (s *Stack) SetDNS(d DNS) error {
	s = s.orNone()
	if s.isClosed() {
		return s.errClosed()
	}
	if err := d.check(); err != nil {
		return s.wrap(err)
	}
	s.setDNS(d)
	return nil
}

// DNS returns a copy of the DNS of the stack.
func (s *Stack) DNS() DNS { return s.orNone().dns.Load().DNS.clone() }

// tellMissing logs once what commands do not find.
func (s *Stack) tellMissing(n *dnsConfig) {
	n.tell.Do(func() {
		if len(n.untold) > 0 {
			s.log.Warn("commands do not find all names: resolv.conf has no ports, and hosts no zones and nothing to hide names with", "missing", strings.Join(n.untold, ", "))
		}
	})
}

// namedCommands are the commands with Names that run.
type namedCommands struct {
	mu    sync.Mutex // guards files, and is held while the DNS is set and files are written
	files map[*nameFiles]struct{}
}

// set sets the DNS of the stack, and tells the commands.
func (c *namedCommands) set(s *Stack, n *dnsConfig) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.dns.Store(n)
	for f := range c.files {
		f.update(s, n)
	}
}

// add has the files of a command follow the DNS of the stack from now on.
func (c *namedCommands) add(s *Stack, f *nameFiles) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.files == nil {
		c.files = make(map[*nameFiles]struct{})
	}
	c.files[f] = struct{}{}
	if n := s.dns.Load(); n != f.has {
		f.update(s, n)
	}
}

// remove closes the files of a command, which may be nil.
func (c *namedCommands) remove(f *nameFiles) {
	if f == nil {
		return
	}
	c.mu.Lock()
	delete(c.files, f)
	c.mu.Unlock()
	f.resolvConf.close()
	f.hosts.close()
}

// nameFiles are the files of a command that follow the DNS of its stack.
type nameFiles struct {
	resolvConf, hosts *nameFile // nil: the command has another one
	has               *dnsConfig
}

func (f *nameFiles) update(s *Stack, n *dnsConfig) {
	f.has = n
	s.tellMissing(n)
	if err := errors.Join(f.resolvConf.rewrite(n.resolvConf), f.hosts.rewrite(n.hosts)); err != nil {
		s.log.Warn("a command does not find the names that the stack has now", "error", err)
	}
}

// A nameFile is a file that a command has.
type nameFile netns.File

// rewrite replaces the text in place, for mounts stay with the old file. It is one write,
// with blank lines over what is left of the old text, so that who reads before the end of the
// file is cut off finds nothing of that.
func (f *nameFile) rewrite(text string) error {
	if f == nil || f.Text == text {
		return nil
	}
	padding := strings.Repeat("\n", max(0, len(f.Text)-len(text)))
	if _, err := f.Opened.WriteAt([]byte(text+padding), 0); err != nil {
		return err
	}
	f.Text = text
	return f.Opened.Truncate(int64(len(text)))
}

func (f *nameFile) close() {
	if f != nil {
		f.Opened.Close()
	}
}

// mountNames adds the mounts of Cmd.Names to a command, which has its Binds already. What it
// returns follows the DNS after named.add, and is closed by named.remove.
func (s *Stack) mountNames(e *netns.Exec) (*nameFiles, error) {
	n := s.dns.Load()
	s.tellMissing(n)
	follow := &nameFiles{has: n}
	m := &nameMounts{e: e}
	for _, b := range e.Mounts {
		if to, err := filepath.EvalSymlinks(b.To); err == nil {
			m.taken = append(m.taken, to)
		}
	}
	e.Sysfs = true
	nothing := new(netns.File)
	for _, service := range hostServices {
		if err := m.hide(service, nothing); err != nil {
			return nil, err
		}
	}
	nsswitch, err := os.ReadFile("/etc/nsswitch.conf")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, f := range []struct {
		path, text string
		needed     bool
		follow     **nameFile
	}{
		{"/etc/resolv.conf", n.resolvConf, len(n.Servers)+len(n.Search) > 0, &follow.resolvConf},
		{"/etc/hosts", n.hosts, len(n.Hosts) > 0, &follow.hosts},
		{"/etc/nsswitch.conf", onlyFilesAndDNS(string(nsswitch)), false, nil},
		{"/etc/host.conf", "multi on\n", false, nil}, // all addresses of a name in hosts
	} {
		file := &netns.File{Text: f.text, Keep: f.follow != nil}
		mounted, err := m.replace(f.path, file, f.needed)
		if err != nil {
			return nil, err
		}
		if mounted && file.Keep {
			*f.follow = (*nameFile)(file)
		}
	}
	return follow, nil
}

// nameMounts are the mounts of Cmd.Names.
type nameMounts struct {
	e      *netns.Exec
	taken  []string // what Binds replaces, which has precedence
	hidden []string // directories
}

// hide covers a directory, or the sockets in it if Binds has a file there.
func (m *nameMounts) hide(dir string, nothing *netns.File) error {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil || slices.Contains(m.hidden, dir) || m.isTaken(dir) {
		return nil // the command cannot reach it either
	}
	if !slices.ContainsFunc(m.taken, func(path string) bool { return within(path, dir) }) {
		m.hidden = append(m.hidden, dir)
		m.e.Mounts = append(m.e.Mounts, netns.Mount{To: dir})
		return nil
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range list {
		if path := filepath.Join(dir, f.Name()); f.Type() == fs.ModeSocket && !m.isTaken(path) {
			m.e.Mounts = append(m.e.Mounts, netns.Mount{File: nothing, To: path})
		}
	}
	return nil
}

// replace replaces a file, unless Binds does. If it does not exist, nothing can be mounted over
// it, and programs do not know the servers and hosts of the stack.
func (m *nameMounts) replace(path string, file *netns.File, needed bool) (mounted bool, err error) {
	target, err := filepath.EvalSymlinks(path)
	switch {
	case err != nil && needed:
		return false, fmt.Errorf("the command would not find the names of the stack: %w (make %s, an empty file, for the stack's to be mounted over)", err, path)
	case err != nil || m.isTaken(target):
		return false, nil
	}
	// In a directory that is hidden by now, the file has to be made first.
	hidden := slices.Contains(m.hidden, filepath.Dir(target))
	m.e.Mounts = append(m.e.Mounts, netns.Mount{File: file, To: target, Make: hidden})
	return true, nil
}

func (m *nameMounts) isTaken(path string) bool {
	return slices.ContainsFunc(m.taken, func(to string) bool { return within(path, to) })
}

// within reports whether path is dir or below.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}
