package conformance

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// setOption sets an integer option of a socket.
func setOption(t testing.TB, c *net.UDPConn, level, option, value int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, value) })
		err = errors.Join(err, cerr)
	}
	if err != nil {
		t.Fatalf("setsockopt %d, %d: %v", level, option, err)
	}
}

// control returns a control message, see cmsg(3).
func control(level, typ int32, data []byte) []byte {
	b := make([]byte, unix.CmsgSpace(len(data)))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = level, typ
	h.SetLen(unix.CmsgLen(len(data)))
	copy(b[unix.CmsgLen(0):], data)
	return b
}

// controlInt returns a control message with an int.
func controlInt(level, typ int32, value int) []byte {
	return control(level, typ, binary.NativeEndian.AppendUint32(nil, uint32(value)))
}

// A message is a datagram with the control messages that came with it.
type message struct {
	data    []byte
	from    netip.AddrPort
	control []unix.SocketControlMessage
}

// receive reads a message.
func receive(c *net.UDPConn) (message, error) {
	data, oob := make([]byte, 1<<16), make([]byte, 512)
	n, oobn, flags, from, err := c.ReadMsgUDPAddrPort(data, oob)
	if err != nil {
		return message{}, err
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return message{}, fmt.Errorf("the message was cut off: flags %#x", flags)
	}
	list, err := unix.ParseSocketControlMessage(oob[:oobn])
	return message{data[:n], from, list}, err
}

// value returns the number in a control message, whose length is the kernel's choice.
func (m message) value(level, typ int32) (int, bool) {
	for _, c := range m.control {
		if c.Header.Level != level || c.Header.Type != typ {
			continue
		}
		switch len(c.Data) {
		case 1:
			return int(c.Data[0]), true
		case 4:
			return int(int32(binary.NativeEndian.Uint32(c.Data))), true
		}
	}
	return 0, false
}

// TestECN marks packets with ECN and a class, one by one, as QUIC does, and
// reads the marks on sockets of one family and of both.
func TestECN(t *testing.T) {
	guard(t)
	for _, r := range routes(t) {
		is4 := netip.MustParseAddr(r.host).Is4()
		level, set, option := int32(unix.IPPROTO_IPV6), int32(unix.IPV6_TCLASS), unix.IPV6_RECVTCLASS
		if is4 {
			level, set, option = unix.IPPROTO_IP, unix.IP_TOS, unix.IP_RECVTOS
		}
		for _, listen := range []string{r.host, ""} {
			name := r.name
			if listen == "" {
				name += ", socket of both families"
			}
			t.Run(name, func(t *testing.T) {
				lc := vdestack.ListenConfig{Stack: r.to}
				p := testenv.Must(lc.ListenPacket(t.Context(), "udp", net.JoinHostPort(listen, "0")))(t)
				defer p.Close()
				far := p.(*net.UDPConn)
				setOption(t, far, int(level), option, 1)
				to := netip.AddrPortFrom(netip.MustParseAddr(r.host), far.LocalAddr().(*net.UDPAddr).AddrPort().Port())
				near := testenv.Must(r.from.Dial("udp", to.String()))(t)
				defer near.Close()
				for _, mark := range []int{0, 1, 2, 3, 46<<2 | 2} { // Not-ECT, ECT(1), ECT(0), CE, EF
					want := fmt.Sprintf("marked %d", mark)
					m := testenv.Must(exchange(near.(*net.UDPConn), far, []byte(want), controlInt(level, set, mark)))(t)
					got, ok := m.value(level, set)
					if got != mark || !ok || string(m.data) != want {
						t.Errorf("got %q with mark %d, %t, want %q", m.data, got, ok, want)
					}
				}
			})
		}
	}
}

// exchange sends a datagram until it has arrived.
func exchange(near, far *net.UDPConn, data, oob []byte) (m message, err error) {
	err = insist(far, func() error {
		_, _, err := near.WriteMsgUDP(data, oob, nil)
		return err
	}, func() (_ bool, err error) {
		m, err = receive(far)
		return bytes.Equal(m.data, data), err // others are late
	})
	return m, err
}

