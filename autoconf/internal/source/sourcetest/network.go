package sourcetest

import (
	"encoding/json"
	"sync"
	"testing"

	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/vdeplug"
)

// A Network carries the packets of a link to the test and back, each as the JSON of a Sent in a
// frame, over a network of the scheme netemu.
type Network struct {
	t    testing.TB
	link *Link
	// Sent has what has arrived of what the source has sent. The test reads it instead of that
	// of the link.
	Sent chan Sent

	near, far vdeplug.Conn // the plugs of the link, which is impaired, and of the test
	done      chan struct{}
	readers   sync.WaitGroup
}

// Over has the packets of the lab's link go over a network with options of netemu, such as
// "seed=1/loss=25%", until Close.
func (l *Lab) Over(options string) *Network {
	l.Helper()
	n := &Network{t: l.T, link: l.Link, Sent: make(chan Sent, cap(l.Link.Sent)), done: make(chan struct{})}
	network := "mem://" + l.Name()
	n.near, n.far = open(l.T, "netemu://"+options+"{"+network+"}"), open(l.T, network)
	n.readers.Go(func() {
		for {
			select {
			case s := <-l.Link.Sent:
				n.send(n.near, s)
			case <-n.done:
				return
			}
		}
	})
	n.readers.Go(func() { n.receive(n.far, func(s Sent) { n.Sent <- s }) })
	n.readers.Go(func() { n.receive(n.near, func(s Sent) { l.Link.Deliver(s.Port, s.Packet) }) })
	return n
}

func open(t testing.TB, vnl string) vdeplug.Conn {
	t.Helper()
	c, err := vdeplug.Open(vnl, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// header is the Ethernet header: to all, of a type for experiments.
var header = []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5}

func (n *Network) send(c vdeplug.Conn, s Sent) {
	b, err := json.Marshal(s)
	if err == nil {
		err = c.Send(append(header[:len(header):len(header)], b...))
	}
	if err != nil {
		n.t.Error(err)
	}
}

func (n *Network) receive(c vdeplug.Conn, f func(Sent)) {
	frame := make([]byte, 1<<16)
	for {
		size, err := c.Recv(frame)
		if err != nil {
			return // closed
		}
		var s Sent
		if err := json.Unmarshal(frame[len(header):size], &s); err != nil {
			n.t.Error(err)
			return
		}
		f(s)
	}
}

// Deliver sends a packet to the ports of the link with a name.
func (n *Network) Deliver(name string, p source.Packet) { n.send(n.far, Sent{name, p}) }

// Close ends the network, and checks that it has impaired both directions as its options say:
// that it has lost, repeated and held back frames.
func (n *Network) Close() {
	n.t.Helper()
	out, in := vdeplug.FindEmulator(n.near).Counts()
	for _, c := range []vdeplug.EmulationCounts{out, in} {
		if c.Lost == 0 || c.Duplicated == 0 || c.Reordered == 0 {
			n.t.Errorf("the network has done this: %+v", c)
		}
	}
	close(n.done)
	n.near.Close()
	n.far.Close()
	n.readers.Wait()
}
