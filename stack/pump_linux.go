//go:build amd64 || arm64

package stack

import (
	"errors"
	"fmt"
	"os"

	"github.com/vdestack/vdestack/internal/nic"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
	"github.com/vdestack/vdestack/vdeplug"
)

// start runs the pump: one goroutine a direction, which waits in the poller and
// holds no thread, and no memory for packets, while nothing happens.
func (i *iface) start() {
	if i.lan != nil {
		return
	}
	i.wire = newWire(i.plug)
	i.pumps.Go(func() { i.send(i.wire) })
	i.pumps.Go(func() { i.receive(i.wire) })
}

// send carries packets from the interface to the network.
func (i *iface) send(w *wire) {
	var b packet.Buffer
	defer b.Release()
	var turn packet.Turn
	for {
		packets, err := i.dev.Read(&b)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				i.fail(fmt.Errorf("reading from interface %s: %w", i.cfg.Name, err))
			}
			return
		}
		turn.Begin()
		var c nic.Counts
		for j := range packets {
			frames, bytes := virtio.Count(packets[j].Offload, packets[j].Data)
			c.Frames += uint64(frames)
			c.Bytes += uint64(bytes)
		}
		if i.recording != nil {
			i.recording.Packets(true, packets)
		}
		if sent, err := w.send(packets, c.Frames, c.Bytes); err != nil {
			i.fail(err) // the interface stays, and is drained
			c = nic.Counts{Dropped: c.Frames}
		} else {
			c.Bytes = sent
		}
		i.tx.add(c)
		turn.End()
	}
}

// receive carries packets from the network to the interface.
func (i *iface) receive(plug packet.Transport) {
	var b packet.Buffer
	defer b.Release()
	var turn packet.Turn
	for {
		packets, err := plug.RecvPackets(&b)
		if err != nil {
			i.fail(err)
			return
		}
		turn.Begin()
		if i.recording != nil {
			i.recording.Packets(false, packets)
		}
		c, err := i.dev.Write(packets)
		i.rx.add(c)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		turn.End()
	}
}

// A wire is a plug as the pump sends to it.
type wire struct {
	packet.Transport
	dropped func() uint64 // how many frames were not sent so far
	seen    uint64        // of dropped; only the sender uses it
}

func newWire(plug vdeplug.Conn) *wire {
	if t, ok := plug.(packet.Transport); ok {
		return &wire{Transport: t, dropped: func() uint64 {
			_, n := packet.Dropped(t)
			return n
		}}
	}
	f := packet.NewFrames(plug, vdeplug.MaxFrame)
	return &wire{Transport: f, dropped: func() uint64 {
		n := f.DroppedSend.Load()
		if d, ok := plug.(vdeplug.Dropper); ok {
			n += d.Drops().Send
		}
		return n
	}}
}

// send sends packets that are so many frames and bytes, and returns how many of
// the bytes were sent. Plugs count the frames that they drop, most of them in this
// call: of a batch of which a part was dropped, the bytes are shared out. What is
// dropped later counts with the next batch.
func (w *wire) send(packets []packet.Packet, frames, bytes uint64) (sent uint64, err error) {
	if err := w.SendPackets(packets, true); err != nil {
		return 0, err
	}
	lost := min(w.dropped()-w.seen, frames)
	w.seen += lost
	if lost > 0 {
		bytes -= bytes * lost / frames
	}
	return bytes, nil
}
