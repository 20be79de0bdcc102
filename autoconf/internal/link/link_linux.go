package link

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// queue is how many packets wait for a source. A server answers with one; in an attack
// the others are lost.
const queue = 32

// A Link is an interface of a stack.
type Link struct {
	st    *vdestack.Stack
	name  string
	index int
	mac   net.HardwareAddr
}

var _ source.Link = (*Link)(nil)

// New returns the link of an interface of a stack.
func New(st *vdestack.Stack, name string, index int, mac net.HardwareAddr) source.Link {
	return &Link{st, name, index, slices.Clone(mac)}
}

func (l *Link) Name() string          { return l.name }
func (l *Link) Index() int            { return l.index }
func (l *Link) MAC() net.HardwareAddr { return slices.Clone(l.mac) }

// A port is a socket with a goroutine that reads from it.
type port struct {
	packets chan source.Packet
	send    func(source.Packet) error
	end     func() error // closes the socket
	closed  sync.Once
	err     error         // of end
	ended   chan struct{} // closed when the reader has returned
}

// open starts to read packets of up to size bytes. receive returns false for packets that are
// not for the port.
func open(size int, send func(source.Packet) error, receive func(buf []byte) (source.Packet, bool, error), end func() error) *port {
	p := &port{packets: make(chan source.Packet, queue), send: send, end: end, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		defer close(p.packets)
		buf := make([]byte, size)
		for {
			packet, ok, err := receive(buf)
			switch {
			case errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENETUNREACH),
				errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
				continue // the interface is down, what was sent could not be delivered, or a packet was lost
			case err != nil:
				return
			case !ok:
				continue
			}
			packet.Data = slices.Clone(packet.Data)
			select {
			case p.packets <- packet:
			default:
			}
		}
	}()
	return p
}

func (p *port) Send(packet source.Packet) error { return p.send(packet) }
func (p *port) Packets() <-chan source.Packet   { return p.packets }

func (p *port) Close() error {
	p.closed.Do(func() {
		p.err = p.end()
		<-p.ended
	})
	return p.err
}

// bind confines a socket to the interface.
func (l *Link) bind(_, _ string, c syscall.RawConn) error {
	return control(c, func(fd int) error {
		return errors.Join(
			os.NewSyscallError("setsockopt SO_BINDTODEVICE", unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, l.name)),
			os.NewSyscallError("setsockopt SO_BROADCAST", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1)))
	})
}

