package slirp

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/vdestack/vdestack/internal/carrier"
	"github.com/vdestack/vdestack/vdeplug"
)

// frameUDP is a frame of a guest.
func frameUDP(n *nat, src, dst netip.AddrPort, data []byte) []byte {
	size := header.UDPMinimumSize + len(data)
	b := make([]byte, header.EthernetMinimumSize+header.IPv4MinimumSize+size)
	header.Ethernet(b).Encode(&header.EthernetFields{SrcAddr: "\x02\x00\x00\x00\x00\x01", DstAddr: n.mac, Type: header.IPv4ProtocolNumber})
	ip := header.IPv4(b[header.EthernetMinimumSize:])
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(header.IPv4MinimumSize + size), TTL: 64, Protocol: 17, SrcAddr: addressOf(src.Addr()), DstAddr: addressOf(dst.Addr())})
	ip.SetChecksum(^ip.CalculateChecksum())
	udp := header.UDP(ip[header.IPv4MinimumSize:])
	udp.Encode(&header.UDPFields{SrcPort: src.Port(), DstPort: dst.Port(), Length: uint16(size)})
	copy(udp[header.UDPMinimumSize:], data)
	udp.SetChecksum(^udp.CalculateChecksum(checksum.Checksum(data, header.PseudoHeaderChecksum(17, addressOf(src.Addr()), addressOf(dst.Addr()), uint16(size)))))
	return b
}

// frameSYN asks for a connection.
func frameSYN(n *nat, src, dst netip.AddrPort) []byte {
	b := make([]byte, header.EthernetMinimumSize+header.IPv4MinimumSize+header.TCPMinimumSize)
	header.Ethernet(b).Encode(&header.EthernetFields{SrcAddr: "\x02\x00\x00\x00\x00\x01", DstAddr: n.mac, Type: header.IPv4ProtocolNumber})
	ip := header.IPv4(b[header.EthernetMinimumSize:])
	ip.Encode(&header.IPv4Fields{TotalLength: header.IPv4MinimumSize + header.TCPMinimumSize, TTL: 64, Protocol: 6, SrcAddr: addressOf(src.Addr()), DstAddr: addressOf(dst.Addr())})
	ip.SetChecksum(^ip.CalculateChecksum())
	tcp := header.TCP(ip[header.IPv4MinimumSize:])
	tcp.Encode(&header.TCPFields{SrcPort: src.Port(), DstPort: dst.Port(), SeqNum: 1, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn, WindowSize: 60000})
	tcp.SetChecksum(^tcp.CalculateChecksum(header.PseudoHeaderChecksum(6, addressOf(src.Addr()), addressOf(dst.Addr()), header.TCPMinimumSize)))
	return b
}

// frameARP asks who has an address.
func frameARP(guest, target netip.Addr) []byte {
	b := make([]byte, header.EthernetMinimumSize+header.ARPSize)
	header.Ethernet(b).Encode(&header.EthernetFields{SrcAddr: "\x02\x00\x00\x00\x00\x01", DstAddr: header.EthernetBroadcastAddress, Type: header.ARPProtocolNumber})
	arp := header.ARP(b[header.EthernetMinimumSize:])
	arp.SetIPv4OverEthernet()
	arp.SetOp(header.ARPRequest)
	copy(arp.HardwareAddressSender(), b[6:])
	copy(arp.ProtocolAddressSender(), guest.AsSlice())
	copy(arp.ProtocolAddressTarget(), target.AsSlice())
	return b
}

