package vdeplug

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/nic"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/virtio"
	"golang.org/x/sys/unix"
)

func init() {
	Register(Scheme{
		Name:  "pcap",
		Open:  plugsOn(openPCAP),
		Usage: Usage{Form: "pcap://NAME", About: "the network of an interface of the host, alongside the host"},
	})
}

// openPCAP opens a packet socket on an interface, in promiscuous mode.
func openPCAP(_ context.Context, l Locator, _ *Options) (packet.Transport, error) {
	name, err := interfaceName(l)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("no permission: it takes CAP_NET_RAW (setcap cap_net_raw+ep PROGRAM): %w", os.NewSyscallError("socket", err))
	case err != nil:
		return nil, os.NewSyscallError("socket", err)
	}
	index, err := promiscuous(fd, name)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("interface %q: %w", name, err)
	}
	dev, err := nic.NewSocket(fd, index, nic.All)
	if err != nil {
		return nil, fmt.Errorf("interface %q: %w", name, err)
	}
	// A veth pair passes packets on unfinished, also to libpcap, which does not tell its
	// users what is left to do.
	start := time.Now()
	u := newUnfinished(func() time.Duration { return time.Since(start) })
	dev.SendFrames(u.taken)
	return &tapConn{name: name, dev: dev, unfinished: u}, nil
}

const (
	// maxUnfinished is how many stations can be known to take unfinished packets, and
	// unfinishedLife for how long after the last one from them. While TCP sends to
	// them, they acknowledge.
	maxUnfinished  = 1024
	unfinishedLife = time.Minute
)

// unfinished knows the stations that send packets without checksum. They are kernels on
// the same machine, or behind the same virtual network card, and take what they send:
// packets that stand for many frames.
type unfinished struct {
	now func() time.Duration

	mu       sync.RWMutex // guards stations
	stations *ether.MACTable[ether.MAC, struct{}]
}

func newUnfinished(now func() time.Duration) *unfinished {
	return &unfinished{now: now, stations: ether.NewMACTable[ether.MAC, struct{}](maxUnfinished, unfinishedLife)}
}

// Learn records the senders of packets without checksum. Packets of several frames prove
// nothing, as the interface may have joined them.
func (u *unfinished) Learn(packets []packet.Packet) {
	var last ether.MAC // most batches are of one station
	for i := range packets {
		o := &packets[i].Offload
		if o.Flags&virtio.FlagNeedsCsum == 0 || o.GSOType != virtio.GSONone {
			continue
		}
		if _, src := ether.MACs(packets[i].Data); src != last {
			last = src
			u.mu.Lock()
			u.stations.Learn(src, struct{}{}, u.now())
			u.mu.Unlock()
		}
	}
}

// taken reports whether the receiver of a packet takes it unfinished.
func (u *unfinished) taken(packet []byte) bool {
	dst, _ := ether.MACs(packet)
	u.mu.RLock()
	defer u.mu.RUnlock()
	_, ok := u.stations.Lookup(dst, u.now())
	return ok
}

// promiscuous makes an interface receive everything while the socket is open, and returns
// the index of the interface.
func promiscuous(fd int, name string) (int, error) {
	index, err := sockio.InterfaceIndex(fd, name)
	if err != nil {
		return 0, err
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFHWADDR, req); err != nil {
		return 0, os.NewSyscallError("ioctl SIOCGIFHWADDR", err)
	}
	if kind := req.Uint16(); kind != unix.ARPHRD_ETHER {
		return 0, fmt.Errorf("it is not of the kind of Ethernet (ARPHRD %d): %w", kind, unix.EINVAL)
	}
	err = unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
		&unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC})
	return int(index), os.NewSyscallError("setsockopt PACKET_ADD_MEMBERSHIP", err)
}
