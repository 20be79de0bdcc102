package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"reflect"
	"slices"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// A half is one direction of a stream in memory.
type half struct {
	io.Reader
	io.Writer
}

func (half) Close() error { return nil }

// newConn returns a plug on a stream.
func newConn(rw io.ReadWriteCloser) plugtest.Conn { return plugtest.NewConn(New(rw)) }

// framed returns a frame in the form of a stream.
func framed(frame []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(frame))), frame...)
}

func TestStreamRecv(t *testing.T) {
	small := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), ether.HeaderLen)
	big := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), ether.MaxFrame)
	tests := []struct {
		name  string
		in    [][]byte
		want  [][]byte
		drops uint64
		err   error
		text  string
	}{
		{name: "nothing", err: io.EOF, text: "the peer has ended the stream: EOF"},
		{name: "frames", in: [][]byte{framed(small), framed(big)}, want: [][]byte{small, big}, err: io.EOF},
		{name: "length 0", in: [][]byte{{0, 0}, framed(small), {0, 0, 0, 0}}, want: [][]byte{small}, err: io.EOF},
		{name: "runt", in: [][]byte{framed(small[:13]), framed([]byte{1}), framed(small)}, want: [][]byte{small}, drops: 2, err: io.EOF},
		{name: "oversize", in: [][]byte{framed(make([]byte, ether.MaxFrame+1)), framed(make([]byte, ether.MaxFrame+2)), framed(small)},
			want: [][]byte{small}, drops: 2, err: io.EOF},
		{name: "no length", in: [][]byte{framed(small), {0x24, 0x15}}, want: [][]byte{small}, text: "frame length 9237 is more than 9236"},
		{name: "text", in: [][]byte{[]byte("login: ")}, text: "frame length 27759 is more than 9236"},
		{name: "torn length", in: [][]byte{framed(small), {0}}, want: [][]byte{small}, err: io.ErrUnexpectedEOF, text: "within a frame"},
		{name: "torn frame", in: [][]byte{framed(small)[:15]}, err: io.ErrUnexpectedEOF},
		{name: "torn body", in: [][]byte{framed(small)[:2]}, err: io.ErrUnexpectedEOF},
		{name: "torn drop", in: [][]byte{framed(small[:5])[:4]}, drops: 1, err: io.ErrUnexpectedEOF},
	}
	readers := map[string]func(io.Reader) io.Reader{
		"whole":    func(r io.Reader) io.Reader { return r },
		"bytewise": iotest.OneByteReader,
		"late EOF": iotest.DataErrReader,
	}
	for _, tt := range tests {
		for how, reader := range readers {
			t.Run(tt.name+" "+how, func(t *testing.T) {
				testenv.NoLeaks(t)
				c := newConn(half{reader(bytes.NewReader(slices.Concat(tt.in...))), io.Discard})
				defer c.Close()
				got, err := recvAll(c)
				if !reflect.DeepEqual(got, tt.want) {
					t.Errorf("got frames %.20x, want %.20x", got, tt.want)
				}
				plugtest.WantError(t, err, tt.text, tt.err)
				if _, again := c.Recv(make([]byte, ether.MaxFrame)); again != err {
					t.Errorf("then got error %v, want %v again", again, err)
				}
				if recv, send := plugtest.Dropped(c); recv != tt.drops || send != 0 {
					t.Errorf("got %d and %d drops, want %d and none", recv, send, tt.drops)
				}
			})
		}
	}
}

// recvAll receives until the end.
func recvAll(c plugtest.Conn) (frames [][]byte, err error) {
	buf := make([]byte, ether.MaxFrame)
	for {
		n, err := c.Recv(buf)
		if err != nil {
			return frames, err
		}
		frames = append(frames, bytes.Clone(buf[:n]))
	}
}

// readStream returns the frames of a stream.
func readStream(b []byte) ([][]byte, error) {
	c := newConn(half{bytes.NewReader(b), io.Discard})
	defer c.Close()
	return recvAll(c)
}

// A recorder keeps every write.
type recorder struct{ writes [][]byte }

func (r *recorder) Write(b []byte) (int, error) {
	r.writes = append(r.writes, bytes.Clone(b))
	return len(b), nil
}

func TestStreamSend(t *testing.T) {
	testenv.NoLeaks(t)
	var w recorder
	var want []byte
	c := newConn(half{iotest.ErrReader(io.EOF), &w})
	for i, n := range []int{14, 60, 1514, 4094, 4095, 9234, 1514, 1514, 1514, 100} {
		frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(i), n)
		want = append(want, framed(frame)...)
		testenv.Check(t, c.Send(frame))
	}
	c.Close()
	if got := slices.Concat(w.writes...); !bytes.Equal(got, want) {
		t.Errorf("wrote %d bytes, want the %d bytes of the frames", len(got), len(want))
	}
	for _, b := range w.writes {
		first := headerLen + int(binary.BigEndian.Uint16(b))
		if len(b) > writeSize && len(b) != first {
			t.Errorf("a write of %d bytes is more than one frame and more than a pipe takes whole", len(b))
		}
		if _, err := readStream(b); !errors.Is(err, io.EOF) {
			t.Errorf("a write of %d bytes is not of whole frames: %v", len(b), err)
		}
	}
}

