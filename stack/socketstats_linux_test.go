package stack_test

import (
	"errors"
	"net"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/stack"
)

// TestSocketStats has sockets of both families in each state.
func TestSocketStats(t *testing.T) {
	s := made(t, Config{Name: "lab", Interfaces: on("null://", "10.0.0.1/24", "fd00::1/64").Interfaces})
	stats := func() stack.SocketStats {
		t.Helper()
		return testenv.Must(s.SocketStats())(t)
	}
	if st := stats(); st.TCP != (stack.TCPStats{}) || st.UDP.Sockets != 0 {
		t.Errorf("at first: %+v", st)
	}
	other := made(t, Config{Name: "lab"}) // has none, and counts nothing
	for _, a := range []string{"10.0.0.1:80", "[fd00::1]:80"} {
		l := testenv.Listen(t, s, "tcp", a)
		c := testenv.Dial(t, s, "tcp", a)
		testenv.Opened(l.Accept())(t)
		if _, err := s.Dial("tcp", a[:len(a)-2]+"81"); err == nil {
			t.Error("nobody listens on port 81")
		}
		testenv.Must(c.Write([]byte("x")))(t)
	}
	u := testenv.ListenPacket(t, s, "udp", "[fd00::1]:53")
	testenv.Must(u.WriteTo([]byte("x"), u.LocalAddr()))(t)
	st := stats()
	tcp := st.TCP
	tcp.InSegs, tcp.OutSegs = 0, 0
	if want := (stack.TCPStats{Listen: 2, Established: 4, ActiveOpens: 4, PassiveOpens: 2, AttemptFails: 2, OutRsts: 2}); tcp != want {
		t.Errorf("got  %+v\nwant %+v", tcp, want)
	}
	if st.TCP.InSegs < 10 || st.TCP.OutSegs < 10 || st.UDP != (stack.UDPStats{Sockets: 1, OutDatagrams: 1, InDatagrams: st.UDP.InDatagrams}) {
		t.Errorf("%+v", st)
	}
	if st := testenv.Must(other.SocketStats())(t); st != (stack.SocketStats{}) {
		t.Errorf("another stack: %+v", st)
	}
	// A peer that has not answered yet: the connection is being made.
	go s.Dial("tcp", "10.0.0.2:80")
	testenv.Eventually(t, "a connection that is being made", func() bool { return stats().TCP.Other == 1 })
	s.Close()
	if _, err := s.SocketStats(); !errors.Is(err, net.ErrClosed) || err.Error() != "lab: stack is closed: use of closed network connection" {
		t.Errorf("after Close: %v", err)
	}
	if _, err := (*stack.Stack)(nil).SocketStats(); err != stack.ErrNoStack {
		t.Errorf("of no stack: %v", err)
	}
}

// BenchmarkSocketStats is what a scrape takes for each stack.
func BenchmarkSocketStats(b *testing.B) {
	s := testenv.Opened(New(b.Context(), Config{}))(b)
	for b.Loop() {
		s.SocketStats()
	}
}
