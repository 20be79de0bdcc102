package nic

import (
	"unsafe"

	"github.com/vdestack/vdestack/internal/carrier"
	"golang.org/x/sys/unix"
)

// A Monitor reads what an interface sends and receives, in whichever way it does
// that. One goroutine reads it.
type Monitor struct{ dev *Device }

// monitorBuffer is what the kernel keeps while nobody reads, where it allows so
// much: nothing slows down who sends.
const monitorBuffer = 32 << 20

// NewMonitor takes over a packet socket as NewSocket does, and puts it on any
// interface.
func NewMonitor(fd, index int) (*Monitor, error) {
	d, err := newSocket(fd, index, All, monitorBuffer, 0)
	if err != nil {
		return nil, err
	}
	d.monitor = true
	return &Monitor{d}, nil
}

// Read waits for packets and returns them, with those that the interface has sent.
func (m *Monitor) Read(b *carrier.Buffer) (packets []carrier.Packet, sent []bool, err error) {
	packets, err = m.dev.Read(b)
	return packets, m.dev.outgoing, err
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

// Quiet is that of [Device].
func (m *Monitor) Quiet() bool { return m.dev.Quiet() }

// Close ends Read.
func (m *Monitor) Close() error { return m.dev.Close() }

// packetType is the sll_pkttype of the sender's address, struct sockaddr_ll.
func packetType(g carrier.Datagram) uint8 {
	return (*unix.RawSockaddrLinklayer)(unsafe.Pointer(g.From)).Pkttype
}
