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

// socketBuffer is asked for the unix socket, in bytes. Without privilege the
// kernel gives less.
const socketBuffer = 8 << 20

var (
	firstMAC  = tcpip.LinkAddress("\x02\x00\x00\x00\x00\x01")
	secondMAC = tcpip.LinkAddress("\x02\x00\x00\x00\x00\x02")
)

// A cable is both ends of a link.
type cable struct {
	a, b  stack.LinkEndpoint
	close func()
}

func newCable(name string, mtu int) (cable, error) {
	switch name {
	case "pipe", "gso":
		a, b := pipe.New(firstMAC, secondMAC, uint32(mtu))
		if name == "gso" {
			return cable{&offloading{a}, &offloading{b}, func() {}}, nil
		}
		return cable{a, b, func() {}}, nil
	case "unix":
		return newUnixCable(mtu)
	}
	return cable{}, fmt.Errorf("unknown link %q", name)
}

// An offloading is an end of a pipe that carries large packets without
// checksums, as its other end does.
type offloading struct{ *pipe.Endpoint }

var _ stack.GSOEndpoint = (*offloading)(nil)

func (*offloading) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityTXChecksumOffload | stack.CapabilityRXChecksumOffload
}

func (*offloading) GSOMaxSize() uint32 { return maxPacket }

func (*offloading) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// newUnixCable makes a pair of unix sockets, which carry Ethernet frames with a
// virtio-net header.
func newUnixCable(mtu int) (_ cable, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return cable{}, err
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
			return cable{}, err
		}
	}
	return cable{ends[0], ends[1], closeAll}, nil
}
