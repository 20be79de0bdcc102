package p2p

import (
	"net"
	"os"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/testenv"
)

// checkQueue sends more than a peer that does not read has room for.
func checkQueue(t *testing.T, from, to plugtest.Conn) {
	t.Helper()
	const frames = 20000
	frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 1514)
	for range frames {
		testenv.Check(t, from.Send(frame))
	}
	_, dropped := plugtest.Dropped(from)
	if dropped == 0 || frames-dropped < 50 {
		t.Errorf("%d of %d frames dropped, want some, but less", dropped, frames)
	}
	in := plugtest.NewInbox(t, to)
	plugtest.Carry(t, from, in, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
}

func TestPTPFull(t *testing.T) {
	testenv.NoLeaks(t)
	a, b := ptpPair(t)
	// As long as an end is not connected back, its queue is short.
	testenv.Eventually(t, "a connection back", a.role.isConnected)
	checkQueue(t, end(t, b), end(t, a))
}

func (p *ptpRole) isConnected() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.connected
}

func TestPTPDatagrams(t *testing.T) {
	testenv.NoLeaks(t)
	path := ptpPath(t)
	c := end(t, testenv.Must(OpenPTP(path))(t))
	peer, err := net.DialUnix("unixgram",
		&net.UnixAddr{Name: path + "+", Net: "unixgram"}, &net.UnixAddr{Name: path, Net: "unixgram"})
	testenv.Check(t, err)
	defer peer.Close()
	checkDatagrams(t, peer, c, 0)
}

// TestPTPEmpty checks that no end sends an empty datagram: vdens 0.2 takes it for the end of
// the network.
func TestPTPEmpty(t *testing.T) {
	testenv.NoLeaks(t)
	for _, name := range []string{"", SecondSuffix} { // of the peer
		path := ptpPath(t)
		var c *PTP
		if name == SecondSuffix {
			c = testenv.Must(OpenPTP(path))(t)
		}
		peer := testenv.Must(net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path + name, Net: "unixgram"}))(t)
		defer peer.Close()
		if name == "" {
			c = testenv.Must(OpenPTP(path))(t)
		}
		frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)
		testenv.Eventually(t, "a connection", c.role.isConnected)
		plug := end(t, c)
		plugtest.Send(t, plug, frame)
		plug.Close()
		got := make([]byte, ether.MaxFrame)
		peer.SetReadDeadline(time.Now().Add(testenv.Timeout))
		if n, err := peer.Read(got); err != nil || n != len(frame) {
			t.Errorf("the first datagram: got %d bytes, %v, want %d", n, err, len(frame))
		}
		peer.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if n, err := peer.Read(got); err == nil {
			t.Errorf("after the frame: got %d bytes, want nothing", n)
		}
	}
}

// checkDatagrams sends invalid frames from the socket of the peer.
func checkDatagrams(t *testing.T, peer net.Conn, c plugtest.Conn, empty uint64) {
	t.Helper()
	short, long := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 100), plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 101)
	for _, b := range [][]byte{make([]byte, ether.HeaderLen-1), make([]byte, ether.MaxFrame+1), make([]byte, 20000), long, {}, short} {
		testenv.Must(peer.Write(b))(t)
	}
	buf := make([]byte, 100)
	if n, err := c.Recv(buf); err != nil || string(buf[:n]) != string(short) {
		t.Errorf("got %x, %v, want the only good frame", buf[:n], err)
	}
	if got, _ := plugtest.Dropped(c); got != 4+empty {
		t.Errorf("%d drops, want %d", got, 4+empty)
	}
}

// TestPTPDirect checks that two ends of this package use their pair of sockets, also after one
// was killed.
func TestPTPDirect(t *testing.T) {
	testenv.NoLeaks(t)
	path := ptpPath(t)
	first := testenv.Must(OpenPTP(path))(t)
	second := testenv.Must(OpenPTP(path))(t)
	plugtest.Greet(t, first, second)
	for _, c := range []*PTP{first, second} {
		if c.direct.pair.Load() == nil {
			t.Errorf("%s: no pair", c.role.own)
		}
	}
	// A killed end leaves its name. The other notices the end of the pair, and continues
	// with the next.
	second.kill()
	again := testenv.Must(OpenPTP(path))(t)
	if again.role.own != path+SecondSuffix {
		t.Fatalf("took the name %s", again.role.own)
	}
	in := plugtest.NewInbox(t, plugtest.NewConn(first))
	plugtest.Carry(t, end(t, again), in, plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60))
	// Until it has noticed, it takes no offer; the next one comes a little later.
	testenv.Eventually(t, "the end of the first pair", first.direct.unpaired)
	testenv.Check(t, again.SendPackets([]packet.Packet{{Data: plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60)}}, true))
	testenv.Eventually(t, "a pair", func() bool { return first.direct.pair.Load() != nil })
}

// TestPTPDirectC has an end in C, which stays with datagrams.
func TestPTPDirectC(t *testing.T) {
	testenv.NoLeaks(t)
	path := ptpPath(t)
	c := plugtest.CPlug(t, "ptp://"+path)
	testenv.Eventually(t, path, func() bool {
		_, err := os.Lstat(path)
		return err == nil
	})
	ours := testenv.Must(OpenPTP(path))(t)
	plug := plugtest.NewConn(ours)
	in := plugtest.NewInbox(t, plug)
	plugtest.Carry(t, plug, c.Inbox, plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 60))
	for i := range 3 {
		frame := plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 100+i)
		testenv.Check(t, ours.SendPackets([]packet.Packet{{Data: frame}}, true))
		c.Want(t, frame)
	}
	plugtest.Carry(t, c, in, plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60))
	if !ours.direct.offered.Load() || ours.direct.pair.Load() != nil {
		t.Errorf("offered %v, a pair %v", ours.direct.offered.Load(), ours.direct.pair.Load())
	}
	testenv.Eventually(t, "the end of the pair", ours.direct.unpaired)
}

// unpaired reports whether there is no pair to receive from.
func (d *direct) unpaired() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.file == nil
}

// kill closes everything, but leaves the name, as the kernel does for a killed process.
func (c *PTP) kill() {
	c.role.id = sockio.FileID{}
	c.Close()
}
