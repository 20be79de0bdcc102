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
	if d.isZero() {
		s.dns.Store(noDNS)
		return
	}
	s.dns.Store(newDNSConfig(d.clone()))
}

// SetDNS changes the DNS of the stack, for package vdestack and for commands with
// Cmd.Names that start from now on.
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

// mountNames adds the mounts of Cmd.Names to a command, which has its Binds already. The
// command itself removes their files when it runs; remove does so if it did not start.
func (s *Stack) mountNames(e *netns.Exec) (remove func(), err error) {
	n := s.dns.Load()
	n.tell.Do(func() {
		if len(n.untold) > 0 {
			s.log.Warn("commands do not find all names: resolv.conf has no ports, and hosts no zones and nothing to hide names with", "missing", strings.Join(n.untold, ", "))
		}
	})
	temp, err := filepath.Abs(os.TempDir())
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(temp, "vdestack-names-")
	if err != nil {
		return nil, fmt.Errorf("files for the names of the command: %w (TMPDIR names another directory)", err)
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	m := &nameMounts{dir: dir, e: e}
	for _, b := range e.Mounts {
		if to, err := filepath.EvalSymlinks(b.To); err == nil {
			m.taken = append(m.taken, to)
		}
	}
	e.Sysfs = filepath.Join(dir, "sys")
	if err := os.Mkdir(e.Sysfs, 0o700); err != nil {
		return nil, err
	}
	nothing, err := m.write("nothing", "")
	if err != nil {
		return nil, err
	}
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
	}{
		{"/etc/resolv.conf", n.resolvConf, len(n.Servers)+len(n.Search) > 0},
		{"/etc/hosts", n.hosts, len(n.Hosts) > 0},
		{"/etc/nsswitch.conf", onlyFilesAndDNS(string(nsswitch)), false},
		{"/etc/host.conf", "multi on\n", false}, // all addresses of a name in hosts
	} {
		if err := m.replace(f.path, f.text, f.needed); err != nil {
			return nil, err
		}
	}
	e.Temp = append(e.Temp, e.Sysfs, dir)
	return func() { os.RemoveAll(dir) }, nil
}

// nameMounts are the mounts of Cmd.Names.
type nameMounts struct {
	dir    string // for files
	e      *netns.Exec
	taken  []string // what Binds replaces, which has precedence
	hidden []string // directories
}

// write makes a file that the command may read even after it has changed its user.
func (m *nameMounts) write(name, text string) (path string, err error) {
	path = filepath.Join(m.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return "", err
	}
	m.e.Temp = append(m.e.Temp, path)
	return path, os.Chmod(path, 0o644) // whatever the umask is
}

// hide covers a directory, or the sockets in it if Binds has a file there.
func (m *nameMounts) hide(dir, nothing string) error {
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
			m.e.Mounts = append(m.e.Mounts, netns.Mount{From: nothing, To: path})
		}
	}
	return nil
}

// replace replaces a file. If it does not exist, nothing can be mounted over it, and
// programs do not know the servers and hosts of the stack.
func (m *nameMounts) replace(path, text string, needed bool) error {
	target, err := filepath.EvalSymlinks(path)
	switch {
	case err != nil && needed:
		return fmt.Errorf("the command would not find the names of the stack: %w (make %s, an empty file, for the stack's to be mounted over)", err, path)
	case err != nil || m.isTaken(target):
		return nil
	}
	from, err := m.write(filepath.Base(path), text)
	if err != nil {
		return err
	}
	// In a directory that is hidden by now, the file has to be made first.
	hidden := slices.Contains(m.hidden, filepath.Dir(target))
	m.e.Mounts = append(m.e.Mounts, netns.Mount{From: from, To: target, Make: hidden})
	return nil
}

func (m *nameMounts) isTaken(path string) bool {
	return slices.ContainsFunc(m.taken, func(to string) bool { return within(path, to) })
}

// within reports whether path is dir or below.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}
