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
	// entries, and each question for an address goes to all stacks.
	pace = 5
	// tries is how often an unanswered packet is sent, and answerWait how long
	// an answer is waited for: the kernel repeats its question every second.
	tries      = 10
	answerWait = time.Second
)

// A source sends pings from a stack.
type source struct {
	*member
	conn  *net.IPConn
	nl    *rtnl.Conn
	index int
}

// reach pings all stacks from every nth of them.
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
		targets := members[i:min(i+pace, len(members))]
		answers := make(chan int)
		errs := make(chan error, len(sources))
		for _, s := range sources {
			go func() {
				n, err := s.ping(targets)
				errs <- err
				answers <- n
			}()
		}
		for _, s := range sources {
			reached += <-answers
			err = cmp.Or(err, <-errs)
			for _, t := range targets {
				if t != s.member {
					pairs++
				}
			}
		}
		if err == nil {
			err = forget(sources, targets)
		}
		if err != nil {
			return 0, 0, err
		}
	}
	return pairs, reached, nil
}

func newSource(m *member) (_ *source, err error) {
	s := &source{member: m}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.nl, err = m.RTNL(); err != nil {
		return nil, err
	}
	if s.index, err = s.nl.IfNameToIndex(ifName); err != nil {
		return nil, err
	}
	conn, err := m.ListenPacket("ip4:icmp", "0.0.0.0")
	if err != nil {
		return nil, err
	}
	s.conn = conn.(*net.IPConn)
	return s, nil
}

// ifName is the name of the interface of a stack that has one.
const ifName = "vde0"

func (s *source) close() {
	if s.conn != nil {
		s.conn.Close()
	}
	if s.nl != nil {
		s.nl.Close()
	}
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

// forget removes from the tables of neighbours what the pings have put there.
func forget(sources []*source, targets []*member) error {
	for _, s := range sources {
		for _, t := range targets {
			if err := s.nl.NeighborDel(s.index, t.addr); err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
	}
	for _, t := range targets {
		nl, err := t.RTNL()
		if err != nil {
			return err
		}
		index, err := nl.IfNameToIndex(ifName)
		for _, s := range sources {
			if derr := nl.NeighborDel(index, s.addr); derr != nil && !errors.Is(derr, unix.ENOENT) {
				err = cmp.Or(err, derr)
			}
		}
		nl.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
