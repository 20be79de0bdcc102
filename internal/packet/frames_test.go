package packet_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

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
	dropped drops
}

func (c *fakeConn) Drops() drops { return c.dropped }

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

// drops is what the method Drops of plugs returns.
type drops = struct{ Recv, Send uint64 }

// A stuckConn does not return from Send before it is closed.
type stuckConn struct {
	fakeConn
	sending chan struct{}
	closed  chan struct{}
}

func (c *stuckConn) Send([]byte) error {
	c.sending <- struct{}{}
	<-c.closed
	return net.ErrClosed
}

func (c *stuckConn) Close() error {
	close(c.closed)
	return nil
}

// TestFramesStuck has a FrameConn that blocks in Send: another call of SendPackets
// gets to it all the same, and Close ends both.
func TestFramesStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &stuckConn{sending: make(chan struct{}), closed: make(chan struct{})}
		f := packet.Of[drops](c, 1514)
		errs := make(chan error, 2)
		for range 2 {
			go func() { errs <- f.SendPackets([]packet.Packet{packettest.TCP(5, 1000)}, false) }()
		}
		<-c.sending
		<-c.sending
		testenv.Check(t, f.Close())
		for range 2 {
			if err := <-errs; err != net.ErrClosed {
				t.Errorf("send: %v, want net.ErrClosed", err)
			}
		}
	})
}

