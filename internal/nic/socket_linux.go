package nic

import (
	"errors"
	"os"
	"time"
	"unsafe"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
	"golang.org/x/sys/unix"
)

// Of linux/if_packet.h.
const (
	packetVNetHdr        = 15
	packetIgnoreOutgoing = 23
)

// socketBuffer is the requested size of a packet socket's buffers. It bounds what the
// interface sends ahead of the reader; the kernel drops the rest.
const socketBuffer = 4 << 20

// htons returns a protocol as the address of a packet socket has it.
func htons(v uint16) uint16 { return v<<8 | v>>8 }

// NewSocket takes over a packet socket, of AF_PACKET and SOCK_RAW with protocol 0, and binds
// it to the interface with the index, in the socket's namespace. If the interface is an end
// of a veth pair, the socket gets what the other end sends before it is cut into frames. An
// error closes the descriptor.
func NewSocket(fd, index int, o Offload) (_ *Device, err error) {
	return newSocket(fd, index, o, socketBuffer, 1)
}

func newSocket(fd, index int, o Offload, buffer, ignoreOutgoing int) (_ *Device, err error) {
	o = o.Usable()
	d := &Device{socket: true, header: o&Header != 0, udp: true, control: packet.ControlAux}
	set := func(level, option, value int, name string) {
		if err == nil {
			err = os.NewSyscallError("setsockopt "+name, unix.SetsockoptInt(fd, level, option, value))
		}
	}
	if d.header {
		if unix.SetsockoptInt(fd, unix.SOL_PACKET, packetVNetHdr, 1) != nil {
			d.header, o = false, 0
		}
	}
	set(unix.SOL_PACKET, packetIgnoreOutgoing, ignoreOutgoing, "PACKET_IGNORE_OUTGOING")
	set(unix.SOL_PACKET, unix.PACKET_AUXDATA, 1, "PACKET_AUXDATA")
	// Without PACKET_QDISC_BYPASS, which drops packets that the interface wants cut.
	for _, option := range [][2]int{{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}, {unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, option[0], buffer) != nil {
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, option[1], buffer)
		}
	}
	if err == nil {
		// With a protocol before this, it would get the packets of all interfaces.
		err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: index}))
	}
	if err == nil {
		err = os.NewSyscallError("fcntl", unix.SetNonblock(fd, true))
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return d, d.open(fd, "packet socket", o)
}

const (
	etherLen = 14
	vlanTag  = 4
)

// receiveMsgs receives packets from a socket.
func (d *Device) receiveMsgs(fd int, b *packet.Buffer) (bool, error) {
	for {
		n, err := b.RecvMsgs(fd, virtio.HeaderLen+virtio.MaxPacket, d.control)
		switch {
		case err == unix.EAGAIN && d.gone:
			return true, ErrRemoved
		case err == unix.EAGAIN:
			return false, nil
		case err == unix.ENETDOWN:
			// The kernel tells it once, before the packets that it still has.
			if d.gone = removed(fd); d.gone {
				continue
			}
			// It may come up again, and the kernel does not report its removal now.
			d.down.Store(true)
			d.lookAgain()
			continue
		case err == unix.EINVAL:
			d.Bad.Add(1) // a packet that no virtio header describes, as of a tunnel
			continue
		case err != nil:
			return true, os.NewSyscallError("recvmmsg", err)
		}
		d.seen = d.seen[:0]
		for i := range n {
			g, before := b.Datagram(i), len(b.Packets)
			d.add(b, g)
			if d.monitor && len(b.Packets) > before {
				from := (*unix.RawSockaddrLinklayer)(unsafe.Pointer(g.From))
				d.seen = append(d.seen, Seen{from.Pkttype == unix.PACKET_OUTGOING, g.Time})
			}
		}
		if len(b.Packets) > 0 {
			return true, nil
		}
	}
}

// downLook is the interval of looking at an interface that is down.
const downLook = time.Second

func (d *Device) lookAgain() { d.f.SetReadDeadline(time.Now().Add(downLook)) }

