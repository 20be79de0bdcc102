package slirp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// frameIPv4 returns a frame of a guest and, in it, the transport header and payload of
// size bytes.
func frameIPv4(n *nat, src, dst netip.AddrPort, proto uint8, size int) (frame, transport []byte) {
	frame = make([]byte, header.EthernetMinimumSize+header.IPv4MinimumSize+size)
	header.Ethernet(frame).Encode(&header.EthernetFields{SrcAddr: "\x02\x00\x00\x00\x00\x01", DstAddr: n.mac, Type: header.IPv4ProtocolNumber})
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(header.IPv4MinimumSize + size), TTL: 64, Protocol: proto, SrcAddr: addressOf(src.Addr()), DstAddr: addressOf(dst.Addr())})
	ip.SetChecksum(^ip.CalculateChecksum())
	return frame, ip[header.IPv4MinimumSize:]
}

// frameUDP returns a datagram of a guest.
func frameUDP(n *nat, src, dst netip.AddrPort, data []byte) []byte {
	size := header.UDPMinimumSize + len(data)
	b, transport := frameIPv4(n, src, dst, 17, size)
	udp := header.UDP(transport)
	udp.Encode(&header.UDPFields{SrcPort: src.Port(), DstPort: dst.Port(), Length: uint16(size)})
	copy(udp[header.UDPMinimumSize:], data)
	udp.SetChecksum(^udp.CalculateChecksum(checksum.Checksum(data, header.PseudoHeaderChecksum(17, addressOf(src.Addr()), addressOf(dst.Addr()), uint16(size)))))
	return b
}

// frameSYN asks for a connection.
func frameSYN(n *nat, src, dst netip.AddrPort) []byte {
	b, transport := frameIPv4(n, src, dst, 6, header.TCPMinimumSize)
	tcp := header.TCP(transport)
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

// TestManyFlows sends from more ports than there may be sockets: the limit holds, and
// the last port is served.
func TestManyFlows(t *testing.T) {
	testenv.Long(t)
	netnstest.NoLeaks(t)
	echo := echoServer(t, "127.0.0.1")
	n := openNAT(t, "slirp:///v4")
	before := socketsOpen(t)
	dst := netip.AddrPortFrom(netip.MustParseAddr("10.0.2.2"), echo.Port())
	for _, host := range []string{"10.0.2.15", "10.0.2.16"} {
		for port := 1; port < 1<<16; port += 23 {
			testenv.Check(t, n.Send(frameUDP(n, netip.AddrPortFrom(netip.MustParseAddr(host), uint16(port)), dst, []byte("x"))))
		}
	}
	if got := socketsOpen(t) - before; got > maxFlows {
		t.Errorf("%d sockets for flows, want %d at most", got, maxFlows)
	}
	n.flows.mu.Lock()
	if got := len(n.flows.open); got > maxFlows {
		t.Errorf("%d flows, want %d at most", got, maxFlows)
	}
	n.flows.mu.Unlock()
	stillServes(t, n, echo)
}

// stillServes checks that a guest of the plug reaches the host.
func stillServes(t *testing.T, n *nat, echo netip.AddrPort) {
	t.Helper()
	c := dial(t, guestOn(t, n, "10.0.2.15/24"), "udp", fmt.Sprintf("10.0.2.2:%d", echo.Port()))
	buf := make([]byte, 100)
	// Earlier packets may still fill the queues, so it asks until there is an answer.
	for range 20 {
		if _, err := c.Write([]byte("still there")); err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		if size, err := c.Read(buf); err == nil {
			if string(buf[:size]) != "still there" {
				t.Errorf("got %q", buf[:size])
			}
			return
		}
	}
	t.Error("the plug does not serve any more")
}

// socketsOpen counts only sockets: namespaces are made ahead at any time.
func socketsOpen(t *testing.T) (count int) {
	t.Helper()
	for _, to := range testenv.Descriptors(t) {
		if strings.HasPrefix(to, "socket:") {
			count++
		}
	}
	return count
}

// flood asks for connections from everywhere and never finishes one.
func flood(t *testing.T, n *nat, dst netip.AddrPort, count int) {
	t.Helper()
	for i := range byte(100) { // the stack does not know the MAC addresses of the others
		n.Send(frameARP(netip.AddrFrom4([4]byte{10, 0, 2, 100 + i}), n.cfg.host.Addr()))
	}
	for i := range count {
		src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 2, byte(100 + i%150)}), uint16(1000+i))
		testenv.Check(t, n.Send(frameSYN(n, src, dst)))
		n.conns.mu.Lock()
		places, made := n.conns.places, n.conns.made.Len()
		n.conns.mu.Unlock()
		if places < 0 || made > n.conns.maxMade {
			t.Fatalf("%d places are left and %d connections are being made, want 0 at least and %d at most", places, made, n.conns.maxMade)
		}
	}
}

