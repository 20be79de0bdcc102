package stack_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

// TestUserSpace repeats tests of this package on mem:// in user space, whose
// interfaces are TAPs with a pump.
func TestUserSpace(t *testing.T) {
	testenv.Long(t)
	netnstest.InUserSpace(t)
	for name, test := range map[string]func(*testing.T){
		"OpenUsable": TestOpenUsable, "Sysctl": TestSysctl, "Interfaces": TestInterfaces,
		"NewCancelled": TestNewCancelled, "Neighbour": TestNeighbour,
	} {
		t.Run(name, test)
	}
}

// A station is a plug that speaks UDP over IPv4, by broadcast.
type station struct {
	vdeplug.Conn
	mac  net.HardwareAddr
	addr netip.AddrPort
}

func newStation(t testing.TB, vnl string, number byte) *station {
	t.Helper()
	p := testenv.Opened(vdeplug.Open(vnl, nil))(t)
	return &station{p, net.HardwareAddr{2, 0, 0, 0, 9, number}, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, number}), 7)}
}

// frame returns a broadcast datagram, with a VLAN tag if vlan is not 0.
func (s *station) frame(vlan uint16, text string) []byte {
	f := append([]byte{255, 255, 255, 255, 255, 255}, s.mac...)
	if vlan != 0 {
		f = binary.BigEndian.AppendUint16(f, unix.ETH_P_8021Q)
		f = binary.BigEndian.AppendUint16(f, vlan)
	}
	f = append(f, 8, 0)
	ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0}
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(text)))
	ip = append(append(ip, s.addr.Addr().AsSlice()...), 255, 255, 255, 255)
	binary.BigEndian.PutUint16(ip[10:], ^packettest.Sum(ip, 0))
	f = append(f, ip...)
	f = binary.BigEndian.AppendUint16(f, s.addr.Port())
	f = binary.BigEndian.AppendUint16(f, 7)
	f = binary.BigEndian.AppendUint16(f, uint16(8+len(text)))
	return append(append(f, 0, 0), text...)
}

func (s *station) send(t testing.TB, vlan uint16, text string) {
	t.Helper()
	testenv.Check(t, s.Send(s.frame(vlan, text)))
}

// want receives until a datagram with the text comes, and checks its VLAN.
func (s *station) want(t testing.TB, vlan uint16, text string) {
	t.Helper()
	stop := time.AfterFunc(10*time.Second, func() { s.Close() })
	defer stop.Stop()
	buf := make([]byte, vdeplug.MaxFrame)
	for {
		n, err := s.Recv(buf)
		if err != nil {
			t.Fatalf("%q has not come: %v", text, err)
		}
		f := buf[:n]
		if !bytes.HasSuffix(f, []byte(text)) {
			continue
		}
		got := uint16(0)
		if binary.BigEndian.Uint16(f[12:]) == unix.ETH_P_8021Q {
			got = binary.BigEndian.Uint16(f[14:])
		}
		if got != vlan {
			t.Errorf("%q came with VLAN %d, want %d", text, got, vlan)
		}
		return
	}
}

// A speaker sends and receives broadcast datagrams in a stack.
type speaker struct{ *net.UDPConn }

func newSpeaker(t testing.TB, s *Stack) speaker {
	t.Helper()
	p := testenv.Opened(s.ListenPacket("udp4", ":7"))(t)
	return speaker{p.(*net.UDPConn)}
}

func (s speaker) send(t testing.TB, to, text string) {
	t.Helper()
	testenv.Must(s.WriteToUDPAddrPort([]byte(text), netip.MustParseAddrPort(to)))(t)
}

func (s speaker) want(t testing.TB, text string) {
	t.Helper()
	s.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 1<<16)
	for {
		n, _, err := s.ReadFrom(buf)
		if err != nil {
			t.Fatalf("%q has not come: %v", text, err)
		}
		if string(buf[:n]) == text {
			return
		}
	}
}