// stillThere reports whether to go on waiting after an error of waiting, as the interface is
// down but not removed.
func (d *Device) stillThere(err error) (there bool) {
	if !d.down.Load() || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	d.raw.Control(func(fd uintptr) {
		switch there = !removed(int(fd)); {
		case there && isUp(int(fd)):
			d.down.Store(false)
			d.f.SetReadDeadline(time.Time{})
		case there:
			d.lookAgain()
		}
	})
	return there
}

// removed reports whether the interface of a socket is gone.
func removed(fd int) bool { return index(fd) <= 0 }

func index(fd int) int {
	name, err := unix.Getsockname(fd)
	if ll, ok := name.(*unix.SockaddrLinklayer); ok && err == nil {
		return ll.Ifindex
	}
	return 0
}

func isUp(fd int) bool {
	req, err := unix.NewIfreq("")
	if err != nil {
		return false
	}
	req.SetUint32(uint32(index(fd)))
	if unix.IoctlIfreq(fd, unix.SIOCGIFNAME, req) != nil || unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, req) != nil {
		return false
	}
	return req.Uint16()&unix.IFF_UP != 0
}

// add adds what a socket has received to b.
func (d *Device) add(b *packet.Buffer, g packet.Datagram) {
	packet, room := g.Data, 0
	var h virtio.Header
	if d.header {
		if h.Decode(packet) != nil {
			d.Bad.Add(1)
			return
		}
		packet, room = packet[virtio.HeaderLen:], virtio.HeaderLen
	}
	if len(packet) < etherLen || g.Truncated {
		d.Bad.Add(1)
		return
	}
	if g.TagType != 0 {
		packet, room = d.insertTag(g, packet, &h), 0
	}
	b.AddRoom(h, packet, room)
}

// insertTag puts back a VLAN tag that the kernel has taken out. The addresses move into the
// place of the virtio header.
func (d *Device) insertTag(g packet.Datagram, packet []byte, h *virtio.Header) []byte {
	if !d.header {
		grown := make([]byte, len(packet)+vlanTag)
		copy(grown[vlanTag:], packet)
		packet = grown
	} else {
		packet = g.Data[virtio.HeaderLen-vlanTag:]
	}
	copy(packet, packet[vlanTag:vlanTag+12])
	packet[12], packet[13] = byte(g.TagType>>8), byte(g.TagType)
	packet[14], packet[15] = byte(g.Tag>>8), byte(g.Tag)
	if h.Flags&virtio.FlagNeedsCsum != 0 {
		h.CsumStart += vlanTag
	}
	if h.HdrLen != 0 {
		h.HdrLen += vlanTag
	}
	return packet
}

// send sends packets through a socket.
func (w *writer) send() {
	w.out = packet.NewSender()
	w.out.Brief = true // no other process has the socket
	w.all(-1)
	w.out.Free()
	w.out = nil
}

// add adds a packet for sendOut to send.
func (w *writer) add(parts [][]byte, frames, bytes int) {
	if !w.out.AddParts(parts, frames) {
		w.sendOut()
		w.out.AddParts(parts, frames)
	}
	w.frames += uint64(frames)
	w.bytes += uint64(bytes)
}

// sendOut sends what add has added. With a TAP there is nothing.
func (w *writer) sendOut() {
	if w.out == nil {
		return
	}
	_, err, closed := w.out.Send(w.dev.raw, w)
	if closed != nil {
		err = os.ErrClosed
	}
	lost := uint64(w.out.Lost())
	w.out.Reset()
	w.counts.Frames += w.frames - lost
	w.counts.Dropped += lost
	if w.frames > 0 {
		w.counts.Bytes += w.bytes * (w.frames - lost) / w.frames
	}
	w.frames, w.bytes = 0, 0
	if err != nil {
		w.err = err
	}
}

// HandleError implements [packet.Sending].
func (w *writer) HandleError(_ int, _ *packet.Sender, frames int, err error) (lost int, again bool, final error) {
	if err == unix.ENXIO || err == unix.ENODEV {
		return frames, false, ErrRemoved
	}
	if err == unix.EINVAL && frames > 1 {
		w.dev.unjoin()
	}
	return frames, false, nil // ENETDOWN: the interface is down
}
