//go:build amd64 || arm64

package stack

import (
	"errors"
	"testing"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
	"github.com/vdestack/vdestack/vdeplug"
)

// lossy is a plug that drops the next frames, and counts what it sends.
type lossy struct {
	vdeplug.Conn
	drop, dropped uint64
	err           error
	bytes         uint64
}

func (l *lossy) Send(frame []byte) error {
	switch {
	case l.err != nil:
		return l.err
	case l.drop > 0:
		l.drop--
		l.dropped++
	default:
		l.bytes += uint64(len(frame))
	}
	return nil
}

func (l *lossy) Drops() vdeplug.Drops { return vdeplug.Drops{Send: l.dropped} }

// TestSentBytes compares the bytes that count as sent with those that were.
func TestSentBytes(t *testing.T) {
	l := &lossy{}
	w := newWire(l)
	sent := uint64(0)
	send := func(sizes ...int) (err error) {
		var packets []packet.Packet
		total := 0
		for _, n := range sizes {
			packets = append(packets, packet.Packet{Data: make([]byte, n)})
			total += n
		}
		n, err := w.send(packets, uint64(len(sizes)), uint64(total))
		sent += n
		return err
	}
	check := func(what string) {
		t.Helper()
		if sent != l.bytes {
			t.Errorf("%s: %d bytes are counted, %d were sent", what, sent, l.bytes)
		}
	}
	send(60, 1514, 100)
	check("none is dropped")
	l.drop = 3
	send(60, 1514, 100)
	check("all are dropped")
	send(61)
	l.drop = 2
	send(300, 300, 300, 300)
	check("some of the same size are dropped")
	l.dropped++
	l.bytes -= 100
	send(100, 100)
	check("one is dropped later")
	l.err = errors.New("gone")
	if err := send(100); err != l.err {
		t.Error(err)
	}
	l.err = nil
	check("the network is gone")
	packets := []packet.Packet{{Offload: virtio.Header{GSOType: virtio.GSOTCPv4, GSOSize: 100}, Data: make([]byte, 60)}}
	n, err := w.send(packets, 1, 60)
	sent += n
	if err != nil || w.dropped() != 7 {
		t.Errorf("%d are dropped, %v", w.dropped(), err)
	}
	check("no frames can be made of it")
}
