package nic

import (
	"errors"
	"os"
	"time"

	"github.com/vdestack/vdestack/internal/packet"
	"golang.org/x/sys/unix"
)

// A Monitor reads what an interface of any kind sends and receives. It serves one goroutine.
type Monitor struct{ dev *Device }

// Seen describes a packet that a Monitor has read.
type Seen struct {
	Sent bool  // by the interface
	Time int64 // when it was at the interface, in ns since 1970
}

// monitorBuffer is how much the kernel keeps for the reader, if it allows as much: nothing
// slows down the sender.
const monitorBuffer = 32 << 20

// NewMonitor takes over a packet socket as NewSocket does, and binds it to any interface.
func NewMonitor(fd, index int) (*Monitor, error) {
	// Before it is bound, so that every packet has a time.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("setsockopt SO_TIMESTAMPNS", err)
	}
	d, err := newSocket(fd, index, All, monitorBuffer, 0)
	if err != nil {
		return nil, err
	}
	d.monitor, d.control = true, packet.ControlStamped
	return &Monitor{d}, nil
}

// AwaitTimes waits until the kernel records the times of packets, which it begins some time
// after the first socket has asked for them. It takes over a socket of AF_INET and
// SOCK_DGRAM in a namespace whose loopback is up.
func AwaitTimes(fd int) error {
	defer unix.Close(fd)
	const tries, between = 10000, 100 * time.Microsecond
	// Unlike SO_TIMESTAMPNS, this returns no time rather than that of the call.
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPING, unix.SOF_TIMESTAMPING_RX_SOFTWARE|unix.SOF_TIMESTAMPING_SOFTWARE)
	if err != nil {
		return os.NewSyscallError("setsockopt SO_TIMESTAMPING", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	self, err := unix.Getsockname(fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	var b [1]byte
	var oob [128]byte
	for range tries {
		if err := unix.Sendto(fd, b[:], 0, self); err != nil {
			return os.NewSyscallError("sendto", err)
		}
		if _, n, _, _, err := unix.Recvmsg(fd, b[:], oob[:], unix.MSG_DONTWAIT); err == nil && n > 0 {
			return nil
		}
		time.Sleep(between)
	}
	return errors.New("the kernel tells no times of packets")
}

// Read waits for packets and returns them with their descriptions.
func (m *Monitor) Read(b *packet.Buffer) (packets []packet.Packet, seen []Seen, err error) {
	packets, err = m.dev.Read(b)
	return packets, m.dev.seen, err
}

// Missed returns how many packets were lost since the last call.
func (m *Monitor) Missed() (packets uint64) {
	m.dev.raw.Control(func(fd uintptr) {
		if s, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			packets = uint64(s.Drops)
		}
	})
	return packets + m.dev.Bad.Swap(0)
}

// Stop has the kernel queue nothing more. What is queued is still to be read.
func (m *Monitor) Stop() (err error) {
	none := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	prog := unix.SockFprog{Len: uint16(len(none)), Filter: &none[0]}
	closed := m.dev.raw.Control(func(fd uintptr) {
		err = os.NewSyscallError("setsockopt SO_ATTACH_FILTER", unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog))
	})
	return errors.Join(closed, err)
}

// Quiet is as with [Device].
func (m *Monitor) Quiet() bool { return m.dev.Quiet() }

// Close ends Read.
func (m *Monitor) Close() error { return m.dev.Close() }
