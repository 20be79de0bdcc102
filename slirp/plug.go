package slirp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/vdeplug"
)

const scheme = "slirp"

func init() {
	vdeplug.Register(vdeplug.Scheme{
		Name:  scheme,
		Open:  open,
		Usage: usage,
	})
}

// open opens the network of a locator; the package documentation describes it.
func open(ctx context.Context, l vdeplug.Locator, _ *vdeplug.Options) (vdeplug.Conn, error) {
	cfg, err := parse(l)
	if err != nil {
		return nil, err
	}
	return newNAT(ctx, cfg)
}

const nic = 1

// Limits of a plug. A guest's connection costs the program a descriptor first, and the
// kernel's memory second.
const (
	maxConns = 1024 // connections of TCP, both ways
	maxFlows = 512  // ports of guests that send UDP or ping
	// tcpBuffer is the largest buffer of a connection towards a guest, one way.
	tcpBuffer = 256 << 10
)

// A nat is a network between a plug, with the guests, and sockets of the host.
type nat struct {
	*packet.Conn // the plug
	link         *link
	cfg          *config
	mac          tcpip.LinkAddress
	stack        *stack.Stack
	// forwarder makes the connections that guests ask for.
	forwarder *tcp.Forwarder

	names nameservers
	dhcp  leases
	tftp  tftp
	flows flows
	conns conns

	ctx    context.Context // ends when the plug is closed
	cancel context.CancelFunc
	tasks  sync.WaitGroup // goroutines; Close waits for them
}

var (
	_ vdeplug.Conn     = (*nat)(nil)
	_ vdeplug.Dropper  = (*nat)(nil)
	_ packet.Transport = (*nat)(nil)
)

func newNAT(ctx context.Context, cfg *config) (_ *nat, err error) {
	n := &nat{cfg: cfg, mac: macOf(cfg.host.Addr())}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.link = newLink(min(cfg.mtu, cfg.mru), n.mac, n.accepts)
	n.Conn = packet.NewConn(linkTransport{n.link, n.end}, nil)
	limit := descriptors()
	n.conns.init(min(maxConns, limit/4), &n.tasks)
	n.flows.init(min(maxFlows, limit/8))
	n.dhcp.init(cfg)
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	if err := n.start(); err != nil {
		return nil, err
	}
	if cfg.tftpPath != "" {
		if err := n.tftp.open(cfg.tftpPath); err != nil {
			return nil, fmt.Errorf("slirp option \"tftp_path=%s\": %w", cfg.tftpPath, err)
		}
	}
	for _, f := range cfg.tcp {
		if err := n.forwardTCP(ctx, f); err != nil {
			return nil, fmt.Errorf("slirp option tcpfwd, %s: %w", f, err)
		}
	}
	for _, f := range cfg.udp {
		if err := n.forwardUDP(ctx, f); err != nil {
			return nil, fmt.Errorf("slirp option udpfwd, %s: %w", f, err)
		}
	}
	if cfg.verbose {
		cfg.print(os.Stderr)
	}
	if cfg.v6 {
		n.tasks.Go(n.advertiseAlways)
	}
	return n, nil
}

// start makes the stack in which the connections of guests end.
func (n *nat) start() error {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	n.stack = s
	sack := tcpip.TCPSACKEnabled(true)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcpBuffer, Max: tcpBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcpBuffer, Max: tcpBuffer}
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &receive, &send} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return errorOf(err)
		}
	}
	n.forwarder = tcp.NewForwarder(s, 0, maxConns, n.connect)
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, n.segment)
	s.SetTransportProtocolHandler(udp.ProtocolNumber, n.datagram)
	s.SetTransportProtocolHandler(icmp.ProtocolNumber4, n.ping)
	s.SetTransportProtocolHandler(icmp.ProtocolNumber6, n.ping)

	if err := s.CreateNIC(nic, ethernet.New(n.link)); err != nil {
		return errorOf(err)
	}
	if err := n.addAddresses(); err != nil {
		return err
	}
	// Routers set a flag in their neighbour advertisements. Without it a kernel
	// removes its default route.
	if err := s.SetForwardingDefaultAndAllNICs(ipv6.ProtocolNumber, true); err != nil {
		return errorOf(err)
	}
	s.SetPromiscuousMode(nic, true) // receives packets to all addresses
	s.SetSpoofing(nic, true)        // and answers from them
	s.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nic},
		{Destination: header.IPv6EmptySubnet, NIC: nic},
	})
	return nil
}