// TestManyFlows sends from every port of some guests: no more sockets are open than
// are allowed, and who comes last is served.
func TestManyFlows(t *testing.T) {
	noLeaks(t)
	echo := echoServer(t, "127.0.0.1")
	n := openNAT(t, "slirp:///v4")
	before := descriptorsOpen(t)
	dst := netip.AddrPortFrom(netip.MustParseAddr("10.0.2.2"), echo.Port())
	for _, host := range []string{"10.0.2.15", "10.0.2.16"} {
		for port := 1; port < 1<<16; port += 23 {
			if err := n.Send(frameUDP(n, netip.AddrPortFrom(netip.MustParseAddr(host), uint16(port)), dst, []byte("x"))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := descriptorsOpen(t) - before; got > maxFlows {
		t.Errorf("%d descriptors for flows, want %d at most", got, maxFlows)
	}
	n.flows.mu.Lock()
	if got := len(n.flows.open); got > maxFlows {
		t.Errorf("%d flows, want %d at most", got, maxFlows)
	}
	n.flows.mu.Unlock()
	stillServes(t, n, echo)
}

// stillServes looks that a guest of the plug reaches the host.
func stillServes(t *testing.T, n *nat, echo netip.AddrPort) {
	t.Helper()
	st := guestOn(t, n, "10.0.2.15/24")
	c, err := st.DialContext(bounded(t), "udp", fmt.Sprintf("10.0.2.2:%d", echo.Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	buf := make([]byte, 100)
	// What is left of before may fill the queues, so it is asked until there is an
	// answer.
	for range 20 {
		if _, err := c.Write([]byte("still there")); err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(patience / 20))
		if size, err := c.Read(buf); err == nil {
			if string(buf[:size]) != "still there" {
				t.Errorf("got %q", buf[:size])
			}
			return
		}
	}
	t.Error("the plug does not serve any more")
}

// TestManyConnections asks for connections from everywhere and never finishes one.
func TestManyConnections(t *testing.T) {
	noLeaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	echo := echoServer(t, "127.0.0.1")
	n := openNAT(t, "slirp:///v4")
	for i := range byte(100) { // of the others the stack does not know where they are
		n.Send(frameARP(netip.AddrFrom4([4]byte{10, 0, 2, 15 + i}), n.cfg.host.Addr()))
	}
	before := descriptorsOpen(t)
	dst := netip.AddrPortFrom(netip.MustParseAddr("10.0.2.2"), uint16(ln.Addr().(*net.TCPAddr).Port))
	for i := range 4 * maxConns {
		src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 2, byte(15 + i%200)}), uint16(1000+i))
		if err := n.Send(frameSYN(n, src, dst)); err != nil {
			t.Fatal(err)
		}
		n.conns.mu.Lock()
		places := n.conns.places
		n.conns.mu.Unlock()
		if places < 0 {
			t.Fatalf("%d places are left", places)
		}
	}
	if got := descriptorsOpen(t) - before; got > maxConns+8 {
		t.Errorf("%d descriptors for connections, want %d at most", got, maxConns)
	}
	stillServes(t, n, echo)
}

// TestNonsense sends frames of every length, and packets with all that a header can
// say.
func TestNonsense(t *testing.T) {
	echo := echoServer(t, "127.0.0.1")
	n := openNAT(t, "slirp://")
	src, dst := netip.MustParseAddrPort("10.0.2.15:1"), netip.AddrPortFrom(netip.MustParseAddr("10.0.2.2"), echo.Port())
	good := frameUDP(n, src, dst, bytes.Repeat([]byte("x"), 100))
	for size := range vdeplug.MaxFrame + 100 {
		frame := make([]byte, size)
		copy(frame, good)
		n.Send(frame)
	}
	for size := 0; size < 1<<16; size += 1021 {
		for gso := range byte(8) {
			p := carrier.Packet{Data: make([]byte, size)}
			copy(p.Data, good)
			p.Offload.GSOType, p.Offload.GSOSize, p.Offload.Flags = gso, uint16(size/3), gso&1
			p.Offload.CsumStart, p.Offload.CsumOffset = uint16(size), 6
			n.SendPackets([]carrier.Packet{p})
		}
	}
	if d := n.Drops(); d.Send == 0 {
		t.Errorf("drops %+v, want some", d)
	}
	stillServes(t, n, echo)
}

// TestFilter looks which frames get to the stack.
func TestFilter(t *testing.T) {
	n := openNAT(t, "slirp://")
	to := netip.MustParseAddrPort("10.0.2.2:9")
	from := func(s string) []byte { return frameUDP(n, netip.MustParseAddrPort(s), to, nil) }
	other := from("10.0.2.15:1")
	other[5]++
	for _, tt := range []struct {
		name  string
		frame []byte
		want  bool
	}{
		{"a guest's", from("10.0.2.15:1"), true},
		{"before it has an address", from("0.0.0.0:68"), true},
		{"the host's own address", from("10.0.2.2:1"), false},
		{"of the name server", from("10.0.2.3:1"), false},
		{"of another network", from("192.0.2.7:1"), false},
		{"loopback", from("127.0.0.1:1"), false},
		{"to another guest", other, false},
		{"another protocol", append(bytes.Clone(other[:12]), make([]byte, 50)...), false},
	} {
		if got := n.accepts(tt.frame); got != tt.want {
			t.Errorf("%s: got %t, want %t", tt.name, got, tt.want)
		}
	}
}

// TestOutside looks what guests can reach.
func TestOutside(t *testing.T) {
	for _, tt := range []struct{ vnl, dst, want string }{
		{"slirp://", "10.0.2.2:80", "127.0.0.1:80"},
		{"slirp://", "[fd00::2]:80", "[::1]:80"},
		{"slirp://", "203.0.113.1:80", "203.0.113.1:80"},
		{"slirp://", "[fd09::1]:80", "[fd09::1]:80"},
		{"slirp://", "10.0.2.3:80", ""},
		{"slirp://", "10.0.2.77:80", ""},
		{"slirp://", "[fd00::77]:80", ""},
		{"slirp://", "[fe80::2]:80", ""},
		{"slirp://", "127.0.0.1:80", ""},
		{"slirp://", "127.1.2.3:80", ""},
		{"slirp://", "0.0.0.0:80", ""},
		{"slirp://", "0.0.0.1:80", ""},
		{"slirp://", "255.255.255.255:80", ""},
		{"slirp://", "224.0.0.1:80", ""},
		{"slirp://", "[::]:80", ""},
		{"slirp://", "[::1]:80", ""},
		{"slirp://", "[::ffff:127.0.0.1]:80", ""},
		{"slirp://", "[::ffff:203.0.113.1]:80", ""},
		{"slirp://", "[ff02::1]:80", ""},
		{"slirp:///disable_host_loopback", "10.0.2.2:80", ""},
		{"slirp:///disable_host_loopback", "[fd00::2]:80", ""},
		{"slirp:///disable_host_loopback", "203.0.113.1:80", "203.0.113.1:80"},
		{"slirp:///restricted", "203.0.113.1:80", ""},
		{"slirp:///v4", "[fd09::1]:80", ""},
		{"slirp:///v6", "203.0.113.1:80", ""},
	} {
		cfg, err := parseText(t, tt.vnl)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := (&nat{cfg: cfg}).outside(netip.MustParseAddrPort(tt.dst))
		if ok != (tt.want != "") || ok && got.String() != tt.want {
			t.Errorf("%s, %s: got %s, %t, want %q", tt.vnl, tt.dst, got, ok, tt.want)
		}
	}
}

// FuzzFrame sends frames to a plug that makes no connections.
func FuzzFrame(f *testing.F) {
	n := openNAT(f, "slirp:///restricted")
	go func() {
		buf := make([]byte, vdeplug.MaxFrame)
		for {
			if _, err := n.Recv(buf); err != nil {
				return
			}
		}
	}()
	guest := netip.MustParseAddrPort("10.0.2.15:1000")
	f.Add(frameUDP(n, guest, netip.MustParseAddrPort("10.0.2.2:67"), dhcpMsg(1, dhcpDiscover)))
	f.Add(frameUDP(n, guest, netip.MustParseAddrPort("203.0.113.1:53"), []byte("x")))
	f.Add(frameSYN(n, guest, netip.MustParseAddrPort("10.0.2.2:80")))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01\x02\x00\x00\x00\x00\x01\x0a\x00\x02\x0f\x00\x00\x00\x00\x00\x00\x0a\x00\x02\x02"))
	f.Add([]byte("\x33\x33\x00\x00\x00\x02\x02\x00\x00\x00\x00\x01\x86\xdd\x60\x00\x00\x00\x00\x08\x3a\xff\xfe\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\xff\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x85\x00\x7b\xb9\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if err := n.Send(frame); err != nil {
			t.Fatal(err)
		}
	})
}
