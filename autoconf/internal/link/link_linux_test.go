package link

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// openLink makes a stack on a network, with an interface that has a link-local address
// only, and its link.
func openLink(t *testing.T, vnl string, mac net.HardwareAddr) (*vdestack.Stack, source.Link) {
	t.Helper()
	st, err := vdestack.New(t.Context(), vdestack.Config{Interfaces: []vdestack.Interface{{VNL: vnl, MAC: mac}}})
	if _, ok := errors.AsType[*vdestack.RefusedError](err); ok {
		testenv.Skip(t, "no stack: %v", err)
	}
	testenv.Check(t, err)
	t.Cleanup(func() { st.Close() })
	return st, New(st, "vde0", st.Stats().Interfaces[0].Index, mac)
}

// TestPorts sends packets between the ports of two stacks.
func TestPorts(t *testing.T) {
	macs := []net.HardwareAddr{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}}
	local := []netip.Addr{netip.MustParseAddr("fe80::ff:fe00:1"), netip.MustParseAddr("fe80::ff:fe00:2")}
	// In user space, the other end makes the checksums.
	for _, vnl := range []string{"mem://" + t.Name(), "vxvde://239.0.0.1/port=14871"} {
		t.Run(vnl, func(t *testing.T) {
			_, a := openLink(t, vnl, macs[0])
			_, b := openLink(t, vnl, macs[1])
			advertisement := []byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}
			for _, tt := range []struct {
				name  string
				open  func(l source.Link) (source.Port, error)
				send  source.Packet
				check func(p source.Packet) bool
			}{
				{"UDP4Unconfigured to all", func(l source.Link) (source.Port, error) { return l.UDP4Unconfigured(68) },
					source.Packet{Data: []byte("hello"), Peer: netip.MustParseAddrPort("255.255.255.255:68")},
					func(p source.Packet) bool {
						return string(p.Data) == "hello" && p.Peer == netip.MustParseAddrPort("0.0.0.0:68") && p.Local == netip.MustParseAddr("255.255.255.255") && bytes.Equal(p.HW, macs[0])
					}},
				{"UDP4Unconfigured to one", func(l source.Link) (source.Port, error) { return l.UDP4Unconfigured(68) },
					source.Packet{Data: []byte("hello"), Peer: netip.MustParseAddrPort("10.0.0.77:68"), HW: macs[1]},
					func(p source.Packet) bool {
						return string(p.Data) == "hello" && p.Local == netip.MustParseAddr("10.0.0.77")
					}},
				{"UDP4Unconfigured from an address", func(l source.Link) (source.Port, error) { return l.UDP4Unconfigured(67) },
					source.Packet{Data: []byte("hello"), Local: netip.MustParseAddr("10.0.0.1"), Peer: netip.MustParseAddrPort("10.0.0.77:67"), HW: macs[1]},
					func(p source.Packet) bool {
						return string(p.Data) == "hello" && p.Peer == netip.MustParseAddrPort("10.0.0.1:67")
					}},
				{"ARP", func(l source.Link) (source.Port, error) { return l.ARP(netip.Addr{}) }, source.Packet{Data: []byte("0123456789012345678901234567")},
					func(p source.Packet) bool {
						return bytes.HasPrefix(p.Data, []byte("0123456789012345678901234567")) && bytes.Equal(p.HW, macs[0])
					}},
				{"UDP", func(l source.Link) (source.Port, error) { return l.UDP(netip.MustParseAddrPort("[::]:546")) },
					source.Packet{Data: []byte("hello"), Peer: netip.MustParseAddrPort("[ff02::1]:546")},
					func(p source.Packet) bool {
						return string(p.Data) == "hello" && p.Peer == netip.AddrPortFrom(local[0], 546) && p.Local == netip.MustParseAddr("ff02::1")
					}},
				{"UDP to one", func(l source.Link) (source.Port, error) { return l.UDP(netip.MustParseAddrPort("[::]:546")) },
					source.Packet{Data: []byte("hello"), Peer: netip.AddrPortFrom(local[1], 546)},
					func(p source.Packet) bool {
						return string(p.Data) == "hello" && p.Peer == netip.AddrPortFrom(local[0], 546) && p.Local == local[1]
					}},
				{"ICMP6 to routers", func(l source.Link) (source.Port, error) { return l.ICMP6(133) },
					source.Packet{Data: []byte{133, 0, 0, 0, 0, 0, 0, 0}, Peer: netip.MustParseAddrPort("[ff02::2]:0")},
					func(p source.Packet) bool {
						return len(p.Data) == 8 && p.Peer == netip.AddrPortFrom(local[0], 0) && p.HopLimit == 255
					}},
				{"ICMP6", func(l source.Link) (source.Port, error) { return l.ICMP6(134) },
					source.Packet{Data: advertisement, Peer: netip.MustParseAddrPort("[ff02::1]:0")},
					func(p source.Packet) bool {
						return len(p.Data) == len(advertisement) && p.Peer == netip.AddrPortFrom(local[0], 0) && p.HopLimit == 255 && p.Local == netip.MustParseAddr("ff02::1")
					}},
			} {
				t.Run(tt.name, func(t *testing.T) {
					from, err := tt.open(a)
					testenv.Check(t, err)
					defer from.Close()
					to, err := tt.open(b)
					testenv.Check(t, err)
					testenv.Check(t, from.Send(tt.send))
					for {
						p := receive(t, to)
						if tt.check(p) {
							break
						}
						if tt.name != "ARP" || p.Data[0] != 0 { // else it is the kernel's
							t.Fatalf("got %+v", p)
						}
					}
					testenv.Check(t, to.Close())
					testenv.Check(t, to.Close())
					if _, ok := <-to.Packets(); ok {
						t.Error("the channel is open after Close")
					}
					if err := to.Send(tt.send); err == nil {
						t.Error("sending after Close: no error")
					}
				})
			}
		})
	}
}

