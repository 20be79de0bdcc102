package packet_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/virtio"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// impossible is a packet of which no frames can be made.
func impossible() packet.Packet {
	return packet.Packet{Offload: virtio.Header{GSOType: 99, GSOSize: 1}, Data: make([]byte, 100)}
}

// A fakeConn receives frames from a list and keeps what it is sent.
type fakeConn struct {
	in, out [][]byte
	refuse  error
}

func (c *fakeConn) Recv(frame []byte) (int, error) {
	if len(c.in) == 0 {
		return 0, io.EOF
	}
	n := copy(frame, c.in[0])
	c.in = c.in[1:]
	return n, nil
}

func (c *fakeConn) Send(frame []byte) error {
	if c.refuse != nil {
		return c.refuse
	}
	c.out = append(c.out, bytes.Clone(frame))
	return nil
}

func (c *fakeConn) Close() error { return errors.New("closed") }

// TestFrames cuts packets for a FrameConn, and returns its frames as packets.
func TestFrames(t *testing.T) {
	c := &fakeConn{in: [][]byte{[]byte("first"), []byte("second")}}
	f := packet.NewFrames(c, 1514)
	large := packettest.TCP(5, 1000)
	whole := packettest.TCP(1, 100)
	whole.Offload = virtio.Header{}
	want := packettest.Frames(t, packettest.TCP(5, 1000))
	want = append(want, bytes.Clone(whole.Data))
	if err := f.SendPackets([]packet.Packet{large, impossible(), whole}, false); err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(c.out, want, bytes.Equal) {
		t.Errorf("sent %d frames, want %d, or they differ", len(c.out), len(want))
	}
	if recv, send := packet.Dropped(f); recv != 0 || send != 1 {
		t.Errorf("dropped %d and %d, want 0 and 1", recv, send)
	}
	c.refuse = net.ErrClosed
	if err := f.SendPackets([]packet.Packet{whole}, false); err != net.ErrClosed {
		t.Errorf("send: %v, want net.ErrClosed", err)
	}

	var b packet.Buffer
	for _, want := range []string{"first", "second"} {
		got, err := f.RecvPackets(&b)
		if err != nil || len(got) != 1 || string(got[0].Data) != want || got[0].Offload != (virtio.Header{}) {
			t.Errorf("received %v, %v, want %q", got, err, want)
		}
	}
	if got, err := f.RecvPackets(&b); err != io.EOF || len(b.Packets) != 0 {
		t.Errorf("received %v, %v, want io.EOF", got, err)
	}
	if err := f.Close(); err == nil || err.Error() != "closed" {
		t.Errorf("close: %v, want the error of the FrameConn", err)
	}
}

// batches are what a FrameReader is given, one with each call.
type batches [][]packet.Packet

func (bs *batches) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	if len(*bs) == 0 {
		return nil, io.EOF
	}
	mem := b.Bytes()
	for _, p := range (*bs)[0] {
		n := copy(mem, p.Data)
		b.Add(p.Offload, mem[:n])
		mem = mem[n:]
	}
	*bs = (*bs)[1:]
	return b.Packets, nil
}

// TestFrameReader reads packets frame by frame. What the caller has no room for, and
// what is no frame, is counted.
func TestFrameReader(t *testing.T) {
	var r packet.FrameReader
	var counters packet.Counters
	var closing atomic.Bool
	from := &batches{
		{packettest.TCP(3, 1000), impossible()},
		{},
		{packettest.TCP(1, 50), packettest.TCP(2, 1400)},
	}
	want := packettest.Frames(t, packettest.TCP(3, 1000))
	small := packettest.Frames(t, packettest.TCP(1, 50))
	buf := make([]byte, 1200)
	for _, frame := range append(want, small...) {
		n, err := r.Recv(from, &counters, &closing, buf)
		if err != nil || !bytes.Equal(buf[:n], frame) {
			t.Errorf("received %d bytes, %v, want %d", n, err, len(frame))
		}
	}
	if _, err := r.Recv(from, &counters, &closing, buf); err != io.EOF {
		t.Errorf("at the end: %v, want io.EOF", err)
	}
	if recv, send := counters.Dropped(); recv != 3 || send != 0 {
		t.Errorf("dropped %d and %d, want the impossible packet and two large frames", recv, send)
	}
	// Closing takes what is left of a packet.
	from = &batches{{packettest.TCP(3, 1000)}}
	if _, err := r.Recv(from, &counters, &closing, buf); err != nil {
		t.Fatal(err)
	}
	closing.Store(true)
	if _, err := r.Recv(from, &counters, &closing, buf); err != net.ErrClosed {
		t.Errorf("after Close: %v, want net.ErrClosed", err)
	}
}

// TestBuffer takes memory when it is used and gives it back.
func TestBuffer(t *testing.T) {
	var b packet.Buffer
	b.Release()
	mem := b.Bytes()
	if len(mem) != packet.Size || len(b.Packets) != 0 {
		t.Fatalf("%d bytes and %d packets", len(mem), len(b.Packets))
	}
	h := virtio.Header{GSOSize: 7}
	b.Add(h, mem[10:20])
	b.AddRoom(virtio.Header{}, mem[30:40], 5)
	if len(b.Packets) != 2 || b.Packets[0].Offload != h || b.Packets[0].Room != 0 || b.Packets[1].Room != 5 {
		t.Errorf("packets: %+v", b.Packets)
	}
	p := b.Packets[1]
	if p.Prepend(6) {
		t.Error("there is room for 5 bytes, and 6 were taken")
	}
	if !p.Prepend(5) || &p.Data[0] != &mem[25] || len(p.Data) != 15 || p.Room != 0 {
		t.Errorf("after Prepend: %d bytes, room %d", len(p.Data), p.Room)
	}
	if b.Bytes(); len(b.Packets) != 0 {
		t.Error("Bytes leaves packets that are about to be overwritten")
	}
	b.Release()
	if b.Packets != nil {
		t.Error("Release leaves packets in memory that others have")
	}
}
