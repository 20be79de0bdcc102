package nic

import (
	"sync"
	"unsafe"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
	"golang.org/x/sys/unix"
)

// maxParts is the largest number of pieces of one packet: the header, and the frames that it
// was made of. It is less than IOV_MAX.
const maxParts = 1 + 128

// A writer is the memory for writing packets.
type writer struct {
	join   virtio.Coalescer
	cut    virtio.Segmenter
	header [virtio.HeaderLen]byte
	pieces [3][]byte
	vecs   [maxParts]unix.Iovec

	out           *packet.Sender // of a packet socket
	frames, bytes uint64         // in out

	dev     *Device
	packets []packet.Packet
	counts  Counts
	err     error
	write   func(fd uintptr)
}

var writers = sync.Pool{New: func() any {
	w := new(writer)
	w.write = func(fd uintptr) { w.all(int(fd)) }
	return w
}}

func (d *Device) unjoin() {
	d.GRORejected.Add(1)
	d.offload.Store(uint32(d.Offload() &^ (GRO | UDPGRO)))
}

func (w *writer) free() {
	w.dev, w.packets, w.counts, w.err = nil, nil, Counts{}, nil
	writers.Put(w)
}

// all writes the packets. Frames are joined with those before and after them;
// packets that stand for several stay as they are.
func (w *writer) all(fd int) {
	o := w.dev.Offload()
	w.join.UDP, w.join.IP = w.dev.udp && o&UDPGRO != 0, w.dev.tun
	for i := range w.packets {
		p := &w.packets[i]
		switch {
		case w.dev.finished(p.Data):
			w.flush(fd)
			w.separate(fd, p)
		case p.Offload == virtio.Header{} && o&GRO != 0:
			w.join.Add(p.Data)
		default:
			w.flush(fd)
			w.packet(fd, p)
		}
	}
	w.flush(fd)
}

// flush writes the frames that were joined.
func (w *writer) flush(fd int) {
	for _, p := range w.join.Flush() {
		if w.put(fd, p.Parts, p.Frames, p.Bytes) == unix.EINVAL && p.Frames > 1 {
			w.dev.unjoin()
		}
	}
	w.sendOut() // the next batch overwrites what was joined
}

// packet writes a packet as it is.
func (w *writer) packet(fd int, p *packet.Packet) {
	frames, bytes := virtio.Count(p.Offload, p.Data)
	p.Offload.Encode(w.header[:])
	w.pieces = [...][]byte{w.header[:], p.Data, nil}
	w.put(fd, w.pieces[:2], frames, bytes)
	w.sendOut() // the next packet overwrites the header
}

// separate writes the frames of a packet, without a virtio header or with an empty one.
func (w *writer) separate(fd int, p *packet.Packet) {
	segments, err := w.cut.Split(p.Offload, p.Data, 0)
	if err != nil {
		w.counts.Dropped++
		return
	}
	w.header = [virtio.HeaderLen]byte{}
	for _, s := range segments {
		w.pieces = [...][]byte{w.header[:], s.Head, s.Data}
		pieces := w.pieces[:]
		if !w.dev.header {
			pieces = pieces[1:]
		}
		w.put(fd, pieces, 1, len(s.Head)+len(s.Data))
	}
	w.sendOut() // the next packet overwrites the headers
}

// put writes a packet in parts, which stands for frames and bytes, to a TAP, or adds it to
// what sendOut sends.
func (w *writer) put(fd int, parts [][]byte, frames, bytes int) error {
	if w.out != nil {
		w.add(parts, frames, bytes)
		return nil
	}
	for i, b := range parts {
		w.vecs[i].Base = unsafe.SliceData(b)
		w.vecs[i].SetLen(len(b))
	}
	errno := unix.EINTR
	for errno == unix.EINTR {
		_, _, errno = unix.Syscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&w.vecs[0])), uintptr(len(parts)))
	}
	switch errno {
	case 0:
		w.counts.Frames += uint64(frames)
		w.counts.Bytes += uint64(bytes)
		return nil
	case unix.EBADFD:
		w.err = ErrRemoved
	default:
		w.counts.Dropped += uint64(frames) // EIO: it is down; EINVAL: it is not a frame
	}
	return errno
}
