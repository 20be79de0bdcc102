//go:build amd64 || arm64

package bridge

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

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
	made      atomic.Bool

	// While it is connected:
	dev           *nic.Device
	port          packet.Transport // to the switch in user space
	sent, arrived chan struct{}    // closed when no more packets are carried to and from port
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
	if err := u.sw.flood(u.near, 1, func(_, _ *netlink.AttributeEncoder) {}); err != nil {
		u.dev.Close()
		return err
	}
	u.port, u.sent, u.arrived = port, make(chan struct{}), make(chan struct{})
	go func() {
		defer close(u.sent)
		packet.Carry(device{u.dev}, port)
	}()
	go func() {
		defer close(u.arrived)
		packet.Carry(port, device{u.dev})
	}()
	return nil
}

// A device is a packet socket as a transport.
type device struct{ *nic.Device }

// RecvPackets implements [packet.Transport].
func (d device) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) { return d.Read(b) }

// SendPackets implements [packet.Transport].
func (d device) SendPackets(packets []packet.Packet, _ bool) error {
	_, err := d.Write(packets)
	return err
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
	u.made.Store(true)
	return nil
}

// plugged reports whether there are or were plugs.
func (u *uplink) plugged() bool { return u != nil && u.made.Load() }

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
	u.sw.flood(u.near, 0, func(_, port *netlink.AttributeEncoder) { port.Flag(unix.IFLA_BRPORT_FLUSH, true) })
}
