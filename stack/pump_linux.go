//go:build amd64 || arm64

package stack

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/vdestack/vdestack/internal/nic"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
	"github.com/vdestack/vdestack/vdeplug"
)

// A pump carries packets between the device of an interface and a plug, with a
// goroutine for each direction. While nothing happens, they wait in the poller and hold
// no thread and no memory for packets.
type pump struct {
	i    *iface
	plug vdeplug.Conn
	dev  *nic.Device

	wire    *wire // the plug; nil until it runs
	running sync.WaitGroup
	left    atomic.Bool // the plug is being closed

	tx, rx counters
	// failure says why the plug is gone.
	failure atomic.Pointer[error]
}

type counters struct {
	frames, bytes, dropped atomic.Uint64
}

func (c *counters) add(n nic.Counts) {
	c.frames.Add(n.Frames)
	c.bytes.Add(n.Bytes)
	c.dropped.Add(n.Dropped)
}

// stats returns the counts.
func (c *counters) stats(frames, bytes, dropped *uint64) {
	*frames, *bytes, *dropped = c.frames.Load(), c.bytes.Load(), c.dropped.Load()
}

// run starts the pump.
func (p *pump) run() {
	p.wire = newWire(p.plug)
	p.running.Go(p.send)
	p.running.Go(p.receive)
}

// monitor implements [link]: the pump records.
func (p *pump) monitor() (*nic.Monitor, error) { return nil, nil }

// leave implements [link]. It waits until the pump has forwarded the backlog, such as
// resets of sockets that were just ended.
func (p *pump) leave(bool) error {
	if p.wire != nil {
		nic.Drain(p.dev, nic.DrainTime)
	}
	p.left.Store(true)
	return errors.Join(p.plug.Close(), p.i.recording.close())
}

// lost is fail with the error of a call of the plug, which another package may have made.
func (p *pump) lost(op string, err error) {
	if _, ok := errors.AsType[*vdeplug.Error](err); !ok {
		err = &vdeplug.Error{Op: op, VNL: p.i.cfg.VNL, Err: err}
	}
	p.fail(err)
}

// fail notes why the network is gone, once. Of itself too, it may say that something is
// closed.
func (p *pump) fail(err error) {
	if p.left.Load() {
		return
	}
	if p.failure.CompareAndSwap(nil, &err) {
		p.i.s.log.Warn("network is gone", "interface", p.i.cfg.Name, "network", vdeplug.Redact(p.i.cfg.VNL), "error", err)
	}
}

// stats adds the counters of the pump and its plug, and the state of the network.
func (p *pump) stats(st *InterfaceStats) {
	p.tx.stats(&st.TxFrames, &st.TxBytes, &st.TxDropped)
	p.rx.stats(&st.RxFrames, &st.RxBytes, &st.RxDropped)
	st.TxDropped += p.dev.Bad.Load()
	st.GRORejected = p.dev.GRORejected.Load()
	if p.wire != nil {
		dropped := p.wire.dropped()
		st.TxFrames -= min(st.TxFrames, dropped)
		st.TxDropped += dropped
	}
	if d, ok := p.plug.(vdeplug.Dropper); ok {
		st.RxDropped += d.Drops().Recv
	}
	if l, ok := p.plug.(vdeplug.Linker); ok {
		link := l.Link()
		st.Err, st.Reconnecting, st.Reconnects = link.Err, link.Reconnecting, link.Reconnects
	}
	if err := p.failure.Load(); err != nil {
		st.Err, st.Reconnecting = *err, false
	}
}

// emulator returns the controller of the netemu network under the plug; nil if there is
// none.
func (p *pump) emulator() *vdeplug.Emulator { return vdeplug.FindEmulator(p.plug) }

// send carries packets from the interface to the network.
func (p *pump) send() {
	var b packet.Buffer
	defer b.Release()
	var turn packet.Turn
	for {
		packets, err := p.dev.Read(&b)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				p.fail(fmt.Errorf("reading from interface %s: %w", p.i.cfg.Name, err))
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
		if p.i.recording != nil {
			p.i.recording.Packets(true, packets)
		}
		if sent, err := p.wire.send(packets, c.Frames, c.Bytes); err != nil {
			p.lost("send", err) // the interface stays, and is drained
			c = nic.Counts{Dropped: c.Frames}
		} else {
			c.Bytes = sent
		}
		p.tx.add(c)
		turn.End()
	}
}

// receive carries packets from the network to the interface.
func (p *pump) receive() {
	var b packet.Buffer
	defer b.Release()
	var turn packet.Turn
	for {
		packets, err := p.wire.RecvPackets(&b)
		if err != nil {
			p.lost("recv", err)
			return
		}
		turn.Begin()
		if p.i.recording != nil {
			p.i.recording.Packets(false, packets)
		}
		c, err := p.dev.Write(packets)
		p.rx.add(c)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		turn.End()
	}
}

// A wire is a plug with a count of dropped frames.
type wire struct {
	packet.Transport
	seen uint64 // of dropped; used by send only
}

func newWire(plug vdeplug.Conn) *wire {
	return &wire{Transport: packet.Of[vdeplug.Drops](plug, vdeplug.MaxFrame)}
}

// dropped returns how many frames were not sent so far.
func (w *wire) dropped() uint64 {
	_, sent := packet.Dropped(w.Transport)
	return sent
}

// send sends packets that stand for the given frames and bytes, and returns how many
// bytes were sent. Plugs count dropped frames, mostly during this call: each frame of
// the batch counts as an equal part of its bytes. Frames dropped later count with the
// next batch.
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
