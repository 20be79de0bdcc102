package p2p

import (
	"math"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// ptpPath returns the path of a pair of the test.
func ptpPath(t *testing.T) string { return filepath.Join(t.TempDir(), "p") }

// end returns a plug on a transport, and closes it at the end of the test.
func end(t *testing.T, c packet.Transport) plugtest.Conn {
	plug := plugtest.NewConn(c)
	t.Cleanup(func() { plug.Close() })
	return plug
}

// ptpPair returns the two ends of a pair.
func ptpPair(t *testing.T) (first, second *PTP) {
	t.Helper()
	path := ptpPath(t)
	return testenv.Must(OpenPTP(path))(t), testenv.Must(OpenPTP(path))(t)
}

// TestConn opens an end of each kind, alone and with a peer that reads or does not.
func TestConn(t *testing.T) {
	testenv.Long(t)
	reads := func(t *testing.T, peer packet.Transport) { plugtest.NewInbox(t, end(t, peer)) }
	for _, tt := range []struct {
		name string
		open func(t *testing.T) packet.Transport
	}{
		{"ptp alone", func(t *testing.T) packet.Transport { return testenv.Must(OpenPTP(ptpPath(t)))(t) }},
		{"ptp, peer reads", func(t *testing.T) packet.Transport {
			a, b := ptpPair(t)
			reads(t, b)
			return a
		}},
		{"ptp, peer does not read", func(t *testing.T) packet.Transport {
			a, b := ptpPair(t)
			end(t, b)
			return a
		}},
		{"ptp seqpacket alone", func(t *testing.T) packet.Transport {
			return testenv.Must(OpenSeqpacketPTP(t.Context(), ptpPath(t)))(t)
		}},
		{"ptp seqpacket second", func(t *testing.T) packet.Transport {
			path := ptpPath(t)
			end(t, testenv.Must(OpenSeqpacketPTP(t.Context(), path))(t))
			return testenv.Must(OpenSeqpacketPTP(t.Context(), path))(t)
		}},
		{"seqpacket", func(t *testing.T) packet.Transport {
			a, b := plugtest.OpenPair(t, unix.SOCK_SEQPACKET)
			t.Cleanup(func() { unix.Close(b) })
			return testenv.Must(OpenSeqpacket(a))(t)
		}},
		{"udp alone", func(t *testing.T) packet.Transport { return openUDP(t, "7001", "7002", "::1") }},
		{"udp, peer reads", func(t *testing.T) packet.Transport {
			reads(t, openUDP(t, "7002", "7001", "127.0.0.1"))
			return openUDP(t, "7001", "7002", "127.0.0.1")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			plugtest.Check(t, func(t *testing.T) plugtest.Conn { return end(t, tt.open(t)) })
		})
	}
}

// packetPairs are the kinds of networks, with two ends.
var packetPairs = []struct {
	name   string
	open   func(t *testing.T) (a, b packet.Transport)
	limits plugtest.Limits
}{
	{"ptp", func(t *testing.T) (a, b packet.Transport) { return ptpPair(t) }, plugtest.Limits{Unchecked: true}},
	{"ptp datagrams", func(t *testing.T) (a, b packet.Transport) {
		useDirect = false
		t.Cleanup(func() { useDirect = true })
		return ptpPair(t)
	}, plugtest.Limits{}},
	{"ptp seqpacket", func(t *testing.T) (a, b packet.Transport) {
		path := ptpPath(t)
		return testenv.Must(OpenSeqpacketPTP(t.Context(), path))(t), testenv.Must(OpenSeqpacketPTP(t.Context(), path))(t)
	}, plugtest.Limits{}},
	{"seqpacket", func(t *testing.T) (a, b packet.Transport) {
		x, y := plugtest.OpenPair(t, unix.SOCK_SEQPACKET)
		return testenv.Must(OpenSeqpacket(x))(t), testenv.Must(OpenSeqpacket(y))(t)
	}, plugtest.Limits{}},
	{"udp", func(t *testing.T) (a, b packet.Transport) {
		return cut(t, openUDP(t, "7001", "7002", "127.0.0.1")), openUDP(t, "7002", "7001", "127.0.0.1")
	}, plugtest.Limits{}},
	{"udp6", func(t *testing.T) (a, b packet.Transport) {
		return cut(t, openUDP(t, "7001", "7002", "::1")), openUDP(t, "7002", "7001", "::1")
	}, plugtest.Limits{}},
}

// TestPackets moves packets between two ends of each kind.
func TestPackets(t *testing.T) {
	for _, tt := range packetPairs {
		t.Run(tt.name, func(t *testing.T) {
			plugtest.CheckPackets(t, func(t *testing.T) (a, b packet.Transport) {
				a, b = tt.open(t)
				return end(t, a).(packet.Transport), end(t, b).(packet.Transport)
			}, tt.limits)
		})
	}
}

func TestPacketAllocs(t *testing.T) {
	for _, tt := range packetPairs {
		t.Run(tt.name, func(t *testing.T) {
			x, y := tt.open(t)
			a, b := end(t, x), end(t, y)
			plugtest.CheckPacketAllocs(t, a.(packet.Transport), b.(packet.Transport))
			plugtest.CheckAllocs(t, a, b)
		})
	}
}

// cut checks that the kernel cuts the datagrams of a socket.
func cut(t *testing.T, c *UDP) *UDP {
	t.Cleanup(func() {
		if limit := c.udp.Limit.Load(); limit != math.MaxInt64 {
			t.Errorf("the kernel does not cut datagrams of %d bytes", limit)
		}
	})
	return c
}
