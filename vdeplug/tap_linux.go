package vdeplug

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/nic"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
	"golang.org/x/sys/unix"
)

func init() {
	Register(Scheme{
		Name:  "tap",
		Open:  plugsOn(openTAP),
		Usage: Usage{Form: "tap://[NAME]", About: "the host, by a TAP interface"},
	})
}

const tunDevice = "/dev/net/tun"

// tapConn is the network side of a TAP or macvtap interface, or a packet socket on
// an interface.
type tapConn struct {
	packet.Counters
	name string // of the interface
	dev  *nic.Device

	unfinished *unfinished // of pcap; else nil
}

var _ packet.Transport = (*tapConn)(nil)

// openTAP connects to the host by a TAP interface. Without a name the kernel chooses one,
// tap0 or the next.
func openTAP(_ context.Context, l Locator, _ *Options) (packet.Transport, error) {
	if err := checkInterfaceName(l.Body()); err != nil {
		return nil, err
	}
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, explainTunDevice(err)
	}
	// The ioctl must come first: a descriptor that is registered with the poller before
	// TUNSETIFF always reports an error.
	name, offload, err := attachTAP(fd, l.Body())
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	dev, err := nic.NewTAP(fd, "tap "+name, offload)
	if err != nil {
		return nil, err
	}
	return &tapConn{name: name, dev: dev}, nil
}

// attachTAP makes fd the descriptor of an interface, and returns its name.
func attachTAP(fd int, name string) (string, nic.Offload, error) {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return "", 0, fmt.Errorf("interface %q: %w", name, err)
	}
	offload := nic.All
	req.SetUint16(nic.Flags(offload))
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return "", 0, explainAttach(name, err)
	}
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, req); err == nil && req.Uint16()&unix.IFF_PERSIST != 0 {
		// The next program that opens it may not know of offloads, and would get packets
		// larger than frames.
		offload &^= nic.Checksum | nic.TSO4 | nic.TSO6 | nic.USO
	}
	return req.Name(), offload, nil
}

func explainTunDevice(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("no %s: load its module (modprobe tun), or pass the device into the container: %w", tunDevice, err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		mode := "not for this user"
		var st unix.Stat_t
		if unix.Stat(tunDevice, &st) == nil {
			mode = fmt.Sprintf("mode %04o, owner %d:%d", st.Mode&0o7777, st.Uid, st.Gid)
		}
		return fmt.Errorf("no access to %s (%s; usual is 0666): %w", tunDevice, mode, err)
	}
	return fmt.Errorf("opening %s: %w", tunDevice, err)
}

func explainAttach(name string, err error) error {
	err = os.NewSyscallError("ioctl TUNSETIFF", err)
	switch {
	case errors.Is(err, unix.EPERM):
		if name == "" {
			name = "tap0"
		}
		return fmt.Errorf("no permission: it takes CAP_NET_ADMIN, or an interface made for this user (ip tuntap add mode tap user %d name %s): %w",
			os.Geteuid(), name, err)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("interface %q is in use by another program: %w", name, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("interface %q is no TAP interface, or one of another kind (multi queue): %w", name, err)
	}
	return fmt.Errorf("interface %q: %w", name, err)
}

// Dropped returns the counts, including what the interface sent that is not a packet.
func (c *tapConn) Dropped() (recv, send uint64) {
	recv, send = c.Counters.Dropped()
	return recv + c.dev.Bad.Load(), send
}

func (c *tapConn) final(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrClosed):
		return net.ErrClosed
	case errors.Is(err, unix.EBADFD):
		err = fmt.Errorf("interface %s was removed: %w", c.name, unix.EBADFD)
	}
	return err
}

// RecvPackets implements [packet.Transport].
func (c *tapConn) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	for {
		packets, err := c.dev.Read(b)
		if err != nil {
			return nil, c.final(err)
		}
		b.Packets = keep(packets, &c.DroppedRecv)
		if c.unfinished != nil {
			c.unfinished.Learn(b.Packets)
		}
		if len(b.Packets) > 0 {
			return b.Packets, nil
		}
	}
}

// keep removes and counts the frames that no plug carries.
func keep(packets []packet.Packet, dropped *atomic.Uint64) []packet.Packet {
	kept := slices.DeleteFunc(packets, func(p packet.Packet) bool {
		return len(p.Data) < ether.HeaderLen || p.Offload.GSOType == virtio.GSONone && len(p.Data) > ether.MaxFrame
	})
	dropped.Add(uint64(len(packets) - len(kept)))
	return kept
}

// SendPackets implements [packet.Transport].
func (c *tapConn) SendPackets(packets []packet.Packet, _ bool) error {
	counts, err := c.dev.Write(keep(packets, &c.DroppedSend))
	c.DroppedSend.Add(counts.Dropped)
	return c.final(err)
}

// Close removes the interface, unless it is persistent.
func (c *tapConn) Close() error {
	c.dev.Close()
	return nil
}

// checkInterfaceName accepts what the kernel does, and the empty name; except
// for "%", with which the kernel makes names of its own.
func checkInterfaceName(name string) error {
	switch {
	case len(name) >= unix.IFNAMSIZ:
		return fmt.Errorf("interface %q: a name has at most %d bytes", name, unix.IFNAMSIZ-1)
	case name == "." || name == "..":
		return fmt.Errorf("interface %q: not a name", name)
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c == 0x7f || strings.IndexByte("/:%", c) >= 0 {
			return fmt.Errorf("interface %q: byte %q has no place in a name", name, c)
		}
	}
	return nil
}
