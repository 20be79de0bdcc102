//go:build amd64 || arm64

package lifecycle

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

func init() { register(orphan, resident) }

// nobody is the user that root's programs become.
const nobody = 65534

// drops are the ways in which a program gives up rights.
var drops = map[string]func() error{
	"nothing": func() error { return nil },
	"setuid":  func() error { return setUser(nobody) },
	"seteuid": func() error { return syscall.Setresuid(-1, nobody, -1) },
	"setgid":  func() error { return syscall.Setresgid(nobody, nobody, nobody) },
	"chroot":  func() error { return errors.Join(syscall.Chroot("/proc/self/fdinfo"), syscall.Chdir("/")) },
	"capabilities": func() error {
		// In a program with cgo, such as with the race detector, this is not possible.
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none[0])), 0)
		if errno == unix.ENOTSUP || errno == 0 {
			return nil
		}
		return errno
	},
}

// setUser gives up root for a user, and its group, for good.
func setUser(user int) error {
	return errors.Join(syscall.Setgroups(nil), syscall.Setgid(user), syscall.Setuid(user))
}

// resident is what a program executes at its end.
func resident() {
	fmt.Println("resident")
	io.Copy(io.Discard, os.Stdin)
}

// ends are how a program may end.
var ends = map[string]func(){
	"exit": func() { os.Exit(0) },
	"kill": func() { unix.Kill(os.Getpid(), unix.SIGKILL); select {} },
	"abort": func() { // with a core dump if that is allowed
		setLimit(unix.RLIMIT_CORE, 16<<20)
		debug.SetTraceback("crash")
		null, _ := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		unix.Dup2(int(null.Fd()), 2)
		panic("as wanted")
	},
	"exec": func() {
		check(syscall.Exec("/proc/self/exe", []string{"resident"}, append(os.Environ(), testenv.ProgramVariable+"=resident")))
	},
}

// orphan has helpers, a listener of the host and the end of a pipe, gives up rights and
// ends.
func orphan() {
	drop, end, closed := drops[os.Args[1]], ends[os.Args[2]], os.Args[3] == "closed"
	unix.CloseOnExec(3)
	ln := must(net.Listen("tcp", "127.0.0.1:0"))
	s := newStack(on("mem://orphan", "10.0.0.1/24"))
	joined := newStack(vdestack.Config{NetNS: os.Args[4]}) // this takes a helper of its own
	pids := children()
	if len(pids) != 2 {
		fail("children %v, want two helpers", pids)
	}
	for _, pid := range pids {
		fmt.Print(pid, " ")
	}
	check(drop())
	if closed {
		check(errors.Join(s.Close(), joined.Close()))
	}
	fmt.Println(ln.Addr())
	os.Stdin.Read(make([]byte, 1)) // until the test is ready
	end()
}

// TestOrphans checks that nothing of a program is left when it ends, whatever rights it
// has given up: no helper, port of the host or end of a pipe.
func TestOrphans(t *testing.T) {
	testenv.Long(t)
	path, _ := lent(t)
	for drop := range drops {
		if drop != "nothing" && os.Geteuid() != 0 {
			continue // an ordinary user has nothing to give up
		}
		for end := range ends {
			if drop == "chroot" && end == "exec" {
				continue // there are no programs
			}
			for _, state := range []string{"open", "closed"} {
				t.Run(drop+"/"+end+"/"+state, func(t *testing.T) { testOrphan(t, drop, end, state, path) })
			}
		}
	}
}

func testOrphan(t *testing.T, args ...string) {
	cmd := program(t, "orphan", args...)
	r, w, err := os.Pipe()
	testenv.Check(t, err)
	defer r.Close()
	cmd.ExtraFiles = []*os.File{w}
	cmd.Dir = t.TempDir() // for the dump
	out, in := launch(t, cmd)
	w.Close()
	fields := strings.Fields(readLine(t, out))
	addr := fields[len(fields)-1]
	var helpers []int
	for _, field := range fields[:len(fields)-1] {
		pid := testenv.Must(strconv.Atoi(field))(t)
		fd, err := unix.PidfdOpen(pid, 0)
		if err == unix.ESRCH {
			continue // the helper of a closed stack
		}
		testenv.Check(t, err)
		defer unix.Close(fd)
		helpers = append(helpers, fd)
	}
	io.WriteString(in, "\n")
	if args[1] == "exec" {
		readLine(t, out)
	} else {
		start := time.Now()
		err := cmd.Wait()
		exit, ok := errors.AsType[*exec.ExitError](err)
		if err != nil && !ok || args[1] == "abort" && (!ok || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGABRT) {
			t.Errorf("the program ended with %v", err)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("the end took %v", took)
		}
	}
	r.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the pipe: %v, want its end", err)
	}
	for _, fd := range helpers {
		if !ended(fd, 10*time.Second) {
			t.Error("a helper lives on")
			unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		}
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Errorf("the port: %v", err)
	} else {
		ln.Close()
	}
}
