//go:build amd64 || arm64

package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/nic"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

// A TUN is an interface of a stack that carries IP packets, without Ethernet headers: its
// owner reads what the stack sends, and writes what the stack is to receive. It has the
// methods Read, Write, MTU, Name, BatchSize and Close of the interface tun.Device of
// wireguard-go.
//
//   - Its methods may be called from several goroutines at once.
//   - Packets of TCP and UDP cross the kernel together, as far as they continue each other;
//     Read and Write see only packets that are no larger than the MTU of their sender, with
//     all checksums.
//   - It is in Stats of the stack. RemoveInterface, and Close of the stack, close it.
type TUN struct {
	i     *iface
	dev   *nic.Device
	peers func() []PeerStats // may be nil

	reading chan struct{} // guards the fields below; full while a Read runs, or waits
	buf     packet.Buffer
	next    int // packet of buf
	cut     virtio.Segmenter
	rest    []virtio.Segment // of the packet before next, not returned yet

	tx, rx  counters
	failure atomic.Pointer[error] // why the interface is gone

	gone   chan struct{} // closed by remove
	ending sync.Mutex    // held while File or leave change the owner of the descriptor
	closed atomic.Bool
	lent   atomic.Pointer[rtnl.Conn] // after File: removes the interface
	last   lastCounters              // after File
}

// TUN makes an interface that carries IP packets. When it returns, the addresses are usable
// and Stats lists the interface last. The name, MTU and addresses obey the rules of
// AddInterface, and so do the errors; there are no neighbours, and duplicate addresses are
// not looked for. It takes /dev/net/tun. Routes to what is behind it are added by RTNL,
// without a gateway.
func (s *Stack) TUN(cfg TUNConfig) (*TUN, error) {
	t := &TUN{peers: cfg.Peers, reading: make(chan struct{}, 1), gone: make(chan struct{}), cut: virtio.Segmenter{IP: true}}
	t.i = &iface{tun: t, cfg: Interface{Name: cfg.Name, MTU: cfg.MTU, Addrs: slices.Clone(cfg.Addrs), Down: cfg.Down}}
	if err := s.orNone().addNew(context.Background(), t.i); err != nil {
		return nil, err
	}
	return t, nil
}

// makeTUN makes the interface.
func (i *iface) makeTUN(nl *rtnl.Conn) error {
	fd, index, _, err := i.openTAP(netns.TAP{Name: i.cfg.Name, Flags: nic.TUNFlags, Index: i.wanted})
	if err != nil {
		return err
	}
	dev, err := nic.NewTUN(fd, tunDevice)
	if err != nil {
		return err
	}
	i.tun.dev = dev
	i.link, i.index = i.tun, index
	if i.index == 0 {
		if i.index, err = nl.IfNameToIndex(i.cfg.Name); err != nil {
			return err
		}
	}
	if i.cfg.MTU != DefaultMTU {
		return nl.LinkSetMTU(i.index, i.cfg.MTU)
	}
	return nil
}

// Read waits for packets that the stack sends and returns how many it has put into bufs:
// packet i is bufs[i][offset : offset+sizes[i]].
//
//   - What does not fit into bufs is left for the next call; a single buffer will do, but
//     BatchSize of them is faster.
//   - A packet that does not fit into its buffer is lost and counted, and the error is
//     [io.ErrShortBuffer] for the call that would have returned it first: offset and the
//     MTU always suffice.
//   - After Close the error is [os.ErrClosed] and [net.ErrClosed], also of a call that
//     waits. Any other error is final: somebody has removed the interface.
func (t *TUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	if err := t.check(); err != nil {
		return 0, err
	}
	if len(bufs) == 0 || len(sizes) < len(bufs) || offset < 0 {
		return 0, t.wrap(fmt.Errorf("reading into %d buffers with %d sizes from offset %d on: %w", len(bufs), len(sizes), offset, os.ErrInvalid))
	}
	t.reading <- struct{}{}
	defer func() { <-t.reading }()
	for {
		if err := t.ended(); err != nil {
			t.rest, t.next = nil, 0
			t.buf.Release()
			return 0, err
		}
		if n, err := t.deliver(bufs, sizes, offset); n > 0 || err != nil {
			return n, err
		}
		t.next = 0
		if _, err := t.dev.Read(&t.buf); err != nil {
			t.buf.Release()
			return 0, t.fail("reading", err)
		}
	}
}