// tcpEchoServer starts a server on the host's loopback, and returns how guests name it.
// At the end of the test its clients must be gone.
func tcpEchoServer(t *testing.T) string {
	t.Helper()
	ln, named := listen(t, "127.0.0.1")
	done := make(chan struct{})
	go func() {
		defer close(done)
		serveEcho(ln, "")
	}()
	t.Cleanup(func() {
		ln.Close()
		select {
		case <-done:
		case <-time.After(testenv.Timeout):
			t.Error("a client of the server has not ended")
		}
	})
	return named
}

// serveEcho greets each client and sends back what it sends, until the listener is
// closed and the clients are gone.
func serveEcho(ln net.Listener, greeting string) {
	serve(ln, func(c net.Conn) {
		fmt.Fprint(c, greeting)
		// Not by splice, whose pipes stay until memory is collected.
		io.Copy(c, struct{ io.Reader }{c})
	})
}

// dialEcho connects a guest to an echo server of the host, and uses the connection.
func dialEcho(t *testing.T, st *vdestack.Stack, server string) net.Conn {
	t.Helper()
	c := dial(t, st, "tcp", server)
	useEcho(t, c)
	return c
}

func useEcho(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetDeadline(time.Now().Add(testenv.Timeout))
	buf := make([]byte, 5)
	fmt.Fprint(c, "hello")
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "hello" {
		t.Errorf("got %q, %v", buf, err)
	}
}

// TestManyConnections asks for more connections than there may be, and finishes none of
// them. Earlier and later connections are served.
func TestManyConnections(t *testing.T) {
	testenv.Long(t)
	netnstest.NoLeaks(t)
	_, silent := listen(t, "127.0.0.1") // accepts nothing
	for _, tt := range []struct{ name, dst string }{
		{"to a server", silent},
		{"to a host that does not answer", "203.0.113.77:80"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := tcpEchoServer(t)
			n, st := natGuest(t)
			c := dialEcho(t, st, server)
			before := socketsOpen(t)
			flood(t, n, netip.MustParseAddrPort(tt.dst), 4*maxConns)
			if got := socketsOpen(t) - before; got > maxConns+8 {
				t.Errorf("%d sockets for connections, want %d at most", got, maxConns)
			}
			useEcho(t, c)
			for range 3 {
				dialEcho(t, st, server)
			}
		})
	}
}

// TestHalfOpenAge checks that guests that do not answer lose their places soon.
func TestHalfOpenAge(t *testing.T) {
	netnstest.NoLeaks(t)
	server := tcpEchoServer(t)
	n := openNAT(t, "slirp:///v4")
	n.conns.handshake = time.Millisecond
	n.conns.mu.Lock()
	places := n.conns.places
	n.conns.mu.Unlock()
	const crowd = 10
	flood(t, n, netip.MustParseAddrPort(server), crowd)
	var left, made, asked int
	testenv.Eventually(t, "all places free", func() bool {
		n.conns.mu.Lock()
		defer n.conns.mu.Unlock()
		left, made, asked = n.conns.places, n.conns.made.Len(), len(n.conns.asked)
		return left == places && made == 0 && asked == 0
	}, func() string {
		return fmt.Sprintf("%d places of %d are free, %d connections are being made, %d are asked for", left, places, made, asked)
	})
}

