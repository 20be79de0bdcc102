//go:build amd64 || arm64

package stack

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vdestack/vdestack/internal/carrier"
	"github.com/vdestack/vdestack/internal/nic"
	"github.com/vdestack/vdestack/internal/virtio"
	"github.com/vdestack/vdestack/vdeplug"
)

// turns is how many batches an interface that is always busy moves before it
// lets others run.
const turns = 16

// start runs the pump: one goroutine a direction, which waits in the poller and
// holds no thread, and no memory for packets, while nothing happens.
func (i *iface) start() {
	if i.lan != nil {
		return
	}
	plug, ok := i.plug.(carrier.Conn)
	if !ok {
		plug = newFrames(i.plug)
	}
	i.pumps.Go(func() { i.send(plug) })
	i.pumps.Go(func() { i.receive(plug) })
}

// send carries packets from the interface to the network.
func (i *iface) send(plug carrier.Conn) {
	var b carrier.Buffer
	defer b.Release()
	for n := 1; ; n++ {
		packets, err := i.dev.Read(&b)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				i.fail(fmt.Errorf("reading from interface %s: %w", i.cfg.Name, err))
			}
			return
		}
		var c nic.Counts
		for j := range packets {
			frames, bytes := virtio.Count(packets[j].Offload, packets[j].Data)
			c.Frames += uint64(frames)
			c.Bytes += uint64(bytes)
		}
		if i.recording != nil {
			i.recording.Packets(true, packets)
		}
		if err := plug.SendPackets(packets); err != nil {
			i.fail(err) // the interface stays, and is drained
			c = nic.Counts{Dropped: c.Frames}
		}
		i.tx.add(c)
		if n%turns == 0 {
			runtime.Gosched()
		}
	}
}

// receive carries packets from the network to the interface.
func (i *iface) receive(plug carrier.Conn) {
	var b carrier.Buffer
	defer b.Release()
	for n := 1; ; n++ {
		packets, err := plug.RecvPackets(&b)
		if err != nil {
			i.fail(err)
			return
		}
		if i.recording != nil {
			i.recording.Packets(false, packets)
		}
		c, err := i.dev.Write(packets)
		i.rx.add(c)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if n%turns == 0 {
			runtime.Gosched()
		}
	}
}

// frames lets a plug that knows only frames carry packets.
type frames struct {
	plug vdeplug.Conn
	in   []byte           // for the one goroutine that receives
	cut  virtio.Segmenter // for the one that sends
	out  []byte           // a frame in one piece
}

func newFrames(plug vdeplug.Conn) *frames {
	return &frames{plug: plug, in: make([]byte, vdeplug.MaxFrame)}
}

// RecvPackets is that of [carrier.Conn].
func (f *frames) RecvPackets(b *carrier.Buffer) ([]carrier.Packet, error) {
	n, err := f.plug.Recv(f.in)
	if err != nil {
		return nil, err
	}
	b.Packets = append(b.Packets[:0], carrier.Packet{Data: f.in[:n]})
	return b.Packets, nil
}

// SendPackets is that of [carrier.Conn].
func (f *frames) SendPackets(packets []carrier.Packet) error {
	for i := range packets {
		segments, err := f.cut.Split(packets[i].Offload, packets[i].Data, 0)
		if err != nil {
			continue // no frames can be made of it
		}
		for _, s := range segments {
			frame := s.Data
			if len(s.Head) > 0 {
				f.out = append(append(f.out[:0], s.Head...), s.Data...)
				frame = f.out
			}
			if err := f.plug.Send(frame); err != nil {
				return err
			}
		}
	}
	return nil
}