// TestKernel has a server, which is a socket of the kernel, hear and answer a client that
// has no address.
func TestKernel(t *testing.T) {
	client := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	for _, vnl := range []string{"mem://" + t.Name(), "vxvde://239.0.0.1/port=14872"} {
		_, a := openLink(t, vnl, client)
		st, b := openLink(t, vnl, net.HardwareAddr{2, 0, 0, 0, 0, 2})
		nl, err := st.RTNL()
		testenv.Check(t, err)
		testenv.Check(t, nl.AddrAdd(b.Index(), netip.MustParsePrefix("10.0.0.2/24")))
		testenv.Check(t, nl.NeighborAdd(rtnl.Neighbor{IfIndex: b.Index(), Addr: netip.MustParseAddr("10.0.0.77"), HardwareAddr: client}))
		from, err := a.UDP4Unconfigured(68)
		testenv.Check(t, err)
		server, err := b.UDP(netip.MustParseAddrPort("0.0.0.0:67"))
		testenv.Check(t, err)
		for _, to := range []string{"255.255.255.255:68", "10.0.0.77:68"} {
			testenv.Check(t, from.Send(source.Packet{Data: []byte("question"), Peer: netip.MustParseAddrPort("255.255.255.255:67")}))
			if p := receive(t, server); string(p.Data) != "question" || p.Peer != netip.MustParseAddrPort("0.0.0.0:68") {
				t.Errorf("%s: the server has got %+v", vnl, p)
			}
			testenv.Check(t, server.Send(source.Packet{Data: []byte("answer"), Peer: netip.MustParseAddrPort(to)}))
			if p := receive(t, from); string(p.Data) != "answer" || p.Peer != netip.MustParseAddrPort("10.0.0.2:67") {
				t.Errorf("%s: the client has got %+v", vnl, p)
			}
		}
		testenv.Check(t, from.Close())
		testenv.Check(t, server.Close())
	}
}

func receive(t *testing.T, port source.Port) (p source.Packet) {
	t.Helper()
	select {
	case p = <-port.Packets():
	case <-time.After(5 * time.Second):
		t.Fatal("nothing has come")
	}
	return p
}

// TestPortsEnd closes the stack under ports, which end.
func TestPortsEnd(t *testing.T) {
	st, l := openLink(t, "null://", net.HardwareAddr{2, 0, 0, 0, 0, 1})
	var ports []source.Port
	for _, open := range []func() (source.Port, error){
		func() (source.Port, error) { return l.ARP(netip.Addr{}) },
		func() (source.Port, error) { return l.UDP4Unconfigured(68) },
		func() (source.Port, error) { return l.UDP(netip.MustParseAddrPort("0.0.0.0:68")) },
		func() (source.Port, error) { return l.ICMP6(134) },
	} {
		p, err := open()
		testenv.Check(t, err)
		ports = append(ports, p)
	}
	testenv.Check(t, st.Close())
	for _, p := range ports[2:] { // packet sockets are their owner's
		for range p.Packets() {
		}
	}
	for _, p := range ports {
		p.Close()
	}
	if _, err := l.ARP(netip.Addr{}); err == nil {
		t.Error("a port of a stack that is closed")
	}
}