// TestFirstFrame sends a frame once, as soon as an interface or a plug is open.
func TestFirstFrame(t *testing.T) {
	testenv.Long(t)
	netnstest.OnNetworks(t, func(t *testing.T, vnl string) {
		plugs := strings.HasPrefix(vnl, "mem://")
		for round := range 10 {
			vnl := fmt.Sprint(vnl, round)
			var p *station
			if plugs && round%2 == 0 {
				p = newStation(t, vnl, 9)
			}
			a := open(t, vnl, "10.0.0.1/24")
			as := newSpeaker(t, a)
			if p != nil {
				p.send(t, 0, "plug to first")
				as.want(t, "plug to first")
			}
			b := open(t, vnl, "10.0.0.2/24")
			bs := newSpeaker(t, b)
			bs.send(t, "10.0.0.255:7", "second to first")
			as.want(t, "second to first")
			as.send(t, "10.0.0.255:7", "first to second")
			bs.want(t, "first to second")
			if plugs && p == nil {
				p = newStation(t, vnl, 9)
				p.send(t, 0, "plug to both")
				as.want(t, "plug to both")
				bs.want(t, "plug to both")
			}
			if p != nil {
				as.send(t, "10.0.0.255:7", "first to plug")
				p.want(t, 0, "first to plug")
			}
			a.Close()
			b.Close()
			if p != nil {
				p.Close()
			}
		}
	})
}

// TestUplink has plugs come and go beside stacks.
func TestUplink(t *testing.T) {
	netnstest.NoLeaks(t)
	vnl := "mem://" + t.Name()
	a, b := open(t, vnl, "10.0.0.1/24"), open(t, vnl, "10.0.0.2/24")
	as, bs := newSpeaker(t, a), newSpeaker(t, b)
	for range 3 {
		p, q := newStation(t, vnl, 8), newStation(t, vnl, 9)
		p.send(t, 0, "to all")
		as.want(t, "to all")
		bs.want(t, "to all")
		q.want(t, 0, "to all")
		// The stacks know by now where p is.
		as.send(t, "10.0.0.255:7", "all of you")
		for _, s := range []*station{p, q} {
			s.want(t, 0, "all of you")
		}
		bs.want(t, "all of you")
		p.Close()
		// What was sent before Close arrives.
		for i := range 20 {
			q.send(t, 0, fmt.Sprint("last ", i))
		}
		q.Close()
		for i := range 20 {
			as.want(t, fmt.Sprint("last ", i))
		}
		// Without plugs the network goes on.
		as.send(t, "10.0.0.2:7", "still there")
		bs.want(t, "still there")
	}
	// Two come and go while the stacks leave.
	var wg sync.WaitGroup
	for number := range byte(2) {
		wg.Go(func() {
			for range 20 {
				p, err := vdeplug.Open(vnl, nil)
				if err != nil {
					t.Error(err)
					return
				}
				p.Send(bytes.Repeat([]byte{0xff, 2, number}, 20))
				p.Close()
			}
		})
	}
	a.Close()
	b.Close()
	wg.Wait()
}

// TestUplinkVLAN sends tagged frames both ways: the kernel keeps the tag beside
// the packet.
func TestUplinkVLAN(t *testing.T) {
	netnstest.NoLeaks(t)
	vnl := "mem://" + t.Name()
	s := open(t, vnl, "10.0.0.1/24")
	f := testenv.Socket(t, s, unix.AF_PACKET, unix.SOCK_RAW, 0)
	fd := int(f.Fd())
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	testenv.Check(t, errors.Join(
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: s.Stats().Interfaces[0].Index}),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}),
	))
	p := newStation(t, vnl, 9)
	other := newStation(t, vnl, 8)
	for _, vlan := range []uint16{0, 5, 7<<13 | 4094} {
		for _, size := range []int{10, vdeplug.MaxMTU - 28} {
			text := strings.Repeat("x", size) + fmt.Sprint(" to plug ", vlan)
			text = text[len(text)-size:]
			if size > 1000 {
				testenv.Check(t, s.Run(t.Context(), fmt.Sprint("ip link set vde0 mtu ", vdeplug.MaxMTU)))
			}
			if _, err := f.Write(other.frame(vlan, text)); err != nil {
				t.Fatal(size, vlan, err)
			}
			p.want(t, vlan, text)
		}
		text := fmt.Sprint("to stack ", vlan)
		p.send(t, vlan, text)
		buf, oob := make([]byte, vdeplug.MaxFrame), make([]byte, 100)
		for {
			n, oobn, _, _, err := unix.Recvmsg(fd, buf, oob, 0)
			if err != nil {
				t.Fatalf("%q has not come: %v", text, err)
			}
			if !bytes.HasSuffix(buf[:n], []byte(text)) {
				continue
			}
			messages, err := unix.ParseSocketControlMessage(oob[:oobn])
			if err != nil || len(messages) != 1 {
				t.Fatal(messages, err)
			}
			// Of struct tpacket_auxdata.
			if got := binary.NativeEndian.Uint16(messages[0].Data[16:]); got != vlan {
				t.Errorf("%q came with VLAN %d", text, got)
			}
			break
		}
	}
}