// deliver returns packets that were read.
func (t *TUN) deliver(bufs [][]byte, sizes []int, offset int) (n int, err error) {
	var c nic.Counts
	defer func() { t.tx.add(c) }()
	for n < len(bufs) {
		if len(t.rest) == 0 {
			if t.next == len(t.buf.Packets) {
				break
			}
			p := t.buf.Packets[t.next]
			t.next++
			var err error
			if t.rest, err = t.cut.Split(p.Offload, p.Data, 0); err != nil {
				c.Dropped++
			}
			continue
		}
		s := t.rest[0]
		size := len(s.Head) + len(s.Data)
		if size > len(bufs[n])-offset {
			if n > 0 {
				break // the next call has the error
			}
			t.rest = t.rest[1:]
			c.Dropped++
			return 0, t.wrap(fmt.Errorf("a packet of %d bytes is too large for a buffer of %d bytes from offset %d on: %w", size, len(bufs[n]), offset, io.ErrShortBuffer))
		}
		t.rest = t.rest[1:]
		to := bufs[n][offset:]
		copy(to[copy(to, s.Head):], s.Data)
		sizes[n] = size
		n++
		c.Frames++
		c.Bytes += uint64(size)
	}
	return n, nil
}

// A tunBatch is the memory of a Write.
type tunBatch [tunBatchSize]packet.Packet

var tunBatches = sync.Pool{New: func() any { return new(tunBatch) }}

// Write has the stack receive packets, in order: bufs[i][offset:]. It returns how many the
// kernel has taken.
//
//   - It may change the bytes of the packets from offset on, and keeps nothing. offset may
//     be 0.
//   - What is no packet of IPv4 or IPv6, or longer than 65535 bytes, is dropped and counted,
//     and so is everything while the interface is down. The kernel drops what is wrong inside
//     a packet. None of that is an error.
//   - After Close the error is [os.ErrClosed] and [net.ErrClosed]. Any other error is final:
//     somebody has removed the interface.
func (t *TUN) Write(bufs [][]byte, offset int) (int, error) {
	if err := t.check(); err != nil {
		return 0, err
	}
	if offset < 0 {
		return 0, t.wrap(fmt.Errorf("writing from offset %d on: %w", offset, os.ErrInvalid))
	}
	if err := t.ended(); err != nil {
		return 0, err
	}
	b := tunBatches.Get().(*tunBatch)
	defer tunBatches.Put(b)
	var written int
	for len(bufs) > 0 {
		n := min(len(bufs), tunBatchSize)
		counts, err := t.write(b, bufs[:n], offset)
		written += int(counts.Frames)
		t.rx.add(counts)
		if err != nil {
			return written, t.fail("writing", err)
		}
		bufs = bufs[n:]
	}
	return written, nil
}

// write writes packets that fit into b.
func (t *TUN) write(b *tunBatch, bufs [][]byte, offset int) (nic.Counts, error) {
	n, bad := 0, uint64(0)
	for _, p := range bufs {
		if offset > len(p) || !isIP(p[offset:]) {
			bad++
			continue
		}
		b[n] = packet.Packet{Data: p[offset:]}
		n++
	}
	counts, err := t.dev.Write(b[:n])
	clear(b[:n])
	counts.Dropped += bad
	return counts, err
}

// isIP reports whether a packet is one of IPv4 or IPv6, as far as the header is there.
func isIP(p []byte) bool {
	if len(p) == 0 || len(p) > maxTUN {
		return false
	}
	switch p[0] >> 4 {
	case 4:
		return len(p) >= 20
	case 6:
		return len(p) >= 40
	}
	return false
}

// BatchSize returns how many packets a call of Read or Write best takes, 128.
func (t *TUN) BatchSize() int { return tunBatchSize }

// Name returns the name that the interface has now.
func (t *TUN) Name() (string, error) {
	if err := t.check(); err != nil {
		return "", err
	}
	if t.lent.Load() == nil {
		if name, err := t.dev.Name(); err == nil {
			return name, nil
		}
	}
	name, err := t.i.s.currentName(t.i.index)
	if err != nil {
		return "", t.wrap(err)
	}
	return name, nil
}

// MTU returns the MTU that the interface has now, in bytes.
func (t *TUN) MTU() (int, error) {
	name, err := t.Name()
	if err != nil {
		return 0, err
	}
	fd, err := t.i.s.ns.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return 0, t.wrap(err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		err = os.NewSyscallError("ioctl SIOCGIFMTU", unix.IoctlIfreq(fd, unix.SIOCGIFMTU, ifr))
	}
	if err != nil {
		return 0, t.wrap(err)
	}
	return int(ifr.Uint32()), nil
}

