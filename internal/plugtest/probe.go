package plugtest

import (
	"bytes"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
)

// A Probe is a member of a multicast group with plain sockets. It receives packets to the
// group and to itself, and sends any.
type Probe struct {
	Group *net.UDPConn
	Own   *net.UDPConn
	To    netip.AddrPort // where Send sends to
}

// NewProbe joins the group of a test: IPv6 multicast needs an interface, which is test0.
func NewProbe(t *testing.T, group netip.AddrPort) *Probe {
	t.Helper()
	var ifi *net.Interface
	local := "0.0.0.0:0"
	if group.Addr().Is6() {
		var err error
		if ifi, err = net.InterfaceByName("test0"); err != nil {
			t.Fatal(err)
		}
		local = "[fd09::1]:0"
	}
	in := testenv.Must(net.ListenMulticastUDP("udp", ifi, net.UDPAddrFromAddrPort(group)))(t)
	t.Cleanup(func() { in.Close() })
	own := testenv.Must(net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(local))))(t)
	t.Cleanup(func() { own.Close() })
	return &Probe{in, own, group}
}

// Send sends a packet to the group.
func (p *Probe) Send(t *testing.T, packet []byte) {
	t.Helper()
	testenv.Must(p.Own.WriteToUDPAddrPort(packet, p.To))(t)
}

// Read returns the next packet of one of the sockets, other than the probe's own.
func (p *Probe) Read(t *testing.T, from *net.UDPConn) (packet []byte, src netip.AddrPort) {
	t.Helper()
	self := p.Own.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	buf := make([]byte, 64<<10)
	for {
		from.SetReadDeadline(time.Now().Add(testenv.Timeout))
		n, src, err := from.ReadFromUDPAddrPort(buf)
		testenv.Check(t, err)
		if src.Port() != self {
			return buf[:n], src
		}
	}
}

// Want reads a packet and compares it.
func (p *Probe) Want(t *testing.T, from *net.UDPConn, packet []byte) {
	t.Helper()
	if got, _ := p.Read(t, from); !bytes.Equal(got, packet) {
		t.Fatalf("got packet % .40x, want % .40x", got, packet)
	}
}

// Captured returns the packets of another implementation by name, from a text with a
// name and hexadecimal digits on each line.
func Captured(t testing.TB, text string) map[string][]byte {
	t.Helper()
	packets := make(map[string][]byte)
	for line := range strings.Lines(text) {
		name, digits, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || name == "#" {
			continue
		}
		var err error
		if packets[name], err = hex.DecodeString(strings.ReplaceAll(digits, " ", "")); err != nil {
			t.Fatal(err)
		}
	}
	return packets
}