// TestUplinkStream carries a stream between two networks that a cable of plugs
// joins: the kernel's large packets become frames of the network's size, with
// whole checksums.
func TestUplinkStream(t *testing.T) {
	testenv.Long(t)
	for _, mtu := range []int{1500, 9216} {
		for _, addr := range []string{"10.0.0.%d/24", "fc00::1:%d/64"} {
			t.Run(fmt.Sprintf("%d %s", mtu, addr), func(t *testing.T) {
				netnstest.NoLeaks(t)
				var ends [2]vdeplug.Conn
				var stacks [2]*Stack
				for i := range ends {
					vnl := fmt.Sprintf("mem://%s/%d", t.Name(), i)
					stacks[i] = made(t, Config{Interfaces: []Interface{{VNL: vnl, MTU: mtu, Addrs: testenv.Prefixes(fmt.Sprintf(addr, i+1))}}})
					ends[i] = testenv.Must(vdeplug.Open(vnl, nil))(t)
				}
				var cable sync.WaitGroup
				for i := range ends {
					cable.Go(func() {
						frame := make([]byte, vdeplug.MaxFrame)
						for {
							n, err := ends[i].Recv(frame)
							if err != nil {
								return
							}
							if n > mtu+vdeplug.HeaderLen {
								t.Errorf("frame of %d bytes", n)
							}
							ends[1-i].Send(frame[:n])
						}
					})
				}
				defer cable.Wait()
				defer ends[0].Close()
				defer ends[1].Close()
				transfer(t, stacks[0], stacks[1], netip.AddrPortFrom(netip.MustParsePrefix(fmt.Sprintf(addr, 1)).Addr(), 0).String(), 4<<20)
			})
		}
	}
}

// TestMixedMTU has interfaces of three sizes on a network.
func TestMixedMTU(t *testing.T) {
	netnstest.OnNetworks(t, func(t *testing.T, vnl string) {
		var stacks []*Stack
		for i, mtu := range []int{1280, 1500, vdeplug.MaxMTU, vdeplug.MaxMTU} {
			stacks = append(stacks, made(t, Config{Interfaces: []Interface{{VNL: vnl, MTU: mtu,
				MAC: net.HardwareAddr{2, 0, 0, 0, 0, byte(i + 1)}, Addrs: testenv.Prefixes(fmt.Sprintf("10.0.0.%d/24", i+1), fmt.Sprintf("fc00::1:%d/64", i+1))}}}))
		}
		for i, s := range stacks {
			transfer(t, s, stacks[(i+1)%len(stacks)], fmt.Sprintf("10.0.0.%d:0", i+1), 1<<20)
		}
		// One frame of the largest size.
		big := strings.Repeat("x", vdeplug.MaxMTU-28)
		from, to := newSpeaker(t, stacks[2]), newSpeaker(t, stacks[3])
		from.send(t, "10.0.0.4:7", big)
		to.want(t, big)
		sent, got := stacks[2].Stats().Interfaces[0], stacks[3].Stats().Interfaces[0]
		if sent.TxBytes < vdeplug.MaxMTU || got.RxBytes < vdeplug.MaxMTU || sent.RxFrames == 0 || got.TxFrames == 0 || sent.Err != nil || got.Err != nil {
			t.Errorf("counters: %+v, %+v", sent, got)
		}
		for _, n := range testenv.Must(testenv.Opened(stacks[1].RTNL())(t).Neighbors())(t) {
			if n.Addr == netip.MustParseAddr("10.0.0.1") && n.HardwareAddr.String() != "02:00:00:00:00:01" {
				t.Errorf("neighbour %v has the address %v", n, n.HardwareAddr)
			}
		}
		stacks[0].Close() // the others go on
		transfer(t, stacks[1], stacks[2], "[fc00::1:2]:0", 1<<20)
	})
}