func control(c syscall.RawConn, f func(fd int) error) (err error) {
	if cerr := c.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

func (l *Link) listen(network, address string) (net.PacketConn, error) {
	lc := vdestack.ListenConfig{Stack: l.st}
	lc.Control = l.bind
	return lc.ListenPacket(context.Background(), network, address)
}

// zone returns the address as the kernel needs it to send by the interface.
func (l *Link) zone(a netip.Addr) netip.Addr {
	if a.Is6() && (a.IsLinkLocalUnicast() || a.IsMulticast()) {
		return a.WithZone(strconv.Itoa(l.index))
	}
	return a
}

// Servers of DHCPv6 have this port, and receive what is for their group, RFC 8415, section 7.
const dhcp6Server = 547

var dhcp6Servers = &net.UDPAddr{IP: net.ParseIP("ff02::1:2")}

// UDP opens a socket of UDP.
func (l *Link) UDP(local netip.AddrPort) (source.Port, error) {
	network := "udp4"
	if local.Addr().Is6() {
		network = "udp6"
	}
	pc, err := l.listen(network, netip.AddrPortFrom(l.zone(local.Addr()), local.Port()).String())
	if err != nil {
		return nil, err
	}
	c := pc.(*net.UDPConn)
	receive := func(buf []byte) (source.Packet, bool, error) {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		return source.Packet{Data: buf[:n], Peer: from}, err == nil, err
	}
	if network == "udp6" {
		i, p := &net.Interface{Index: l.index}, ipv6.NewPacketConn(c)
		err := errors.Join(p.SetMulticastInterface(i), p.SetControlMessage(ipv6.FlagDst, true))
		if err == nil && local.Port() == dhcp6Server {
			err = p.JoinGroup(i, dhcp6Servers)
		}
		if err != nil {
			c.Close()
			return nil, err
		}
		receive = func(buf []byte) (source.Packet, bool, error) { return receive6(p, buf) }
	}
	send := func(p source.Packet) error {
		_, err := c.WriteToUDPAddrPort(p.Data, netip.AddrPortFrom(l.zone(p.Peer.Addr()), p.Peer.Port()))
		return err
	}
	return open(maxPacket, send, receive, c.Close), nil
}

// receive6 receives a datagram of IPv6. The kernel gives a socket what is for any group of the
// interface, so the destination matters.
func receive6(c *ipv6.PacketConn, buf []byte) (source.Packet, bool, error) {
	n, cm, from, err := c.ReadFrom(buf)
	if err != nil || cm == nil {
		return source.Packet{}, false, err
	}
	to, _ := netip.AddrFromSlice(cm.Dst)
	peer := from.(*net.UDPAddr).AddrPort()
	return source.Packet{Data: buf[:n], Peer: netip.AddrPortFrom(peer.Addr().WithZone(""), peer.Port()), Local: to}, true, nil
}

// routerSolicitation is a type of ICMPv6. Hosts send them to the group of all routers.
const routerSolicitation = 133

// ICMP6 opens a raw socket of ICMPv6.
func (l *Link) ICMP6(types ...uint8) (source.Port, error) {
	pc, err := l.listen("ip6:ipv6-icmp", "")
	if err != nil {
		return nil, err
	}
	c := ipv6.NewPacketConn(pc)
	var filter ipv6.ICMPFilter
	filter.SetAll(true)
	for _, t := range types {
		filter.Accept(ipv6.ICMPType(t))
	}
	err = errors.Join(c.SetICMPFilter(&filter), c.SetControlMessage(ipv6.FlagHopLimit|ipv6.FlagDst, true),
		c.SetHopLimit(255), c.SetMulticastHopLimit(255), c.SetMulticastLoopback(false),
		c.SetMulticastInterface(&net.Interface{Index: l.index}))
	if err != nil {
		pc.Close()
		return nil, fmt.Errorf("socket of ICMPv6: %w", err)
	}
	if slices.Contains(types, routerSolicitation) {
		if err := c.JoinGroup(&net.Interface{Index: l.index}, &net.IPAddr{IP: net.IPv6linklocalallrouters}); err != nil {
			pc.Close()
			return nil, fmt.Errorf("group of all routers: %w", err)
		}
	}
	send := func(p source.Packet) error {
		_, err := c.WriteTo(p.Data, nil, &net.IPAddr{IP: p.Peer.Addr().AsSlice(), Zone: strconv.Itoa(l.index)})
		return err
	}
	receive := func(buf []byte) (source.Packet, bool, error) {
		n, cm, from, err := c.ReadFrom(buf)
		if err != nil {
			return source.Packet{}, false, err
		}
		a, ok := netip.AddrFromSlice(from.(*net.IPAddr).IP)
		// The filter was not there from the beginning.
		if !ok || cm == nil || n == 0 || !slices.Contains(types, buf[0]) {
			return source.Packet{}, false, nil
		}
		to, _ := netip.AddrFromSlice(cm.Dst)
		return source.Packet{Data: buf[:n], Peer: netip.AddrPortFrom(a, 0), Local: to, HopLimit: cm.HopLimit}, true, nil
	}
	return open(maxPacket, send, receive, pc.Close), nil
}

// broadcast is the Ethernet address of all.
var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// packetSocket opens a socket for the payload of frames, which filter selects. encode
// returns what to send for a packet, decode what was received; complete says that
// checksums are right or have to be checked, not that the sender has left them out.
func (l *Link) packetSocket(protocol uint16, size int, filter []bpf.Instruction,
	encode func(source.Packet) ([]byte, error), decode func(b []byte, complete bool) (source.Packet, bool),
) (source.Port, error) {
	f, err := l.st.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	raw, err := f.SyscallConn()
	if err == nil {
		// Without a protocol nothing is received until it is bound.
		err = control(raw, func(fd int) error { return l.bindPacket(fd, protocol, filter) })
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("packet socket on %s: %w", l.name, err)
	}
	send := func(p source.Packet) error {
		b, err := encode(p)
		if err != nil {
			return err
		}
		to := &unix.SockaddrLinklayer{Protocol: htons(protocol), Ifindex: l.index, Halen: 6}
		hw := p.HW
		if hw == nil {
			hw = broadcast
		}
		if copy(to.Addr[:], hw) != 6 {
			return fmt.Errorf("hardware address %v: want 6 bytes", hw)
		}
		werr := raw.Write(func(fd uintptr) bool {
			err = unix.Sendto(int(fd), b, 0, to)
			return !errors.Is(err, unix.EAGAIN)
		})
		if werr != nil {
			return werr
		}
		return os.NewSyscallError("sendto", err)
	}
	oob := make([]byte, unix.CmsgSpace(sizeofAuxData))
	receive := func(buf []byte) (source.Packet, bool, error) {
		var (
			n, noob int
			from    unix.Sockaddr
			err     error
		)
		rerr := raw.Read(func(fd uintptr) bool {
			n, noob, _, from, err = unix.Recvmsg(int(fd), buf, oob, 0)
			return !errors.Is(err, unix.EAGAIN)
		})
		if rerr != nil {
			return source.Packet{}, false, rerr
		}
		if err != nil {
			return source.Packet{}, false, err
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if !ok || ll.Pkttype == unix.PACKET_OUTGOING || ll.Pkttype == unix.PACKET_OTHERHOST || ll.Halen != 6 {
			return source.Packet{}, false, nil
		}
		p, ok := decode(buf[:n], !checksumLeftOut(oob[:noob]))
		p.HW = slices.Clone(ll.Addr[:6])
		return p, ok, nil
	}
	return open(size, send, receive, f.Close), nil
}

func (l *Link) bindPacket(fd int, protocol uint16, filter []bpf.Instruction) error {
	program, err := bpf.Assemble(filter)
	if err != nil {
		return err
	}
	var code []unix.SockFilter
	for _, i := range program {
		code = append(code, unix.SockFilter{Code: i.Op, Jt: i.Jt, Jf: i.Jf, K: i.K})
	}
	return errors.Join(
		os.NewSyscallError("setsockopt SO_ATTACH_FILTER", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]})),
		os.NewSyscallError("setsockopt PACKET_AUXDATA", unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1)),
		os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(protocol), Ifindex: l.index})))
}

