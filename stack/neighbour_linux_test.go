package stack_test

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/vdestack/vdestack/vdeplug"

	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestNeighbour asks for an IPv6 address as soon as the stack is open, once: the
// next question of a kernel would come a second later.
func TestNeighbour(t *testing.T) {
	testenv.Long(t)
	for range 20 {
		p := testenv.Opened(vdeplug.Open("mem://"+t.Name(), nil))(t)
		answered := make(chan bool)
		target := netip.MustParseAddr("fc00::1:1")
		go func() {
			frame := make([]byte, vdeplug.MaxFrame)
			for {
				n, err := p.Recv(frame)
				if err != nil {
					return
				}
				// A neighbour advertisement (136) for the target.
				if b := frame[:n]; n >= 78 && b[20] == 58 && b[54] == 136 && netip.AddrFrom16([16]byte(b[62:])) == target {
					close(answered)
					return
				}
			}
		}()
		s := open(t, "mem://"+t.Name(), "fc00::1:1/64", "10.0.0.1/24")
		testenv.Check(t, p.Send(solicitation(netip.MustParseAddr("fc00::1:99"), target)))
		select {
		case <-answered:
		case <-time.After(5 * time.Second):
			t.Fatal("no answer to a neighbour that asked when the stack was open")
		}
		s.Close()
		p.Close()
	}
}

// solicitation returns a frame with a neighbour solicitation, RFC 4861 section
// 4.3.
func solicitation(from, target netip.Addr) []byte {
	mac := []byte{2, 0, 0, 0, 0, 99}
	t := target.As16()
	group := append([]byte{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff}, t[13:]...)

	icmp := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, t[:]...)
	icmp = append(append(icmp, 1, 1), mac...)
	pseudo := append(append(from.AsSlice(), group...), 0, 0, 0, byte(len(icmp)), 0, 0, 0, 58)
	binary.BigEndian.PutUint16(icmp[2:], ^packettest.Sum(append(pseudo, icmp...), 0))

	frame := append([]byte{0x33, 0x33, 0xff}, t[13:]...)
	frame = append(append(frame, mac...), 0x86, 0xdd)
	frame = append(frame, 0x60, 0, 0, 0, 0, byte(len(icmp)), 58, 255)
	return append(append(append(frame, from.AsSlice()...), group...), icmp...)
}
