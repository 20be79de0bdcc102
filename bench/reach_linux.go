package main

import (
	"cmp"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vdestack/vdestack/bench/internal/worker"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

const (
	// pace is how many stacks are asked by all sources before neighbours are
	// forgotten. The kernel has one table of them for the whole machine, of 1024
	// entries.
	pace = 5
	// tries is how often an unanswered packet is sent, and answerWait how long
	// an answer is waited for: the kernel repeats its question every second.
	tries      = 10
	answerWait = time.Second
)

// A neighbour is a stack and what others know of it.
type neighbour struct {
	*member
	nl    *rtnl.Conn
	index int
	mac   net.HardwareAddr
}

// A source sends pings from a stack.
type source struct {
	*neighbour
	conn *net.IPConn
}

// reach pings all stacks from every nth of them. The first one asks for their
// hardware addresses. The others are told: each question goes to all stacks, and
// ten million copies take a minute.
func reach(stacks []worker.Stack, n int) (pairs, reached int, err error) {
	var members []*member
	for _, s := range stacks {
		members = append(members, s.(*member))
	}
	var sources []*source
	defer func() {
		for _, s := range sources {
			s.close()
		}
	}()
	for i := 0; i < len(members); i += n {
		s, err := newSource(members[i])
		if err != nil {
			return 0, 0, err
		}
		sources = append(sources, s)
	}
	for i := 0; i < len(members); i += pace {
		p, r, err := reachSome(sources, members[i:min(i+pace, len(members))])
		if err != nil {
			return 0, 0, err
		}
		pairs, reached = pairs+p, reached+r
	}
	return pairs, reached, nil
}

// reachSome pings some stacks from all sources.
func reachSome(sources []*source, members []*member) (pairs, reached int, err error) {
	var targets []*neighbour
	defer func() {
		for _, t := range targets {
			t.close()
		}
	}()
	for _, m := range members {
		t, err := newNeighbour(m)
		if err != nil {
			return 0, 0, err
		}
		targets = append(targets, t)
	}
	for _, s := range sources[1:] {
		for _, t := range targets {
			if s.member != t.member {
				if err := errors.Join(s.knows(t), t.knows(s.neighbour)); err != nil {
					return 0, 0, err
				}
			}
		}
	}
	answers := make(chan int)
	errs := make(chan error, len(sources))
	for _, s := range sources {
		go func() {
			n, err := s.ping(members)
			errs <- err
			answers <- n
		}()
	}
	for _, s := range sources {
		reached += <-answers
		err = cmp.Or(err, <-errs)
		for _, t := range targets {
			if t.member != s.member {
				pairs++
			}
		}
	}
	for _, s := range sources {
		for _, t := range targets {
			err = errors.Join(err, s.forgets(t), t.forgets(s.neighbour))
		}
	}
	return pairs, reached, err
}

func newNeighbour(m *member) (n *neighbour, err error) {
	n = &neighbour{member: m}
	if n.nl, err = m.RTNL(); err != nil {
		return nil, err
	}
	if n.index, err = n.nl.IfNameToIndex(ifName); err == nil {
		n.mac, err = n.nl.LinkAddr(n.index)
	}
	if err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// ifName is the name of the interface of a stack that has one.
const ifName = "vde0"

func (n *neighbour) close() { n.nl.Close() }

// knows adds the hardware address of another to the table of neighbours, for ever.
func (n *neighbour) knows(other *neighbour) error {
	return n.nl.NeighborAdd(rtnl.Neighbor{IfIndex: n.index, Addr: other.addr, HardwareAddr: other.mac})
}

// forgets removes another from the table of neighbours, whoever put it there.
func (n *neighbour) forgets(other *neighbour) error {
	if err := n.nl.NeighborDel(n.index, other.addr); !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

func newSource(m *member) (*source, error) {
	n, err := newNeighbour(m)
	if err != nil {
		return nil, err
	}
	conn, err := m.ListenPacket("ip4:icmp", "0.0.0.0")
	if err != nil {
		n.close()
		return nil, err
	}
	return &source{n, conn.(*net.IPConn)}, nil
}

func (s *source) close() {
	s.conn.Close()
	s.neighbour.close()
}

// ping returns how many of the targets, without the source itself, answer.
func (s *source) ping(targets []*member) (answered int, err error) {
	missing := make(map[netip.Addr]bool)
	for _, t := range targets {
		if t != s.member {
			missing[t.addr] = true
		}
	}
	total := len(missing)
	request, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: 1}}).Marshal(nil)
	if err != nil {
		return 0, err
	}
	buf := make([]byte, 1500)
	for range tries {
		for addr := range missing {
			// ENOBUFS and its like are as good as a lost packet.
			if _, err := s.conn.WriteTo(request, &net.IPAddr{IP: addr.AsSlice()}); err != nil && errors.Is(err, net.ErrClosed) {
				return 0, err
			}
		}
		s.conn.SetReadDeadline(time.Now().Add(answerWait))
		for len(missing) > 0 {
			n, from, err := s.conn.ReadFrom(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return 0, err
			}
			addr, _ := netip.AddrFromSlice(from.(*net.IPAddr).IP.To4())
			if n > 0 && buf[0] == byte(ipv4.ICMPTypeEchoReply) {
				delete(missing, addr)
			}
		}
		if len(missing) == 0 {
			break
		}
	}
	return total - len(missing), nil
}