// TestNonsense sends frames of every length, and packets with all sorts of headers.
func TestNonsense(t *testing.T) {
	testenv.Long(t)
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
			p := packet.Packet{Data: make([]byte, size)}
			copy(p.Data, good)
			p.Offload.GSOType, p.Offload.GSOSize, p.Offload.Flags = gso, uint16(size/3), gso&1
			p.Offload.CsumStart, p.Offload.CsumOffset = uint16(size), 6
			n.SendPackets([]packet.Packet{p}, true)
		}
	}
	if d := n.Drops(); d.Send == 0 {
		t.Errorf("drops %+v, want some", d)
	}
	stillServes(t, n, echo)
}

// TestFilter checks which frames get to the stack.
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

// TestOutside checks what guests can reach.
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
		{"slirp:///restricted/metadata", "169.254.169.254:80", ""},
		{"slirp://", "169.254.169.254:80", ""},
		{"slirp://", "169.254.170.2:80", ""},
		{"slirp://", "168.63.129.16:80", ""},
		{"slirp://", "100.100.100.200:80", ""},
		{"slirp://", "192.0.0.192:80", ""},
		{"slirp://", "[fd00:ec2::254]:80", ""},
		{"slirp://", "[64:ff9b::a9fe:a9fe]:80", ""},
		{"slirp://", "[64:ff9b::a83f:8110]:80", ""},
		{"slirp://", "[64:ff9b::cb00:7101]:80", "[64:ff9b::cb00:7101]:80"},
		{"slirp://", "[2002:a9fe:a9fe::1]:80", ""},
		{"slirp://", "[fe80::a9fe:a9fe]:80", ""},
		{"slirp:///metadata", "[fe80::a9fe:a9fe]:80", ""},
		{"slirp://", "[fd20:ce::254]:80", ""},
		{"slirp://", "[fd20:ce::253]:80", "[fd20:ce::253]:80"},
		{"slirp://", "[fd00:c1::a9fe:a9fe]:80", ""},
		{"slirp://", "[fd00:42::42]:80", ""},
		{"slirp://", "[fd00:a9fe:a9fe::1]:80", ""},
		{"slirp://", "[fd00:100::100:200]:80", ""},
		{"slirp:///metadata", "169.254.169.254:80", "169.254.169.254:80"},
		{"slirp:///metadata", "[fd00:ec2::254]:80", "[fd00:ec2::254]:80"},
		{"slirp:///v4", "[fd09::1]:80", ""},
		{"slirp:///v6", "203.0.113.1:80", ""},
	} {
		cfg := testenv.Must(parseText(t, tt.vnl))(t)
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
		testenv.Check(t, n.Send(frame))
	})
}

// TestSilent sends packets about which gVisor logs something.
func TestSilent(t *testing.T) {
	netnstest.NoLeaks(t)
	n := openNAT(t, "slirp:///v4")
	file := testenv.Must(os.Create(filepath.Join(t.TempDir(), "stderr")))(t)
	defer file.Close()
	saved := testenv.Must(unix.FcntlInt(2, unix.F_DUPFD_CLOEXEC, 3))(t)
	defer unix.Close(saved)
	err := unix.Dup3(int(file.Fd()), 2, 0)
	guest, host, loopback := netip.MustParseAddr("10.0.2.15"), netip.MustParseAddr("10.0.2.2"), netip.MustParseAddr("127.0.0.1")
	for _, way := range [][2]netip.Addr{{loopback, host}, {guest, loopback}} {
		err = errors.Join(err, n.Send(frameUDP(n, netip.AddrPortFrom(way[0], 1), netip.AddrPortFrom(way[1], 2), []byte("x"))))
	}
	log.Warningf("a warning of gVisor")
	testenv.Check(t, errors.Join(err, unix.Dup3(saved, 2, 0)))
	if text, err := os.ReadFile(file.Name()); len(text) > 0 || err != nil {
		t.Errorf("standard error got %q, %v", text, err)
	}
}
