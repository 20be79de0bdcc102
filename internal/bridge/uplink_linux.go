//go:build amd64 || arm64

package bridge

import (
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"github.com/vdestack/vdestack/internal/memnet"
	"github.com/vdestack/vdestack/internal/nic"
	"github.com/vdestack/vdestack/internal/packet"
	"golang.org/x/sys/unix"
)

// An uplink joins a switch of the kernel to the switch in user space with the same
// name, while that has plugs. It is a veth pair: one end is a port of the first bridge,
// the other has a packet socket, which needs no device that a container may lack.
type uplink struct {
	sw *Switch
	// The ends of the pair, once it is made. It lasts as long as the network.
	near, far int

	// While it is connected:
	dev           *nic.Device
	port          packet.Transport // to the switch in user space
	sent, arrived chan struct{}    // closed at the end of send and of receive
}

var _ memnet.Uplink = (*uplink)(nil)

// Connect implements [memnet.Uplink]: it opens the socket and carries frames through it.
func (u *uplink) Connect(port packet.Transport) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("joining the stacks of %s: %w", u.sw.name, err)
		}
	}()
	if err := u.make(); err != nil {
		return err
	}
	u.sw.silence()
	if u.dev, err = u.sw.openFar(u.far, nic.All); err != nil {
		return err
	}
	if err := u.sw.flood(u.near, true, func(_, _ *netlink.AttributeEncoder) {}); err != nil {
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
	near, far, err := u.sw.addPair("plugs", u.sw.root)
	if err != nil {
		return explainMissing(err, "veth")
	}
	if err = u.sw.nl.LinkSetUp(far); err == nil {
		_, err = AwaitCarrier(context.Background(), u.sw.nl, near)
	}
	if err != nil {
		return errors.Join(err, u.sw.nl.LinkDel(near))
	}
	u.near, u.far = near, far
	return nil
}

// Disconnect implements [memnet.Uplink]: it closes the socket after the backlog has
// passed, from the plugs and, if they are still there, from the stacks.
func (u *uplink) Disconnect() {
	nic.Drain(u.dev, nic.DrainTime)
	u.port.Close()
	<-u.arrived
	u.dev.Close()
	<-u.sent
	if u.sw.ending.Load() {
		return
	}
	// The bridge forgets the addresses of the plugs. It fails if the network is gone.
	u.sw.flood(u.near, false, func(_, port *netlink.AttributeEncoder) { port.Flag(unix.IFLA_BRPORT_FLUSH, true) })
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
