//go:build amd64 || arm64

package netns

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// coverFlags are those of file systems of commands that have no programs.
const coverFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// addMounts gives the child a mount namespace with its own files. It comes after the
// change of the working directory, which moves to the new namespace with the child: a
// descriptor would still lead to a directory of the old one.
func (p *plan) addMounts(e *Exec) error {
	if len(e.Mounts) == 0 && !e.Sysfs && !e.SysAdmin {
		return nil
	}
	p.mounts = make(map[int]Mount)
	p.add("unshare", unix.SYS_UNSHARE, unix.CLONE_NEWNS)
	// Mounts must not propagate to the old namespace.
	p.mount("mount", "none", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if e.Sysfs {
		e.SysfsErr = p.addSysfs(p.temp)
	}
	files, err := p.addOwnFiles(e.Mounts)
	if err != nil {
		return err
	}
	for _, m := range e.Mounts {
		for _, path := range []string{m.From, m.To} {
			if path == "" && m.To != "" {
				continue
			}
			if !filepath.IsAbs(path) {
				return fmt.Errorf("bind %s over %s: path %q is not absolute", m.From, m.To, path)
			}
			if strings.ContainsRune(path, 0) {
				return fmt.Errorf("bind: path %q has a zero byte", path)
			}
		}
		if m.Make {
			p.add("mknodat", unix.SYS_MKNODAT, uintptr(cwd), p.text(m.To), unix.S_IFREG|0o644, 0)
		}
		p.mounts[len(p.calls)] = m
		switch {
		case m.File != nil:
			p.mount("mount", files[m.File], m.To, "", unix.MS_BIND, "")
		case m.From == "":
			p.mount("mount", "none", m.To, "tmpfs", coverFlags, "mode=755,size=64k")
		default:
			p.mount("mount", m.From, m.To, "", unix.MS_BIND|unix.MS_REC, "")
		}
	}
	if p.temp != "" {
		// The file system of the files, and what is left of sysfs. A seccomp filter that
		// allows mount may not allow this: then Start removes the directory.
		p.add("", unix.SYS_UMOUNT2, p.text(p.temp), unix.MNT_DETACH)
		p.add("", unix.SYS_UMOUNT2, p.text(p.temp), unix.MNT_DETACH)
		p.add("", unix.SYS_UNLINKAT, uintptr(cwd), p.text(p.temp), unix.AT_REMOVEDIR)
	}
	return nil
}

// cwd is a variable because no constant below 0 becomes a uintptr.
var cwd = unix.AT_FDCWD

// needsTemp reports whether there are mounts to prepare.
func (e *Exec) needsTemp() bool {
	for _, m := range e.Mounts {
		if m.File != nil {
			return true
		}
	}
	return e.Sysfs
}

// makeTemp makes an empty directory. The child mounts over it, and removes it before it
// executes the program, so that it is gone even if the process is killed then.
func (p *plan) makeTemp() (remove func(), err error) {
	temp, err := filepath.Abs(os.TempDir())
	if err == nil {
		p.temp, err = os.MkdirTemp(temp, "vdestack-mounts-")
	}
	if err != nil {
		return nil, fmt.Errorf("a directory to prepare its mounts: %w (TMPDIR names another place)", err)
	}
	return func() { os.Remove(p.temp) }, nil
}

// addOwnFiles has the child make the files that mounts have, and returns their paths. They are
// in a file system of the child's own, where they stay although no path leads there any more:
// the kernel mounts nothing over a file that was removed, and the command may want to, or a
// stack in it.
//
// Those to keep come through a socket. Their numbers in the child are known because 0 is free:
// the lowest is taken.
func (p *plan) addOwnFiles(mounts []Mount) (paths map[*File]string, err error) {
	paths = make(map[*File]string)
	var files []*File
	for _, m := range mounts {
		if f := m.File; f != nil && paths[f] == "" {
			paths[f] = filepath.Join(p.temp, strconv.Itoa(len(files)))
			files = append(files, f)
		}
	}
	if len(files) == 0 {
		return paths, nil
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, Limited(os.NewSyscallError("socketpair", err))
	}
	for i, fd := range pair {
		if fd == 0 { // the program has closed it
			if pair[i], err = unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 1); err != nil {
				unix.Close(pair[0])
				unix.Close(pair[1])
				return nil, Limited(os.NewSyscallError("fcntl", err))
			}
			unix.Close(0)
		}
	}
	p.passed = pair[1]
	p.files = append(p.files, os.NewFile(uintptr(pair[0]), "files"))
	socket, spare := uintptr(pair[0]), uintptr(pair[1]) // the child does not need the second

	p.mount("mount", "none", p.temp, "tmpfs", coverFlags, "mode=755")
	flags, _ := unix.FcntlInt(0, unix.F_GETFD, 0)
	p.add("", unix.SYS_CLOSE, spare)
	p.add("", unix.SYS_DUP3, 0, spare, unix.O_CLOEXEC)
	p.add("", unix.SYS_CLOSE, 0)
	for _, f := range files {
		p.add("openat", unix.SYS_OPENAT, uintptr(cwd), p.text(paths[f]), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644)
		p.add("fchmod", unix.SYS_FCHMOD, 0, 0o644) // whatever the umask is
		if n := uintptr(len(f.Text)); n > 0 {
			p.add("fallocate", unix.SYS_FALLOCATE, 0, 0, 0, n) // so that all is written
			p.add("write", unix.SYS_WRITE, 0, p.text(f.Text), n)
		}
		if f.Keep {
			p.kept = append(p.kept, f)
			p.add("sendmsg", unix.SYS_SENDMSG, socket, p.rights(0), 0)
		}
		p.add("close", unix.SYS_CLOSE, 0)
	}
	restored := uintptr(0)
	if flags&unix.FD_CLOEXEC != 0 {
		restored = unix.O_CLOEXEC
	}
	p.add("", unix.SYS_DUP3, spare, 0, restored) // it fails if 0 was closed
	return paths, nil
}