// pipePair returns two streams joined by pipes of the system.
func pipePair(t *testing.T) (a, b plugtest.Conn) {
	t.Helper()
	r1, w1, err := os.Pipe()
	testenv.Check(t, err)
	r2, w2, err := os.Pipe()
	testenv.Check(t, err)
	a, b = newConn(plugtest.Pipe(r1, w2)), newConn(plugtest.Pipe(r2, w1))
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// TestStreamFull sends more than a peer reads: only complete frames arrive.
func TestStreamFull(t *testing.T) {
	testenv.NoLeaks(t)
	a, b := pipePair(t)
	const frames = 2000
	for i := range frames {
		frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(i), 1514)
		testenv.Check(t, a.Send(frame))
	}
	_, dropped := plugtest.Dropped(a)
	if dropped == 0 || dropped >= frames {
		t.Errorf("%d of %d frames dropped, want some", dropped, frames)
	}
	buf := make([]byte, ether.MaxFrame)
	for range frames - dropped {
		if n, err := b.Recv(buf); err != nil || n != 1514 {
			t.Fatalf("got %d bytes, %v, want 1514", n, err)
		}
	}
	// The peer reads on: the stream has recovered.
	in := plugtest.NewInbox(t, b)
	plugtest.Carry(t, a, in, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
}

func TestStreamPeerGone(t *testing.T) {
	testenv.NoLeaks(t)
	a, b := pipePair(t)
	b.Close()
	_, err := a.Recv(make([]byte, ether.MaxFrame))
	if !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want the end of the stream", err)
	}
	testenv.Eventually(t, "an error of Send", func() bool {
		err = a.Send(plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
		return err != nil
	})
	a.Close()
	if err := a.Send(nil); err != net.ErrClosed {
		t.Errorf("after close: got %v, want net.ErrClosed", err)
	}
}

func TestStreamConn(t *testing.T) {
	testenv.Long(t)
	for name, open := range map[string]func(t *testing.T) plugtest.Conn{
		"peer reads": func(t *testing.T) plugtest.Conn {
			a, b := pipePair(t)
			plugtest.NewInbox(t, b)
			return a
		},
		"peer does not read": func(t *testing.T) plugtest.Conn {
			a, _ := pipePair(t)
			return a
		},
		"no buffer": func(t *testing.T) plugtest.Conn {
			a, b := net.Pipe()
			t.Cleanup(func() { b.Close() })
			return newConn(a)
		},
	} {
		t.Run(name, func(t *testing.T) { plugtest.Check(t, open) })
	}
}

func TestStreamAllocs(t *testing.T) {
	a, b := pipePair(t)
	plugtest.CheckAllocs(t, a, b)
}

func FuzzStream(f *testing.F) {
	f.Add(framed(make([]byte, 60)))
	f.Add([]byte{0, 0, 0, 5, 1, 2, 3, 4, 5, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, in []byte) {
		frames, _ := readStream(in)
		var w recorder
		c := newConn(half{iotest.ErrReader(io.EOF), &w})
		total := 0
		for _, frame := range frames {
			total += headerLen + len(frame)
			testenv.Check(t, c.Send(frame))
		}
		c.Close()
		if total > len(in) {
			t.Fatalf("%d bytes of frames from a stream of %d", total, len(in))
		}
		if total > queueSize {
			return
		}
		got, _ := readStream(slices.Concat(w.writes...))
		if !reflect.DeepEqual(got, frames) {
			t.Errorf("%d frames came back as %d", len(frames), len(got))
		}
	})
}

// TestStreamBurst sends more at once than is queued.
func TestStreamBurst(t *testing.T) {
	packets := make([]packet.Packet, 4*queueSize/ether.MaxFrame)
	for i := range packets {
		packets[i].Data = plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), ether.MaxFrame)
	}
	for _, tt := range []struct {
		name  string
		reads bool
		close time.Duration // 0: after all is sent
		took  time.Duration
		err   bool
	}{
		{name: "to a reader", reads: true},
		{name: "to nobody", took: packet.RoomWait},
		{name: "until it is closed", close: packet.RoomWait / 2, took: packet.RoomWait / 2, err: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, w := io.Pipe()
				c := New(half{bytes.NewReader(nil), w})
				got := make(chan int, 1)
				if tt.reads {
					go func() {
						c := newConn(half{r, io.Discard})
						defer c.Close()
						frames, _ := recvAll(c)
						got <- len(frames)
					}()
				}
				if tt.close != 0 {
					time.AfterFunc(tt.close, func() { r.Close(); c.Close() })
				}
				start := time.Now()
				if err := c.SendPackets(packets, true); (err != nil) != tt.err {
					t.Errorf("got %v, want an error: %v", err, tt.err)
				}
				if d := time.Since(start); d != tt.took {
					t.Errorf("it waits for %v, want %v", d, tt.took)
				}
				if tt.reads {
					c.Close()
					w.Close()
					if n := <-got; n != len(packets) {
						t.Errorf("%d of %d frames arrive", n, len(packets))
					}
				} else if tt.close == 0 {
					if c.DroppedSend.Load() == 0 {
						t.Error("nothing was dropped")
					}
					r.Close()
					c.Close()
				}
			})
		})
	}
}

// TestStdio reads what it writes, from a pipe that leads from standard output to standard
// input.
func TestStdio(t *testing.T) {
	in, out := os.Stdin, os.Stdout
	defer func() { os.Stdin, os.Stdout = in, out }()
	var err error
	os.Stdin, os.Stdout, err = os.Pipe()
	testenv.Check(t, err)
	defer os.Stdin.Close()
	defer os.Stdout.Close()
	var s Stdio
	testenv.Must(io.WriteString(s, "hello"))(t)
	testenv.Check(t, s.Close())
	b := make([]byte, 10)
	if n, err := s.Read(b); err != nil || string(b[:n]) != "hello" {
		t.Errorf("got %q, %v", b[:n], err)
	}
}
