package p2p

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/testenv"
)

func TestUDPStranger(t *testing.T) {
	testenv.NoLeaks(t)
	c := end(t, openUDP(t, "7001", "7002", "127.0.0.1"))
	dial := func(local string) *net.UDPConn {
		t.Helper()
		conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(local)),
			&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7001})
		testenv.Check(t, err)
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	for _, stranger := range []string{"127.0.0.1:7003", "127.0.0.2:7002"} {
		dial(stranger).Write(plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)) // refused, but later
	}
	checkDatagrams(t, dial("127.0.0.1:7002"), c, 1)
}

// TestUDPReconnect takes the route away from a socket, as an address that is
// removed and comes back does.
func TestUDPReconnect(t *testing.T) {
	testenv.NoLeaks(t)
	conn := openUDP(t, "7001", "7002", "127.0.0.1")
	a, b := end(t, conn), plugtest.NewInbox(t, end(t, openUDP(t, "7002", "7001", "127.0.0.1")))
	conn.file.Raw.Control(func(fd uintptr) { sockio.Disconnect(int(fd)) })
	frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)
	testenv.Check(t, a.Send(frame))
	b.Want(t, frame)
	if recv, send := plugtest.Dropped(a); recv+send != 0 {
		t.Errorf("got %d and %d drops, want none", recv, send)
	}
}

func openUDP(t *testing.T, from, to, host string) *UDP {
	t.Helper()
	return testenv.Must(OpenUDP(t.Context(), Endpoint{Port: from}, Endpoint{host, to}))(t).(*UDP)
}