// TestFrames cuts packets for a FrameConn, and returns its frames as packets.
func TestFrames(t *testing.T) {
	c := &fakeConn{in: [][]byte{[]byte("first"), []byte("second")}}
	f := packet.Of[drops](c, 1514)
	large := packettest.TCP(5, 1000)
	whole := packettest.TCP(1, 100)
	whole.Offload = virtio.Header{}
	want := packettest.Frames(t, packettest.TCP(5, 1000))
	want = append(want, bytes.Clone(whole.Data))
	testenv.Check(t, f.SendPackets([]packet.Packet{large, impossible(), whole}, false))
	if !slices.EqualFunc(c.out, want, bytes.Equal) {
		t.Errorf("sent %d frames, want %d, or they differ", len(c.out), len(want))
	}
	if recv, send := packet.Dropped(f); recv != 0 || send != 1 {
		t.Errorf("dropped %d and %d, want 0 and 1", recv, send)
	}
	c.dropped = drops{7, 20}
	if recv, send := packet.Dropped(f); recv != 7 || send != 21 {
		t.Errorf("dropped %d and %d, want 7 and 21 with those of the FrameConn", recv, send)
	}
	if found, ok := packet.Find[*fakeConn](f); !ok || found != c {
		t.Errorf("found %v below the transport, want the FrameConn", found)
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

// batches is a Transport that receives from a list, one batch with each call.
type batches struct {
	packet.Transport
	in [][]packet.Packet
}

func (bs *batches) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	if len(bs.in) == 0 {
		return nil, io.EOF
	}
	mem := b.Bytes()
	for _, p := range bs.in[0] {
		n := copy(mem, p.Data)
		b.Add(p.Offload, mem[:n])
		mem = mem[n:]
	}
	bs.in = bs.in[1:]
	return b.Packets, nil
}

func (bs *batches) Close() error { return nil }

// TestOf returns transports as they are.
func TestOf(t *testing.T) {
	c := packet.NewConn(packet.Of[drops](&fakeConn{}, 1514), nil)
	if packet.Of[drops](c, 1514) != packet.Transport(c) {
		t.Error("a transport has got another around it")
	}
}

// TestConnErrors explains errors of the transport, until it is closed.
func TestConnErrors(t *testing.T) {
	for _, explained := range []bool{false, true} {
		under := &fakeConn{refuse: errors.New("full")}
		var explain func(op string, err error) error
		want := map[string]string{"recv": "EOF", "send": "full"}
		if explained {
			explain = func(op string, err error) error { return fmt.Errorf("%s: %w", op, err) }
			want = map[string]string{"recv": "recv: EOF", "send": "send: full"}
		}
		c := packet.NewConn(packet.Of[drops](under, 1514), explain)
		if _, err := c.Recv(make([]byte, 100)); err == nil || err.Error() != want["recv"] {
			t.Errorf("recv: %v, want %s", err, want["recv"])
		}
		if err := c.Send(make([]byte, 60)); err == nil || err.Error() != want["send"] {
			t.Errorf("send: %v, want %s", err, want["send"])
		}
		for range 2 {
			if err := c.Close(); err == nil || err.Error() != "closed" {
				t.Errorf("close: %v, want the error of the transport", err)
			}
		}
		if _, err := c.Recv(make([]byte, 100)); err != net.ErrClosed {
			t.Errorf("recv after Close: %v", err)
		}
		if err := c.Send(make([]byte, 60)); err != net.ErrClosed {
			t.Errorf("send after Close: %v", err)
		}
	}
}

// TestConnRecv reads packets frame by frame. What the caller has no room for, and what is no
// frame, is counted.
func TestConnRecv(t *testing.T) {
	from := &batches{in: [][]packet.Packet{
		{packettest.TCP(3, 1000), impossible()},
		{},
		{packettest.TCP(1, 50), packettest.TCP(2, 1400)},
	}}
	c := packet.NewConn(from, nil)
	want := packettest.Frames(t, packettest.TCP(3, 1000))
	small := packettest.Frames(t, packettest.TCP(1, 50))
	buf := make([]byte, 1200)
	for _, frame := range append(want, small...) {
		n, err := c.Recv(buf)
		if err != nil || !bytes.Equal(buf[:n], frame) {
			t.Errorf("received %d bytes, %v, want %d", n, err, len(frame))
		}
	}
	if _, err := c.Recv(buf); err != io.EOF {
		t.Errorf("at the end: %v, want io.EOF", err)
	}
	if recv, send := c.Dropped(); recv != 3 || send != 0 {
		t.Errorf("dropped %d and %d, want the impossible packet and two large frames", recv, send)
	}
	// Closing takes what is left of a packet.
	from.in = [][]packet.Packet{{packettest.TCP(3, 1000)}}
	testenv.Must(c.Recv(buf))(t)
	testenv.Check(t, c.Close())
	if _, err := c.Recv(buf); err != net.ErrClosed {
		t.Errorf("after Close: %v, want net.ErrClosed", err)
	}
}

// A source is a FrameConn whose Recv waits for Send.
type source chan struct{}

func (s source) Recv([]byte) (int, error) { <-s; return 60, nil }
func (s source) Send([]byte) error        { s <- struct{}{}; return nil }
func (s source) Close() error             { return nil }

// TestReceivers wait for each other in the sense of synctest, on a Transport and on a Conn.
func TestReceivers(t *testing.T) {
	for _, frames := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := make(source)
			from := packet.Of[drops](s, 60)
			c := packet.NewConn(from, nil)
			var got atomic.Int32
			var all sync.WaitGroup
			for range 3 {
				all.Go(func() {
					var b packet.Buffer
					defer b.Release()
					var err error
					if frames {
						_, err = c.Recv(make([]byte, 60))
					} else {
						_, err = from.RecvPackets(&b)
					}
					testenv.Check(t, err)
					got.Add(1)
				})
			}
			for n := range int32(3) {
				synctest.Wait() // would not return if they were not durably blocked
				if got.Load() != n {
					t.Errorf("%d have received, want %d", got.Load(), n)
				}
				testenv.Check(t, s.Send(nil))
			}
			all.Wait()
		})
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

// TestCarry carries frames until one side fails.
func TestCarry(t *testing.T) {
	refused := errors.New("refused")
	for _, refuse := range []error{nil, refused} {
		source, sink := &fakeConn{in: [][]byte{make([]byte, 60), make([]byte, 61)}}, &fakeConn{refuse: refuse}
		from, to := packet.Of[drops](source, 1514), packet.Of[drops](sink, 1514)
		failed, err := packet.Carry(from, to)
		switch {
		case refuse == nil && (failed != from || err != io.EOF || len(sink.out) != 2 || len(sink.out[1]) != 61):
			t.Errorf("got %v and %d frames, want the end of the source after 2", err, len(sink.out))
		case refuse != nil && (failed != to || err != refused):
			t.Errorf("got %v, want the error of the sink", err)
		}
	}
}
