//go:build amd64 || arm64

package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"

	"github.com/vdestack/vdestack/internal/nic"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

// A cable is an interface without a TAP: a veth pair with one end in the stack
// and the other in a namespace of the process, where a packet socket reads and
// writes it.
type cable struct {
	hub *lan
	far int
}

// cables is the namespace of the far ends of all cables.
var cables struct {
	mu    sync.Mutex // guards the fields below; held while the hub is made or ended
	hub   *lan
	users int
}

func joinCables() (*lan, error) {
	cables.mu.Lock()
	defer cables.mu.Unlock()
	if cables.hub == nil {
		hub, err := newHub("cables")
		if err != nil {
			return nil, err
		}
		cables.hub = hub
	}
	cables.users++
	return cables.hub, nil
}

func leaveCables() error {
	cables.mu.Lock()
	defer cables.mu.Unlock()
	if cables.users--; cables.users > 0 {
		return nil
	}
	hub := cables.hub
	cables.hub = nil
	return hub.close()
}

// openCable makes the interface cfg of a stack, down, and opens its other end.
func (s *Stack) openCable(ctx context.Context, nl *rtnl.Conn, cfg Interface, o nic.Offload) (_ *cable, _ *nic.Device, err error) {
	ns, err := s.ns.File()
	if err != nil {
		return nil, nil, err
	}
	defer ns.Close()
	c := &cable{}
	if c.hub, err = joinCables(); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.remove())
		}
	}()
	number := c.hub.next()
	spec := rtnl.LinkSpec{
		Name: fmt.Sprintf("far%d", number), Index: number, Kind: "veth", MTU: portMTU, Queues: lanQueues, Up: true,
		Peer: &rtnl.LinkSpec{Name: cfg.Name, Index: firstIndex + len(s.ifaces), MTU: cfg.MTU, MAC: cfg.MAC, Queues: lanQueues, NetNS: ns},
	}
	_, err = addLink(c.hub.nl, spec)
	if errors.Is(err, unix.EBUSY) || s.joined && errors.Is(err, unix.EEXIST) {
		spec.Peer.Index = 0
		err = retryTaken(ctx, nl, cfg.Name, func() error { _, err := addLink(c.hub.nl, spec); return err })
	}
	if err != nil {
		return nil, nil, explainLAN(err, "veth")
	}
	c.far = number
	if err := s.setOffload(cfg.Name, o); err != nil {
		return nil, nil, err
	}
	fd, err := c.hub.socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return nil, nil, err
	}
	dev, err := nic.NewSocket(fd, c.far, o)
	return c, dev, err
}

// remove takes both ends away, which takes the kernel some ten milliseconds.
func (c *cable) remove() error {
	var err error
	if c.far != 0 {
		if err = c.hub.nl.LinkDel(c.far); errors.Is(err, unix.ENODEV) {
			err = nil // it went with the stack's namespace
		}
	}
	return errors.Join(err, leaveCables())
}

// abandon leaves the cable to the kernel, which removes it with the namespace of
// its stack; if something else keeps that, it is removed later.
func (c *cable) abandon() error {
	far, nl := c.far, c.hub.nl
	time.AfterFunc(reapDelay, func() {
		reaping.Lock()
		defer reaping.Unlock()
		nl.LinkDel(far) // an error is that of what is gone
	})
	return leaveCables()
}

// Of linux/ethtool.h.
const (
	ethtoolSetTxChecksum = 0x17
	ethtoolSetTSO        = 0x1f
)

// setOffload switches off what the interface of a stack is not to leave to who
// reads the other end.
func (s *Stack) setOffload(name string, o nic.Offload) error {
	const tso = nic.TSO4 | nic.TSO6
	if o&(nic.Header|nic.Checksum|tso) == nic.Header|nic.Checksum|tso {
		return nil
	}
	fd, err := s.ns.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	off := func(cmd uint32) error {
		value := &struct{ cmd, data uint32 }{cmd: cmd}
		ifr := &struct {
			name [unix.IFNAMSIZ]byte
			data *struct{ cmd, data uint32 }
			_    [16]byte
		}{data: value}
		copy(ifr.name[:unix.IFNAMSIZ-1], name)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(ifr))); errno != 0 {
			return os.NewSyscallError("ioctl SIOCETHTOOL "+name, errno)
		}
		return nil
	}
	if err := off(ethtoolSetTSO); err != nil {
		return err
	}
	if o&nic.Checksum == 0 {
		return off(ethtoolSetTxChecksum)
	}
	return nil
}