func (n *nat) addAddresses() error {
	var prefixes []netip.Prefix
	cfg := n.cfg
	if cfg.v4 {
		prefixes = append(prefixes, cfg.host, netip.PrefixFrom(cfg.dns, cfg.host.Bits()))
	}
	if cfg.v6 {
		prefixes = append(prefixes, cfg.host6, netip.PrefixFrom(cfg.dns6, cfg.host6.Bits()), netip.PrefixFrom(routerAddr, 64))
	}
	for _, s := range cfg.services {
		p := netip.PrefixFrom(s.at.Addr(), cfg.network(s.at.Addr()).Bits())
		if !slices.Contains(prefixes, p) {
			prefixes = append(prefixes, p)
		}
	}
	for _, p := range prefixes {
		err := n.stack.AddProtocolAddress(nic, tcpip.ProtocolAddress{
			Protocol:          protocolOf(p.Addr()),
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: addressOf(p.Addr()), PrefixLen: p.Bits()},
		}, stack.AddressProperties{})
		if err != nil {
			return errorOf(err)
		}
	}
	return nil
}

// Drops returns how many frames were dropped so far.
func (n *nat) Drops() vdeplug.Drops {
	recv, send := n.Dropped()
	return vdeplug.Drops{Recv: recv, Send: send}
}

// end ends all connections, forwards and commands.
func (n *nat) end() {
	n.conns.close()
	n.cancel()
	n.link.Endpoint.Close() // ends RecvPackets
	n.flows.close()
	n.tasks.Wait()
	n.stack.Destroy()
	n.tftp.close()
}

// outside returns where the host's socket connects for a destination of a guest; for the
// name server, that is decided with each question. It returns false for destinations that
// guests must not reach.
func (n *nat) outside(dst netip.AddrPort) (netip.AddrPort, bool) {
	cfg := n.cfg
	addr := dst.Addr()
	switch {
	case cfg.restricted:
		return netip.AddrPort{}, false
	case n.isNameServer(dst):
		return dst, true
	case addr == cfg.host.Addr() && !cfg.noLoopback:
		return netip.AddrPortFrom(loopback4, dst.Port()), true
	case addr == cfg.host6.Addr() && !cfg.noLoopback:
		return netip.AddrPortFrom(loopback6, dst.Port()), true
	}
	return dst, n.foreign(addr)
}

func (n *nat) isNameServer(dst netip.AddrPort) bool {
	return dst.Port() == dnsPort && (dst.Addr() == n.cfg.dns || dst.Addr() == n.cfg.dns6)
}

var (
	loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	loopback6 = netip.IPv6Loopback()
)

// metadata are the addresses where clouds tell a machine about itself, its credentials
// included: with those a guest could act as the machine. The link-local ones of IPv4
// stay within the network (RFC 3927); those of IPv6 are never reached.
var metadata = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba
	netip.MustParsePrefix("192.0.0.192/32"),     // Oracle
	netip.MustParsePrefix("fd00:ec2::/32"),      // Amazon
	netip.MustParsePrefix("fd20:ce::254/128"),   // Google
	netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128"),
	netip.MustParsePrefix("fd00:42::42/128"),       // Scaleway
	netip.MustParsePrefix("fd00:a9fe:a9fe::1/128"), // Akamai
	netip.MustParsePrefix("fd00:100::100:200/128"),
}

var (
	nat64  = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052
	sixTo4 = netip.MustParsePrefix("2002::/16")    // RFC 3056
)