// TestPacketInfo reads the destination address and the interface of a packet, and answers
// from that address.
func TestPacketInfo(t *testing.T) {
	over(t, ethernet, func(t *testing.T, r route) {
		p := testenv.Must(r.to.ListenPacket("udp", ":0"))(t)
		defer p.Close()
		far := p.(*net.UDPConn)
		host := netip.MustParseAddr(r.host)
		if host.Is4() {
			setOption(t, far, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		} else {
			setOption(t, far, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		}
		to := netip.AddrPortFrom(host, far.LocalAddr().(*net.UDPAddr).AddrPort().Port())
		c := testenv.Must(r.from.Dial("udp", to.String()))(t)
		defer c.Close()
		near := c.(*net.UDPConn)
		m := testenv.Must(exchange(near, far, []byte("question"), nil))(t)
		local, index, oob := m.packetInfo()
		if local != host || index != r.to.Stats().Interfaces[0].Index {
			t.Errorf("sent to %v over interface %d, want %v over %d", local, index, host, r.to.Stats().Interfaces[0].Index)
		}
		near.SetReadDeadline(time.Now().Add(testenv.Timeout))
		if _, _, err := far.WriteMsgUDPAddrPort([]byte("answer"), oob, m.from); err != nil {
			t.Fatal(err)
		}
		if m, err := receive(near); err != nil || string(m.data) != "answer" || m.from != to {
			t.Errorf("got %q from %v, %v, want it from %v", m.data, m.from, err, to)
		}
	})
}

// packetInfo returns the destination address and the interface of a message, and a control
// message that makes the answer go the same way.
func (m message) packetInfo() (local netip.Addr, index int, answer []byte) {
	for _, c := range m.control {
		switch {
		case c.Header.Level == unix.IPPROTO_IP && c.Header.Type == unix.IP_PKTINFO && len(c.Data) == unix.SizeofInet4Pktinfo:
			index = int(binary.NativeEndian.Uint32(c.Data))
			local = netip.AddrFrom4([4]byte(c.Data[8:])) // ipi_addr
			source := append(make([]byte, 4), c.Data[8:12]...)
			answer = control(unix.IPPROTO_IP, unix.IP_PKTINFO, append(source, 0, 0, 0, 0))
		case c.Header.Level == unix.IPPROTO_IPV6 && c.Header.Type == unix.IPV6_PKTINFO && len(c.Data) == unix.SizeofInet6Pktinfo:
			local = netip.AddrFrom16([16]byte(c.Data))
			index = int(binary.NativeEndian.Uint32(c.Data[16:]))
			answer = control(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, c.Data)
		}
	}
	return local, index, answer
}

// TestDontFragment checks that packets larger than the MTU of the stack's interface are
// refused on request, as path MTU discovery needs it.
func TestDontFragment(t *testing.T) {
	testenv.Long(t)
	over(t, ethernet, func(t *testing.T, r route) {
		near, far := r.packets(t)
		fits := defaultMTU - 20 - 8
		if r.largest() == largest4 {
			setOption(t, near, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
		} else {
			fits -= 20
			setOption(t, near, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
		}
		if _, err := exchange(near, far, payload{1, int64(fits)}.bytes(), nil); err != nil {
			t.Errorf("%d bytes: %v", fits, err)
		}
		if _, err := near.Write(make([]byte, fits+1)); !errors.Is(err, unix.EMSGSIZE) {
			t.Errorf("%d bytes: %v, want EMSGSIZE", fits+1, err)
		}
	})
}

// defaultMTU is the MTU of interfaces that do not say theirs.
const defaultMTU = 1500

// TestGSO sends many datagrams with one call. They arrive one by one, or several together
// if the socket asks for that.
func TestGSO(t *testing.T) {
	guard(t)
	const segment = 1200
	const segments = 41 // of which the last is shorter
	want := payload{1, (segments-1)*segment + 333}.bytes()
	for _, r := range routes(t) {
		for _, gro := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, GRO %t", r.name, gro), func(t *testing.T) {
				near, far := r.packets(t)
				if gro {
					setOption(t, far, unix.SOL_UDP, unix.UDP_GRO, 1)
				}
				size := control(unix.SOL_UDP, unix.UDP_SEGMENT, binary.NativeEndian.AppendUint16(nil, segment))
				got, joined := map[string]bool{}, 0
				err := insist(far, func() error {
					n, _, err := near.WriteMsgUDP(want, size, nil)
					if errors.Is(err, unix.EIO) {
						testenv.Skip(t, "this kernel segments datagrams only for interfaces with checksum offload, before Linux 6.11")
					}
					if err == nil && n != len(want) {
						err = fmt.Errorf("wrote %d bytes, want %d", n, len(want))
					}
					return err
				}, func() (bool, error) {
					m, err := receive(far)
					size, ok := m.value(unix.SOL_UDP, unix.UDP_GRO)
					if ok && !gro {
						t.Errorf("segments of %d bytes, which nobody asked for", size)
					}
					if !ok || size == 0 {
						size = len(m.data)
					}
					if len(m.data) > size {
						joined++
					}
					for d := range slices.Chunk(m.data, max(size, 1)) {
						got[string(d)] = true
					}
					return len(got) >= segments, err
				})
				if err != nil {
					t.Error(err)
				}
				for b := range slices.Chunk(want, segment) {
					if !got[string(b)] {
						t.Errorf("a segment of %d bytes is missing", len(b))
					}
					delete(got, string(b))
				}
				if len(got) > 0 {
					t.Errorf("%d datagrams that nobody sent", len(got))
				}
				t.Logf("%d times several datagrams in one read", joined)
				// Over loopback nothing splits the packet.
				if gro && r.from == r.to && joined == 0 {
					t.Error("UDP_GRO is set, and every datagram came alone")
				}
			})
		}
	}
}
