package fabric

import (
	"bytes"
	"slices"
	"testing"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/virtio"
)

// FuzzGSO forwards any message that a client can send through a socket pair. A receiver of GSO
// packets gets the same message, others get its frames.
func FuzzGSO(f *testing.F) {
	message := func(h virtio.Header, data []byte) []byte {
		b := make([]byte, virtio.HeaderLen, virtio.HeaderLen+len(data))
		h.Encode(b)
		return append(b, data...)
	}
	f.Add(message(virtio.Header{}, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)))
	f.Add(message(virtio.Header{}, make([]byte, ether.MaxFrame+1)))
	f.Add(message(virtio.Header{Flags: virtio.FlagNeedsCsum, CsumStart: 34, CsumOffset: 16}, plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 100)))
	for _, n := range []int{1, 3} {
		p := packettest.TCP(n, 1000)
		f.Add(message(p.Offload, p.Data))
	}
	f.Add(make([]byte, virtio.HeaderLen+ether.HeaderLen-1))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > sockio.MaxGSOMessage {
			return
		}
		var d sockio.FrameCodec
		var buf packet.Buffer
		defer buf.Release()
		buf.Bytes()
		d.AddGSO(&buf, packet.Datagram{Data: slices.Clone(b)})
		if len(buf.Packets) == 0 {
			if d.DroppedRecv.Load() != 1 {
				t.Error("a message was lost, and not counted")
			}
			return
		}
		p := buf.Packets[0]
		if again := message(p.Offload, p.Data); !bytes.Equal(again, b) {
			t.Errorf("got % x, want % x", again, b)
		}

		fabric := New(Hub, 0, DefaultExpire)
		local := NewLocalPort(fabric, nil)
		client := &Port{Receiver: local, Remote: true} // a port gets nothing from itself
		fabric.Join(client)
		defer local.Close()
		defer fabric.Leave(client)
		frames, _ := virtio.Count(p.Offload, p.Data)
		complete := p.Offload.GSOType == virtio.GSONone // the fabric completes it
		bad := testenv.Must(fabric.Forward(NewRoutes(), client, buf.Packets, true))(t)
		if bad != 0 {
			if !local.queue.Empty() {
				t.Error("what is no packet was forwarded")
			}
			return
		}
		if local.queue.Empty() {
			if !complete || local.DroppedRecv.Load() != 1 {
				t.Error("a packet was lost, and not counted")
			}
			return
		}
		taken := make([]byte, virtio.MaxPacket)
		h, n := local.queue.Pop(taken)
		if again := message(h, taken[:n]); !complete && !bytes.Equal(again, b) {
			t.Errorf("got % x, want % x", again, b)
		}

		// Its frames, as Recv of a plug makes them.
		segments, err := new(virtio.Segmenter).Split(h, taken[:n], 0)
		if err == nil && len(segments) != frames {
			t.Errorf("%d frames, want %d", len(segments), frames)
		}
		for _, s := range segments {
			if len(s.Head)+len(s.Data) < ether.HeaderLen {
				t.Errorf("a frame of %d bytes", len(s.Head)+len(s.Data))
			}
		}
	})
}