// File hands the descriptor of the interface over, for a library that does with it what Read
// and Write do. The file belongs to the caller, and has one owner:
//
//   - Each read and write is one packet behind a struct virtio_net_hdr of 10 bytes
//     (linux/virtio_net.h), with the flags IFF_TUN, IFF_NO_PI and IFF_VNET_HDR. Packets of
//     TCP and UDP come as large as the kernel makes them, unless the owner changes that by
//     TUNSETOFFLOAD.
//   - It does not block, and is in no poller yet that would have seen it without an
//     interface.
//   - From then on Read, Write and File return [os.ErrClosed], also those that wait. What Read
//     has not returned yet is lost.
//   - Close, and Close of the stack, remove the interface: calls of the owner return
//     [unix.EBADFD]. The descriptor stays open until its owner closes it. If that is first,
//     the interface goes with it.
func (t *TUN) File() (*os.File, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	s := t.i.s
	t.ending.Lock()
	defer t.ending.Unlock()
	if err := t.ended(); err != nil {
		return nil, err
	}
	nl, err := s.RTNL() // Close has no namespace for it any more
	if err != nil {
		return nil, err
	}
	fd := -1
	cerr := t.dev.SyscallConn().Control(func(sysfd uintptr) {
		fd, err = unix.FcntlInt(sysfd, unix.F_DUPFD_CLOEXEC, 0)
		err = os.NewSyscallError("fcntl", err)
	})
	if err = errors.Join(cerr, err); err != nil {
		nl.Close()
		return nil, t.wrap(err)
	}
	t.lent.Store(nl)
	return os.NewFile(uintptr(fd), tunDevice), t.dev.Close()
}

// Close removes the interface. It may be called twice, and with any other call; calls that
// wait return [os.ErrClosed]. When it returns, the interface is gone with its addresses and
// routes, and its name is free.
func (t *TUN) Close() error {
	if err := t.check(); err != nil {
		return err
	}
	s := t.i.s
	if s.beginChange() != nil {
		<-s.done // Close of the stack has closed it
		return nil
	}
	defer s.changes.Done()
	if !s.take(t.i) {
		<-t.gone // another call has closed it
		return nil
	}
	return s.removeTaken(t.i, t.i.cfg.Name)
}

// check refuses a TUN that Stack.TUN did not make.
func (t *TUN) check() error {
	if t == nil || t.i == nil {
		return fmt.Errorf("there is no TUN, the error of Stack.TUN says why: %w", os.ErrInvalid)
	}
	return nil
}

// wrap names the stack and the interface in an error.
func (t *TUN) wrap(err error) error {
	return fmt.Errorf("%s: interface %s: %w", t.i.s.name, t.i.cfg.Name, err)
}

// errTUNClosed is what calls report after Close; that of a file and that of a connection.
var errTUNClosed error = sentinelError{net.ErrClosed, os.ErrClosed}

// ended returns the error of calls after Close and File, nil before.
func (t *TUN) ended() error {
	switch {
	case t.closed.Load():
		return t.wrap(errTUNClosed)
	case t.lent.Load() != nil:
		return t.wrap(fmt.Errorf("its descriptor has another owner, by File: %w", errTUNClosed))
	}
	return nil
}

// fail returns the error of a call, and notes the first one that says that the interface
// is gone.
func (t *TUN) fail(doing string, err error) error {
	if ended := t.ended(); ended != nil {
		return ended
	}
	err = fmt.Errorf("%s: %w", doing, err)
	if errors.Is(err, nic.ErrRemoved) && t.failure.CompareAndSwap(nil, &err) {
		t.i.s.log.Warn("interface is gone", "interface", t.i.cfg.Name, "error", err)
	}
	return t.wrap(err)
}

// start implements [link].
func (t *TUN) start(context.Context) error { return nil }

// monitor implements [link]: a TUN is not recorded.
func (t *TUN) monitor() (*nic.Monitor, error) { return nil, nil }

// leave implements [link]. It waits until the owner has read the backlog, such as resets of
// sockets that were just ended.
func (t *TUN) leave(bool) error {
	t.ending.Lock()
	defer t.ending.Unlock()
	if nl := t.lent.Load(); nl != nil {
		t.closed.Store(true)
		err := nl.LinkDel(t.i.index)
		if errors.Is(err, unix.ENODEV) {
			err = nil // the owner has closed the descriptor
		}
		return errors.Join(err, nl.Close())
	}
	if len(t.reading) > 0 || t.dev.Reading() { // else nobody reads
		nic.Drain(t.dev, nic.DrainTime)
	}
	t.closed.Store(true)
	return t.dev.Interrupt()
}

// remove implements [link]. After File, leave has removed the interface.
func (t *TUN) remove(socket int) error {
	defer close(t.gone)
	if t.lent.Load() != nil {
		return nil
	}
	return t.i.closeDevice(t.dev, socket)
}

// stats implements [link]. After File the counters are the kernel's, for which a packet that
// stands for several is one.
func (t *TUN) stats(st *InterfaceStats) {
	if t.lent.Load() != nil {
		t.last.read(t.i, st)
		return
	}
	if name, err := t.dev.Name(); err == nil {
		st.Name = name
	}
	t.tx.stats(&st.TxFrames, &st.TxBytes, &st.TxDropped)
	t.rx.stats(&st.RxFrames, &st.RxBytes, &st.RxDropped)
	st.TxDropped += t.dev.Bad.Load()
	st.GRORejected = t.dev.GRORejected.Load()
	if err := t.failure.Load(); err != nil {
		st.Err = *err
	}
}
