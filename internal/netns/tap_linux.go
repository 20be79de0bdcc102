//go:build amd64 || arm64

package netns

import (
	"os"

	"golang.org/x/sys/unix"
)

// TUN is the device that makes TAP and TUN interfaces.
const TUN = "/dev/net/tun"

// tunFlags are the flags with which it is opened.
const tunFlags = unix.O_RDWR | unix.O_NONBLOCK

var tunName = []byte(TUN + "\x00")

// A TAP is the configuration of a TAP or, by its Flags, TUN interface.
type TAP struct {
	Name  string
	Flags uint16 // of TUNSETIFF
	// Offloads are for TUNSETOFFLOAD, which takes longer once the interface is up. The
	// user of the interface checks whether the kernel has them.
	Offloads int
	Index    int  // 0: the kernel chooses
	Up       bool // if it is made with its namespace
}

// OpenTAP makes a TAP interface in the namespace. It returns its descriptor, which is
// close-on-exec, non-blocking and the caller's, its index (0 if unknown), and whether
// it is up.
func (n *NS) OpenTAP(t TAP) (fd, index int, up bool, err error) {
	if fd, ok := n.pool.takeTAP(t); ok {
		return fd, t.Index, t.Up, nil
	}
	// The device belongs to the namespace of the task that opens the file.
	if fd, err = n.Open(TUN, tunFlags); err != nil {
		return -1, 0, false, err
	}
	if index, err = t.attach(fd); err != nil {
		unix.Close(fd)
		return -1, 0, false, err
	}
	return fd, index, false, nil
}

// begin makes the interface with its namespace, in which socket is.
func (t TAP) begin(fd, socket int) error {
	if _, err := t.attach(fd); err != nil {
		return err
	}
	unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, t.Offloads)
	if !t.Up {
		return nil
	}
	return setUp(socket, t.Name)
}

// attach makes the interface. The descriptor must not be registered with a poller yet,
// which would report errors for good.
func (t TAP) attach(fd int) (index int, err error) {
	ifr, err := unix.NewIfreq(t.Name)
	if err != nil {
		return 0, os.NewSyscallError("ioctl TUNSETIFF", err)
	}
	// IFF_TUN_EXCL: a joined namespace may have a TAP of this name already.
	ifr.SetUint16(t.Flags | unix.IFF_TUN_EXCL)
	// The index may be in use too.
	for _, index = range []int{t.Index, 0} {
		unix.IoctlSetPointerInt(fd, unix.TUNSETIFINDEX, index)
		if err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != unix.EBUSY {
			break
		}
	}
	return index, os.NewSyscallError("ioctl TUNSETIFF", err)
}

// CloseTAP closes the descriptor of an interface, and leaves the interface to the end
// of its namespace. The kernel removes the interfaces of many namespaces together; each
// alone takes some 20 ms.
func CloseTAP(fd int) error {
	unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1)
	return unix.Close(fd)
}