// rights returns the address of a message that passes a descriptor on.
func (p *plan) rights(fd int) uintptr {
	data, control := []byte{0}, unix.UnixRights(fd)
	iov := &unix.Iovec{Base: &data[0]}
	iov.SetLen(len(data))
	m := &unix.Msghdr{Iov: iov, Control: &control[0]}
	m.SetIovlen(1)
	m.SetControllen(len(control))
	return pointer(p, m)
}

// takeFiles takes the files that the child has passed on. What the start took is closed first,
// so that there are descriptors for them.
func (p *plan) takeFiles() error {
	if p.passed < 0 {
		return nil
	}
	passed := p.passed
	p.passed = -1
	defer unix.Close(passed)
	p.close()
	for i, f := range p.kept {
		fd, err := takeRight(passed)
		if err != nil {
			for _, f := range p.kept[:i] {
				f.Opened.Close()
				f.Opened = nil
			}
			return err
		}
		f.Opened = os.NewFile(uintptr(fd), "file of a command")
	}
	return nil
}

// takeRight takes one descriptor from a socket.
func takeRight(socket int) (fd int, err error) {
	var data [1]byte
	control := make([]byte, unix.CmsgSpace(4))
	for {
		_, n, flags, _, err := unix.Recvmsg(socket, data[:], control, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, os.NewSyscallError("recvmsg", err)
		}
		if flags&unix.MSG_CTRUNC != 0 {
			return -1, os.NewSyscallError("recvmsg", unix.EMFILE) // the kernel tells no other reason
		}
		messages, err := unix.ParseSocketControlMessage(control[:n])
		if err != nil || len(messages) != 1 {
			return -1, os.NewSyscallError("recvmsg", unix.EBADMSG)
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(fds) != 1 {
			return -1, os.NewSyscallError("recvmsg", unix.EBADMSG)
		}
		return fds[0], nil
	}
}
