//go:build amd64 || arm64

package neigh

import (
	"encoding/binary"
	"errors"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

const (
	// firstRoom is how many entries a namespace may have before unused ones are removed.
	// The kernel keeps 128 of its own (gc_thresh1).
	firstRoom = 256
	// mostMarked is about how many entries of a namespace are marked: a peer that floods
	// a network with addresses takes some megabytes, and no more.
	mostMarked = 1 << 15
)

// unused is after how long an unused entry is removed, as by the kernel
// (net.ipv4.neigh.default.gc_stale_time). It is a variable for tests.
var unused = time.Minute

// An entry is one of the kernel's table.
type entry struct {
	family byte
	index  int32
	state  uint16
	flags  byte
	dst    []byte
	mac    []byte
	proto  byte
	age    time.Duration // since it was last used, confirmed or changed
}

// decode reads the message of a neighbour after its header.
func decode(b []byte) (e entry, ok bool) {
	if len(b) < unix.SizeofNdMsg {
		return entry{}, false
	}
	e = entry{
		family: b[0],
		index:  int32(binary.NativeEndian.Uint32(b[4:])),
		state:  binary.NativeEndian.Uint16(b[8:]),
		flags:  b[10],
	}
	ad, err := netlink.NewAttributeDecoder(b[unix.SizeofNdMsg:])
	if err != nil {
		return entry{}, false
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.NDA_DST:
			e.dst = ad.Bytes()
		case unix.NDA_LLADDR:
			e.mac = ad.Bytes()
		case ndaProtocol:
			e.proto = ad.Uint8()
		case unix.NDA_CACHEINFO:
			// When it was confirmed, used and updated, in hundredths of a second.
			if b := ad.Bytes(); len(b) >= 12 {
				ago := min(binary.NativeEndian.Uint32(b), binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint32(b[8:]))
				e.age = time.Duration(ago) * (time.Second / 100)
			}
		}
	}
	size := map[byte]int{unix.AF_INET: 4, unix.AF_INET6: 16}[e.family]
	return e, ad.Err() == nil && size > 0 && len(e.dst) == size
}

// counts reports whether the entry counts towards the limit of the table.
func (e entry) counts() bool { return e.state&valid != 0 && e.flags&marked == 0 }

// ndaProtocol is NDA_PROTOCOL of linux/neighbour.h.
const ndaProtocol = 12

// learnt marks entries that were marked here, and not by a program of the user's.
const learnt = unix.RTPROT_KERNEL

// mark appends a message that marks the entry, if it still exists. As much may have
// changed, the message has no hardware address, and has the kernel confirm the entry
// when it is used.
func (e entry) mark(b []byte) []byte {
	return message(b, unix.RTM_NEWNEIGH, 0, e.header(uint16(rtnl.NeighborStale), unix.NTF_EXT_LEARNED), attribute{unix.NDA_DST, e.dst}, byUs)
}

// remove returns a message that removes the entry.
func (e entry) remove(b []byte) []byte {
	return message(b, unix.RTM_DELNEIGH, 0, e.header(0, 0), attribute{unix.NDA_DST, e.dst})
}

// header returns the header of a message about the entry.
func (e entry) header(state uint16, flags byte) []byte {
	b := make([]byte, unix.SizeofNdMsg)
	b[0], b[10] = e.family, flags
	binary.NativeEndian.PutUint32(b[4:], uint32(e.index))
	binary.NativeEndian.PutUint16(b[8:], state)
	return b
}

// An attribute is one of a message.
type attribute struct {
	typ   uint16
	value []byte
}

var byUs = attribute{ndaProtocol, []byte{learnt}}