// isMetadata reports whether an address is a metadata service's, or an IPv6 address that
// a gateway translates to one.
func isMetadata(a netip.Addr) bool {
	b := a.As16()
	switch {
	case nat64.Contains(a):
		a = netip.AddrFrom4([4]byte(b[12:]))
	case sixTo4.Contains(a):
		a = netip.AddrFrom4([4]byte(b[2:]))
	}
	return slices.ContainsFunc(metadata, func(p netip.Prefix) bool { return p.Contains(a) })
}

// foreign reports whether an address belongs to a host beyond the network. Addresses that
// mean the host itself, in any form, do not: the program would connect to its own
// loopback.
func (n *nat) foreign(a netip.Addr) bool {
	if !n.cfg.metadata && isMetadata(a) {
		return false
	}
	switch {
	case n.cfg.network(a).Contains(a), a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a.Is4In6():
		return false
	case a.Is4():
		b := a.As4()
		return n.cfg.v4 && b[0] != 0 && b != [4]byte{255, 255, 255, 255}
	}
	return !a.IsLinkLocalUnicast() && n.cfg.v6 // it would need an interface
}

// inside returns how guests see a sender: loopback addresses of the host become the
// host's address on the network.
func (n *nat) inside(src netip.AddrPort, family netip.Addr) (_ netip.AddrPort, ok bool) {
	addr := src.Addr().Unmap().WithZone("")
	host := n.cfg.host.Addr()
	if family.Is6() {
		host = n.cfg.host6.Addr()
	}
	switch {
	case addr.IsLoopback():
		ok = !n.cfg.noLoopback
		addr = host
	case n.foreign(addr):
		ok = addr.Is4() == family.Is4()
	}
	return netip.AddrPortFrom(addr, src.Port()), ok
}

func errorOf(err tcpip.Error) error { return errors.New(err.String()) }

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

func addressOf(a netip.Addr) tcpip.Address {
	if a.Is4() {
		return tcpip.AddrFrom4(a.As4())
	}
	return tcpip.AddrFrom16(a.As16())
}

func addrOf(a tcpip.Address) netip.Addr {
	b, _ := netip.AddrFromSlice(a.AsSlice())
	return b
}

// write sends a packet to a guest. Its IP header is followed by a header of size bytes,
// which fill writes, and the payload.
func (n *nat) write(src, dst netip.Addr, proto tcpip.TransportProtocolNumber, ttl uint8, size int, payload []byte, fill func(r *stack.Route, b []byte)) {
	r, err := n.stack.FindRoute(nic, addressOf(src), addressOf(dst), protocolOf(dst), false)
	if err != nil {
		return
	}
	defer r.Release()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: int(r.MaxHeaderLength()) + size,
		Payload:            buffer.MakeWithData(payload),
	})
	defer pkt.DecRef()
	fill(r, pkt.TransportHeader().Push(size))
	pkt.TransportProtocolNumber = proto
	r.WritePacket(stack.NetworkHeaderParams{Protocol: proto, TTL: ttl}, pkt)
}

// icmpHeaderLen is the length of an ICMP header, in both versions.
const icmpHeaderLen = header.ICMPv4MinimumSize

// writeICMP sends a message with its checksum.
func (n *nat) writeICMP(src, dst netip.Addr, ttl uint8, head [icmpHeaderLen]byte, payload []byte) {
	proto := tcpip.TransportProtocolNumber(icmp.ProtocolNumber4)
	if dst.Is6() {
		proto = icmp.ProtocolNumber6
	}
	n.write(src, dst, proto, ttl, len(head), payload, func(r *stack.Route, b []byte) {
		copy(b, head[:])
		b[2], b[3] = 0, 0
		sum := checksum.Checksum(payload, 0)
		if dst.Is4() {
			header.ICMPv4(b).SetChecksum(^checksum.Checksum(b, sum))
			return
		}
		header.ICMPv6(b).SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
			Header: b, Src: r.LocalAddress(), Dst: r.RemoteAddress(), PayloadCsum: sum, PayloadLen: len(payload),
		}))
	})
}