// TestSeveral has a stack with several interfaces on a network, one of them down.
func TestSeveral(t *testing.T) {
	netnstest.OnNetworks(t, func(t *testing.T, vnl string) {
		s := made(t, Config{Interfaces: []Interface{
			{VNL: vnl, Addrs: testenv.Prefixes("10.0.0.1/24")}, {VNL: vnl, Addrs: testenv.Prefixes("10.1.0.1/24")}, {VNL: vnl, Addrs: testenv.Prefixes("10.2.0.1/24"), Down: true},
		}})
		peer := open(t, vnl, "10.0.0.2/24", "10.1.0.2/24", "10.2.0.2/24")
		testenv.Listen(t, s, "tcp", ":7")
		reach := func(addr string) error {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			c, err := peer.DialContext(ctx, "tcp", addr)
			if err == nil {
				c.Close()
			}
			return err
		}
		for _, addr := range []string{"10.0.0.1:7", "10.1.0.1:7"} {
			testenv.Check(t, reach(addr))
		}
		if st := s.Stats().Interfaces[2]; st.TxFrames != 0 || st.RxFrames != 0 {
			t.Errorf("an interface that is down has counted %+v", st)
		}
		nl := testenv.Opened(s.RTNL())(t)
		testenv.Check(t, nl.LinkSetUp(s.Stats().Interfaces[2].Index))
		testenv.Check(t, reach("10.2.0.1:7"))
	})
}

// TestCloseTells closes a stack: its peers get to know, and another takes its
// place. A pump in user space has a few milliseconds for that, which are not
// enough on every machine.
func TestCloseTells(t *testing.T) {
	netnstest.OnKernelNetworks(t, func(t *testing.T, vnl string) {
		peer := open(t, vnl, "10.0.0.9/24")
		for range 5 {
			s := open(t, vnl, "10.0.0.1/24")
			ln := testenv.Listen(t, s, "tcp", "10.0.0.1:7")
			// The peer may still know the stack before.
			testenv.Check(t, peer.Run(t.Context(), "ip neigh flush all"))
			c := testenv.Dial(t, peer, "tcp", "10.0.0.1:7")
			accepted := testenv.Must(ln.Accept())(t)
			// The namespace is alive as long as this is open.
			defer accepted.Close()
			before := s.Stats().Interfaces[0]
			s.Close()
			if after := s.Stats().Interfaces[0]; after.TxFrames < before.TxFrames || before.TxFrames == 0 || after.Err != nil {
				t.Errorf("counters %+v, after Close %+v", before, after)
			}
			c.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := c.Read(make([]byte, 1)); err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("reading from a peer that was closed: %v", err)
			}
		}
	})
}

// TestCloseLent closes a stack whose namespace somebody has: the interface is
// gone when Close returns, and its name is free.
func TestCloseLent(t *testing.T) {
	netnstest.OnNetworks(t, func(t *testing.T, vnl string) {
		s := open(t, vnl, "10.0.0.1/24")
		peer := open(t, vnl, "10.0.0.2/24")
		ns := testenv.Opened(s.NetNS())(t)
		s.Close()
		again := made(t, Config{NetNS: fmt.Sprintf("/proc/self/fd/%d", ns.Fd()), Interfaces: on(vnl, "10.0.0.1/24").Interfaces})
		transfer(t, again, peer, "10.0.0.1:0", 1<<16)
	})
}
