package nic

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
	"golang.org/x/sys/unix"
)

const (
	// enough is how many bytes are read before they are passed on: what waits
	// longer leaves the processor's cache.
	enough = 64 << 10
	// enoughPackets bounds how many small packets are read before.
	enoughPackets = 64
)

// A Device is an interface as the owner of its descriptor has it. Read and Write
// may run at once, and each several times.
type Device struct {
	f   *os.File
	raw syscall.RawConn

	closing atomic.Bool
	reading atomic.Bool // from the search for packets on, until there are none
	waited  bool        // since the last packet of a TAP; only the reader uses it
	socket  bool        // a packet socket, not a TAP
	down    atomic.Bool // whether the interface of a socket was, when it was looked at
	header  bool
	// whole is the function given to SendFrames; nil lets all packets pass uncut.
	whole   func(packet []byte) bool
	offload atomic.Uint32 // an Offload
	udp     bool          // the kernel accepts joined datagrams

	monitor bool   // of a Monitor
	seen    []Seen // the packets of the last Read
	control int    // of the socket's messages

	// Bad counts what the interface sent that is no packet.
	Bad atomic.Uint64
	// GRORejected counts packets of several frames that the interface did not take.
	// After the first, frames are not joined any more.
	GRORejected atomic.Uint64
}

// Flags returns the flags with which TUNSETIFF makes or opens an interface that
// has the offloads.
func Flags(o Offload) uint16 {
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if o&Header != 0 {
		flags |= unix.IFF_VNET_HDR
	}
	return flags
}

// withoutUSO remembers that the kernel does not know USO.
var withoutUSO atomic.Bool

// NewTAP takes over the descriptor of an interface that was made with Flags(o),
// and is not known to the poller yet. What the kernel does not have of o is left
// out. An error closes the descriptor.
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

func (d *Device) open(fd int, name string, o Offload) (err error) {
	d.offload.Store(uint32(o))
	d.f = os.NewFile(uintptr(fd), name)
	// A descriptor that the poller has refused would be read by a thread.
	if err = d.f.SetReadDeadline(time.Time{}); err == nil {
		d.raw, err = d.f.SyscallConn()
	}
	if err != nil {
		d.f.Close()
	}
	return err
}

// Offloads returns what NewTAP begins with to ask the kernel for (TUNSETOFFLOAD), so
// that it can be asked before.
func Offloads(o Offload) int { return tunFlags(o.known()) }

// known leaves out what does not make sense, and what the kernel is known not to have.
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

// SendFrames lets Write cut packets into frames and finish their checksums, for
// readers behind the interface that know nothing of what is left to do.
// Packets for which whole returns true are joined and sent as ever, until the
// interface refuses one. It comes before the first Write.
func (d *Device) SendFrames(whole func(packet []byte) bool) { d.whole = whole }

// finished reports whether a packet has to be sent as frames with all checksums.
func (d *Device) finished(packet []byte) bool {
	return !d.header || d.whole != nil && (d.GRORejected.Load() > 0 || !d.whole(packet))
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

// SyscallConn returns the descriptor.
func (d *Device) SyscallConn() syscall.RawConn { return d.raw }

// Close removes the interface, unless it is persistent. A Read that waits
// returns [os.ErrClosed], as do later calls.
func (d *Device) Close() error {
	d.closing.Store(true)
	return d.f.Close()
}

// Detach is Close for a TAP in a namespace that ends, and leaves the interface to
// that. Where many namespaces end the kernel removes their interfaces together;
// by itself each takes it some 20 ms.
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
		// The poller gives up on a file that has nothing but an error for it. A
		// TAP has that as soon as its interface is gone.
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
	if done, err = d.receive(fd, b); !done {
		d.reading.Store(false)
	}
	return done, err
}

// Quiet reports that all packets that the interface has sent were read, and that
// the goroutine which reads them, if it is one alone, has come back for more.
func (d *Device) Quiet() bool {
	quiet := false
	d.raw.Control(func(fd uintptr) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		// In this order: what is read meanwhile came later.
		quiet = (err != nil || n == 0) && !d.reading.Load()
	})
	return quiet
}

func (d *Device) receive(fd int, b *packet.Buffer) (bool, error) {
	if d.socket {
		return d.receiveMsgs(fd, b)
	}
	const largest = virtio.HeaderLen + virtio.MaxPacket
	mem, used, most := b.Bytes(), 0, enoughPackets
	if d.waited {
		most = 1 // it is not held up by the search for more
	}
	for used < enough && len(b.Packets) < most {
		n, err := unix.Read(fd, mem[used:used+largest])
		switch {
		case err == unix.EINTR:
			continue
		case len(b.Packets) > 0 && err != nil:
			return true, nil // if it lasts, it comes again
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

// Counts are what became of frames.
type Counts struct{ Frames, Bytes, Dropped uint64 }

// Write hands packets to the interface, joined where they continue each other.
// What it does not take is dropped.
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
