//go:build linux

package main

import (
	"fmt"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/link/pipe"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// maxPacket is the largest packet of a stack that leaves segmentation to others.
const maxPacket = stack.GVisorGSOMaxSize

// socketBuffer is the size of the unix socket's buffer in bytes. Without privilege the
// kernel allows less.
const socketBuffer = 8 << 20

var (
	firstMAC  = tcpip.LinkAddress("\x02\x00\x00\x00\x00\x01")
	secondMAC = tcpip.LinkAddress("\x02\x00\x00\x00\x00\x02")
)

// A link is both ends of a link.
type link struct {
	a, b  stack.LinkEndpoint
	close func()
}

func newLink(name string, mtu int) (link, error) {
	switch name {
	case "pipe", "gso":
		a, b := pipe.New(firstMAC, secondMAC, uint32(mtu))
		if name == "gso" {
			return link{&offloadEnd{a}, &offloadEnd{b}, func() {}}, nil
		}
		return link{a, b, func() {}}, nil
	case "unix":
		return newUnixLink(mtu)
	}
	return link{}, fmt.Errorf("unknown link %q", name)
}

// An offloadEnd is an end of a pipe for large packets without checksums.
type offloadEnd struct{ *pipe.Endpoint }

var _ stack.GSOEndpoint = (*offloadEnd)(nil)

func (*offloadEnd) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityTXChecksumOffload | stack.CapabilityRXChecksumOffload
}

func (*offloadEnd) GSOMaxSize() uint32 { return maxPacket }

func (*offloadEnd) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// newUnixLink makes a pair of unix sockets, which carry Ethernet frames with a
// virtio-net header.
func newUnixLink(mtu int) (_ link, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return link{}, err
	}
	closeAll := func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
	defer func() {
		if err != nil {
			closeAll()
		}
	}()
	var ends [2]stack.LinkEndpoint
	for i, mac := range []tcpip.LinkAddress{firstMAC, secondMAC} {
		if unix.SetsockoptInt(fds[i], unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer) != nil {
			unix.SetsockoptInt(fds[i], unix.SOL_SOCKET, unix.SO_SNDBUF, socketBuffer)
		}
		ends[i], err = fdbased.New(&fdbased.Options{
			FDs: []int{fds[i]}, MTU: uint32(mtu), EthernetHeader: true, Address: mac,
			GSOMaxSize: maxPacket, TXChecksumOffload: true, RXChecksumOffload: true,
			PacketDispatchMode: fdbased.RecvMMsg,
		})
		if err != nil {
			return link{}, err
		}
	}
	return link{ends[0], ends[1], closeAll}, nil
}
