//go:build amd64 || arm64

package stack

import (
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"github.com/vdestack/vdestack/internal/memnet"
	"github.com/vdestack/vdestack/internal/nic"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

// An uplink joins a network of the kernel to the switch in user space that has the
// same name, see package memnet, while that has plugs: a port of the first bridge, a
// veth pair, and a packet socket at its other end, which needs no device that a
// container may lack.
type uplink struct {
	lan *lan
	// The ends of the pair, once it is made: it stays with the network.
	near, far int

	// While it is connected:
	dev           *nic.Device
	port          packet.Transport // to the switch in user space
	sent, arrived chan struct{}    // closed at the end of send and of receive
}

var _ memnet.Uplink = (*uplink)(nil)

// Connect opens the socket and carries frames through it.
func (u *uplink) Connect(port packet.Transport) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("joining the stacks of %s: %w", u.lan.vnl, err)
		}
	}()
	if err := u.make(); err != nil {
		return err
	}
	u.lan.silence()
	if u.dev, err = u.lan.openFar(u.far); err != nil {
		return err
	}
	if err := u.lan.flood(u.near, true, func(_, _ *netlink.AttributeEncoder) {}); err != nil {
		u.dev.Close()
		return err
	}
	u.port, u.sent, u.arrived = port, make(chan struct{}), make(chan struct{})
	go u.send()
	go u.receive()
	return nil
}

// make makes the pair, and the near end a port of the first bridge.
func (u *uplink) make() error {
	if u.near != 0 {
		return nil
	}
	n := u.lan
	near, far := n.next(), n.next()
	_, err := addLink(n.nl, rtnl.LinkSpec{
		Name: fmt.Sprintf("port%d", near), Index: near, Kind: "veth", Master: n.root, MTU: portMTU, Queues: lanQueues, Up: true,
		Peer: &rtnl.LinkSpec{Name: fmt.Sprintf("plugs%d", far), Index: far, MTU: portMTU, Queues: lanQueues},
	})
	if err != nil {
		return explainLAN(err, "veth")
	}
	if err = n.nl.LinkSetUp(far); err == nil {
		err = n.await(near)
	}
	if err != nil {
		return errors.Join(err, n.nl.LinkDel(near))
	}
	u.near, u.far = near, far
	return nil
}

// Disconnect closes the socket, when what the plugs sent has passed, and, if they
// are still there, what the stacks sent.
func (u *uplink) Disconnect() {
	drain(u.dev, drainPump)
	u.port.Close()
	<-u.arrived
	u.dev.Close()
	<-u.sent
	if u.lan.ending.Load() {
		return
	}
	// The stations that were plugs are nowhere now. An error is that of a network
	// that is gone.
	u.lan.flood(u.near, false, func(_, port *netlink.AttributeEncoder) { port.Flag(unix.IFLA_BRPORT_FLUSH, true) })
}

// openFar opens the interface at the other end of a veth pair, in the network's
// namespace.
func (n *lan) openFar(index int) (*nic.Device, error) {
	fd, err := n.socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return nil, err
	}
	return nic.NewSocket(fd, index, nic.All)
}

// send carries packets from the stacks to the plugs.
func (u *uplink) send() {
	defer close(u.sent)
	var b packet.Buffer
	defer b.Release()
	var turn packet.Turn
	for {
		packets, err := u.dev.Read(&b)
		turn.Begin()
		if err != nil || u.port.SendPackets(packets, true) != nil {
			return
		}
		turn.End()
	}
}

// receive carries packets from the plugs to the stacks.
func (u *uplink) receive() {
	defer close(u.arrived)
	var b packet.Buffer
	defer b.Release()
	var turn packet.Turn
	for {
		packets, err := u.port.RecvPackets(&b)
		if err != nil {
			return
		}
		turn.Begin()
		if _, err := u.dev.Write(packets); err != nil {
			return
		}
		turn.End()
	}
}
