package nic

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
	"golang.org/x/sys/unix"
)

const (
	// enough is how many bytes are read before they are passed on: with more, the first
	// ones leave the processor's cache.
	enough = 64 << 10
	// enoughPackets is how many packets are read before that, if they are small.
	enoughPackets = 64
)

// A Device is an interface as seen by the owner of its descriptor. Read and Write may be
// called from several goroutines at once.
type Device struct {
	f   *os.File
	raw syscall.RawConn

	closing atomic.Bool
	reading atomic.Bool   // set from looking for packets until there are no more
	taken   atomic.Uint64 // packets that were read
	waited  bool          // since the last packet of a TAP; only the reader uses it
	socket  bool          // a packet socket, not a TAP
	tun     bool          // of IP packets, without Ethernet headers
	down    atomic.Bool   // the interface of a socket was down at the last look
	gone    bool          // it was removed; only the reader uses it
	header  bool
	// takesGSO is the function passed to SendFrames; nil lets all packets pass uncut.
	takesGSO func(packet []byte) bool
	offload  atomic.Uint32 // an Offload
	udp      bool          // the kernel accepts joined datagrams

	monitor bool   // of a Monitor
	seen    []Seen // the packets of the last Read
	control int    // of the socket's messages

	// Bad counts what the interface sent that is not a packet.
	Bad atomic.Uint64
	// GRORejected counts joined frames that the interface rejected. After the first,
	// frames are no longer joined.
	GRORejected atomic.Uint64
}

// Flags returns the flags with which TUNSETIFF makes or opens an interface with the offloads.
func Flags(o Offload) uint16 {
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if o&Header != 0 {
		flags |= unix.IFF_VNET_HDR
	}
	return flags
}

// TUNFlags are those of Flags for NewTUN.
const TUNFlags = unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR

// withoutUSO remembers that the kernel does not know USO.
var withoutUSO atomic.Bool

// NewTAP takes over the descriptor of an interface that was made with Flags(o), and is not
// registered with the poller yet. Offloads that the kernel lacks are left out. An error
// closes the descriptor.
func NewTAP(fd int, name string, o Offload) (*Device, error) {
	o = o.known()
	d := &Device{header: o&Header != 0}
	for d.header {
		err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tunFlags(o))
		switch {
		case err == nil:
		case o&USO != 0:
			o &^= USO
			withoutUSO.Store(true)
			continue
		case o&(Checksum|TSO4|TSO6) != 0:
			o &^= Checksum | TSO4 | TSO6
			continue
		}
		break
	}
	// The kernels that send such packets take them too.
	d.udp = !withoutUSO.Load()
	return d, d.open(fd, name, o)
}

// NewTUN is NewTAP for an interface of IP packets, made with TUNFlags, with all offloads.
func NewTUN(fd int, name string) (*Device, error) {
	d, err := NewTAP(fd, name, All)
	d.tun = true
	return d, err
}

func (d *Device) open(fd int, name string, o Offload) (err error) {
	d.offload.Store(uint32(o))
	d.f = os.NewFile(uintptr(fd), name)
	// Without the poller, each Read would block a thread.
	if err = d.f.SetReadDeadline(time.Time{}); err == nil {
		d.raw, err = d.f.SyscallConn()
	}
	if err != nil {
		d.f.Close()
	}
	return err
}

// Offloads returns the value of TUNSETOFFLOAD that NewTAP tries first, so that the kernel
// can be asked earlier.
func Offloads(o Offload) int { return tunFlags(o.known()) }

// known leaves out what does not make sense, and what the kernel is known to lack.
func (o Offload) known() Offload {
	o = o.Usable()
	if withoutUSO.Load() {
		o &^= USO
	}
	return o
}

func tunFlags(o Offload) (flags int) {
	if o&Checksum != 0 {
		flags |= unix.TUN_F_CSUM
	}
	if o&TSO4 != 0 {
		flags |= unix.TUN_F_TSO4
	}
	if o&TSO6 != 0 {
		flags |= unix.TUN_F_TSO6
	}
	if o&(TSO4|TSO6) != 0 {
		flags |= unix.TUN_F_TSO_ECN
	}
	if o&USO != 0 {
		flags |= unix.TUN_F_USO4 | unix.TUN_F_USO6
	}
	return flags
}

// Offload returns the offloads that are in use.
func (d *Device) Offload() Offload { return Offload(d.offload.Load()) }

// SendFrames makes Write cut packets into frames and complete their checksums, for readers
// behind the interface that do not understand virtio headers. Packets for which takesGSO
// returns true are still joined and sent uncut, until the interface rejects one. SendFrames
// is called before the first Write.
func (d *Device) SendFrames(takesGSO func(packet []byte) bool) { d.takesGSO = takesGSO }

// finished reports whether a packet must be sent as frames with all checksums.
func (d *Device) finished(packet []byte) bool {
	return !d.header || d.takesGSO != nil && (d.GRORejected.Load() > 0 || !d.takesGSO(packet))
}

// Name returns the name that a TAP has now.
func (d *Device) Name() (string, error) {
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return "", err
	}
	cerr := d.raw.Control(func(fd uintptr) {
		err = os.NewSyscallError("ioctl TUNGETIFF", unix.IoctlIfreq(int(fd), unix.TUNGETIFF, ifr))
	})
	return ifr.Name(), errors.Join(cerr, err)
}