// message appends a request.
func message(b []byte, typ, flags uint16, body []byte, attributes ...attribute) []byte {
	start := len(b)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = append(append(b, make([]byte, 8)...), body...)
	for _, a := range attributes {
		b = binary.NativeEndian.AppendUint16(b, uint16(4+len(a.value)))
		b = binary.NativeEndian.AppendUint16(b, a.typ)
		b = append(b, a.value...)
		b = append(b, make([]byte, -len(b)&3)...) // start is aligned too
	}
	binary.NativeEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

var errShort = errors.New("the kernel's answer is too short")

// answer reads the answer to a request, after its header: at least size bytes, or an error.
func answer(fd int, buf []byte, size int) (body []byte, err error) {
	n, err := unix.Read(fd, buf)
	switch {
	case err != nil:
		return nil, os.NewSyscallError("recvfrom", err)
	case n < unix.SizeofNlMsghdr+4:
		return nil, errShort
	}
	body = buf[unix.SizeofNlMsghdr:n]
	switch {
	case binary.NativeEndian.Uint16(buf[4:]) == unix.NLMSG_ERROR:
		return nil, unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
	case len(body) < size:
		return nil, errShort
	}
	return body, nil
}

// begin makes the work of the space.
func (s *Space) begin() {
	if s.work == nil {
		s.work = &work{room: firstRoom}
	}
}

// report takes a report of the kernel.
func (s *Space) report(b []byte) {
	if len(b) < atAttrs {
		return
	}
	e, ok := decode(b[unix.SizeofNlMsghdr:])
	if !ok || !e.counts() || !s.owns(e.index) {
		return
	}
	s.begin()
	if s.found++; s.full && s.found <= s.room {
		return
	}
	if len(s.batch) == 0 {
		s.k.waiting = append(s.k.waiting, s)
	}
	s.batch = e.mark(s.batch)
	s.k.entries++
}

// flush marks the entries that were reported.
func (s *Space) flush() {
	s.send()
	if s.found > s.room {
		s.sweep()
	}
}

// send sends the messages of the batch to the kernel, which has executed them when send
// returns. Errors are of entries or a namespace that are gone.
func (s *Space) send() {
	if len(s.batch) == 0 {
		return
	}
	if fd := int(s.socket.Swap(0)) - 1; fd >= 0 {
		unix.Write(fd, s.batch)
		s.putBack(fd)
	}
	if s.batch = s.batch[:0]; cap(s.batch) > batchSize {
		s.batch = nil
	}
}

// open makes the socket. An error means that the namespace is being closed, or the
// limit of descriptors: then entries are marked when they change.
func (s *Space) open() {
	if fd, err := s.ns.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE); err == nil {
		s.putBack(fd)
	}
}

func (s *Space) putBack(fd int) {
	s.socket.Store(int32(fd) + 1)
	if s.closed.Load() {
		s.putAway()
	}
}

// putAway closes the socket, unless it is in use.
func (s *Space) putAway() {
	if fd := int(s.socket.Swap(0)) - 1; fd >= 0 {
		unix.Close(fd)
	}
}

// batchSize is about how many bytes of messages are sent at once. The kernel takes
// some hundred thousand.
const batchSize = 16 << 10

// sweep reads the whole table of the namespace, removes unused marked entries, and
// marks those that were missed. The next sweep comes when as many entries have been
// added as are left, so that each costs about two looks.
func (s *Space) sweep() {
	c, err := rtnl.Dial(netns.Sockets{NS: s.ns})
	if err != nil {
		return
	}
	answer, err := c.Execute(netlink.Message{Header: netlink.Header{Type: unix.RTM_GETNEIGH, Flags: netlink.Dump}, Data: make([]byte, unix.SizeofNdMsg)})
	if err = errors.Join(err, c.Close()); err != nil {
		return
	}
	var missed []entry
	kept := 0
	for _, m := range answer {
		e, ok := decode(m.Data)
		switch {
		case !ok || !s.owns(e.index):
		case e.counts():
			missed = append(missed, e)
		case e.flags&unix.NTF_EXT_LEARNED == 0 || e.proto != learnt:
		case e.state&uint16(rtnl.NeighborFailed) != 0, e.state&uint16(rtnl.NeighborStale) != 0 && e.age >= s.k.unused:
			s.add(e.remove(s.batch))
		default:
			kept++
		}
	}
	missed = missed[:min(len(missed), max(0, mostMarked-kept))]
	for _, e := range missed {
		s.add(e.mark(s.batch))
	}
	s.send()
	kept += len(missed)
	s.found, s.room, s.full = 0, max(firstRoom, kept), kept >= mostMarked
}

// add makes b the batch, and sends it if it is large.
func (s *Space) add(b []byte) {
	if s.batch = b; len(b) > batchSize {
		s.send()
	}
}