func htons(v uint16) uint16 { return v<<8 | v>>8 } // on amd64 and arm64

// sizeofAuxData is the size of struct tpacket_auxdata.
const sizeofAuxData = 20

// checksumLeftOut reports whether the kernel says that the sender, a stack of the same
// machine, has left the checksum to a network card that does not exist.
func checksumLeftOut(oob []byte) bool {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return false
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= sizeofAuxData {
			return binary.NativeEndian.Uint32(m.Data)&unix.TP_STATUS_CSUMNOTREADY != 0
		}
	}
	return false
}

// Ours looks for a hardware address in the stack.
func (l *Link) Ours(mac net.HardwareAddr) bool {
	nl, err := l.st.RTNL()
	if err != nil {
		return false
	}
	defer nl.Close()
	links, _ := nl.Links()
	return slices.ContainsFunc(links, func(i rtnl.Link) bool {
		return i.Flags&net.FlagLoopback == 0 && bytes.Equal(i.HardwareAddr, mac)
	})
}

// ARP opens a packet socket of ARP.
func (l *Link) ARP(about netip.Addr) (source.Port, error) {
	return l.packetSocket(unix.ETH_P_ARP, maxARP, arpFilter(about),
		func(p source.Packet) ([]byte, error) { return p.Data, nil },
		func(b []byte, _ bool) (source.Packet, bool) { return source.Packet{Data: b}, true })
}

// UDP4Unconfigured opens a packet socket of UDP over IPv4.
func (l *Link) UDP4Unconfigured(local uint16) (source.Port, error) {
	return l.packetSocket(unix.ETH_P_IP, maxPacket, udp4Filter(local),
		func(p source.Packet) ([]byte, error) {
			return appendUDP4(nil, netip.AddrPortFrom(p.Local, local), p.Peer, p.Data)
		},
		func(b []byte, complete bool) (source.Packet, bool) { return parseUDP4(b, local, complete) })
}