// HardwareAddr returns the hardware address of a TAP.
func (d *Device) HardwareAddr() (mac net.HardwareAddr, err error) {
	var req struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		addr unix.RawSockaddr
		_    [8]byte
	}
	cerr := d.raw.Control(func(fd uintptr) {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, unix.SIOCGIFHWADDR, uintptr(unsafe.Pointer(&req))); errno != 0 {
			err = os.NewSyscallError("ioctl SIOCGIFHWADDR", errno)
		}
	})
	if err = errors.Join(cerr, err); err != nil {
		return nil, err
	}
	for _, b := range req.addr.Data[:6] {
		mac = append(mac, byte(b))
	}
	return mac, nil
}

// SyscallConn returns the descriptor.
func (d *Device) SyscallConn() syscall.RawConn { return d.raw }

// Close removes the interface, unless it is persistent. A waiting Read, and later calls,
// return [os.ErrClosed].
func (d *Device) Close() error {
	d.closing.Store(true)
	return d.f.Close()
}

// Interrupt has a waiting Read, and later ones, return [os.ErrClosed]. The interface stays
// until Close.
func (d *Device) Interrupt() error {
	d.closing.Store(true)
	return d.f.SetReadDeadline(time.Unix(1, 0))
}

// Detach is Close for a TAP in a namespace that ends, which then removes the interface. The
// kernel removes the interfaces of many namespaces together; one at a time takes it some
// 20 ms each.
func (d *Device) Detach() error {
	d.raw.Control(func(fd uintptr) { unix.IoctlSetInt(int(fd), unix.TUNSETPERSIST, 1) })
	return d.Close()
}

// Read waits for packets of the interface and returns them.
func (d *Device) Read(b *packet.Buffer) ([]packet.Packet, error) {
	err, closed := b.Receive(d.raw, d)
	for closed != nil && d.stillThere(closed) {
		err, closed = b.Receive(d.raw, d)
	}
	if closed != nil {
		b.Release()
		if d.closing.Load() {
			return nil, os.ErrClosed
		}
		// The poller gives up on a file that only reports an error, as a TAP does when
		// its interface is gone.
		return nil, ErrRemoved
	}
	if errors.Is(err, unix.EBADFD) {
		err = ErrRemoved
	}
	return b.Packets, err
}

// Receive implements [packet.Receiver].
func (d *Device) Receive(fd int, b *packet.Buffer) (done bool, err error) {
	d.reading.Store(true)
	if done, err = d.receive(fd, b); !done || err != nil {
		d.reading.Store(false)
	}
	d.taken.Add(uint64(len(b.Packets)))
	return done, err
}

// Quiet reports whether all packets that the interface has sent were read, and the goroutine
// that reads them, if it is only one, has come back for more or got an error.
func (d *Device) Quiet() bool {
	quiet := false
	d.raw.Control(func(fd uintptr) {
		// It may only report an error, as a TAP does when its interface is gone.
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		_, err := unix.Poll(poll, 0)
		// In this order: a packet that is read in between came later.
		quiet = (err != nil || poll[0].Revents&unix.POLLIN == 0) && !d.reading.Load()
	})
	return quiet
}

// Reading reports whether somebody has packets of the interface, or looks for them.
func (d *Device) Reading() bool { return d.reading.Load() }

func (d *Device) receive(fd int, b *packet.Buffer) (bool, error) {
	if d.socket {
		return d.receiveMsgs(fd, b)
	}
	const largest = virtio.HeaderLen + virtio.MaxPacket
	mem, used, most := b.Bytes(), 0, enoughPackets
	if d.waited {
		most = 1 // without a system call that looks for more
	}
	for used < enough && len(b.Packets) < most {
		n, err := unix.Read(fd, mem[used:used+largest])
		switch {
		case err == unix.EINTR:
			continue
		case len(b.Packets) > 0 && err != nil:
			return true, nil // a lasting error comes again
		case err == unix.EAGAIN:
			d.waited = true
			return false, nil
		case err != nil:
			return true, os.NewSyscallError("read", err)
		}
		packet := mem[used : used+n]
		used += (n + 63) &^ 63
		var h virtio.Header
		if !d.header {
			b.Add(h, packet)
			continue
		}
		if h.Decode(packet) != nil {
			d.Bad.Add(1)
			continue
		}
		b.AddRoom(h, packet[virtio.HeaderLen:], virtio.HeaderLen)
	}
	d.waited = false
	return true, nil
}

// ErrRemoved says that the interface was removed.
var ErrRemoved = fmt.Errorf("the interface was removed: %w", unix.EBADFD)

// Counts say what became of frames.
type Counts struct{ Frames, Bytes, Dropped uint64 }

// Write writes packets to the interface, joined where they continue each other. What the
// interface does not take is dropped.
func (d *Device) Write(packets []packet.Packet) (Counts, error) {
	w := writers.Get().(*writer)
	defer w.free()
	w.dev, w.packets = d, packets
	if d.socket {
		w.send()
		return w.counts, w.err
	}
	if d.raw.Control(w.write) != nil {
		return Counts{}, os.ErrClosed
	}
	return w.counts, w.err
}
