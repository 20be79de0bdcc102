// Package sourcetest has a link without sockets, a sink that remembers and a lab, whose packets
// may go over an impaired network, for tests of sources. They are made of channels, so tests
// can run in a bubble of testing/synctest, where the clock goes on when everybody waits.
package sourcetest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/vdestack/vdestack/autoconf/internal/source"
)

// Names of ports. That of [source.Link.UDP] is UDP of its address.
const (
	Unconfigured = "udp4 unconfigured"
	ARP          = "arp"
	ICMP6        = "icmp6"
)

// UDP returns the name of a port.
func UDP(local netip.AddrPort) string { return "udp " + local.String() }

// MAC is the hardware address of a new Link.
var MAC = net.HardwareAddr{2, 0, 0, 0, 0, 0x42}

// A Link is a [source.Link] whose other end is the test.
type Link struct {
	// HW is its hardware address, and Other that of another interface of the stack.
	HW, Other net.HardwareAddr
	// Sent has what the source has sent. A source does not wait for the test unless there
	// are very many packets.
	Sent chan Sent

	mu        sync.Mutex // guards the rest
	openError func(port string) error
	sendError func(Sent) error
	ports     []*port // that are open
}

var _ source.Link = (*Link)(nil)

// Sent is a packet and the name of the port that sent it.
type Sent struct {
	Port string
	source.Packet
}

// NewLink returns a link with the hardware address MAC.
func NewLink() *Link { return &Link{HW: MAC, Sent: make(chan Sent, 1000)} }

// RefuseOpen has f decide from now on whether a port can be opened; nil opens all.
func (l *Link) RefuseOpen(f func(port string) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.openError = f
}

// RefuseSend has f decide from now on whether a packet can be sent: else it is in Sent. Nil
// sends all.
func (l *Link) RefuseSend(f func(Sent) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sendError = f
}

func (l *Link) Name() string          { return "vde0" }
func (l *Link) Index() int            { return 7 }
func (l *Link) MAC() net.HardwareAddr { return l.HW }

func (l *Link) Ours(mac net.HardwareAddr) bool {
	return bytes.Equal(mac, l.HW) || bytes.Equal(mac, l.Other)
}

func (l *Link) UDP(local netip.AddrPort) (source.Port, error)     { return l.open(UDP(local)) }
func (l *Link) UDP4Unconfigured(port uint16) (source.Port, error) { return l.open(Unconfigured) }
func (l *Link) ARP(netip.Addr) (source.Port, error)               { return l.open(ARP) }
func (l *Link) ICMP6(...uint8) (source.Port, error)               { return l.open(ICMP6) }

func (l *Link) open(name string) (source.Port, error) {
	l.mu.Lock()
	refuse := l.openError
	l.mu.Unlock()
	if refuse != nil {
		if err := refuse(name); err != nil {
			return nil, err
		}
	}
	p := &port{link: l, name: name, packets: make(chan source.Packet, 32)}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ports = append(l.ports, p)
	return p, nil
}

// Deliver gives a packet to the open ports with a name, as a network does: it is lost if
// their queues are full. It reports whether there was such a port.
func (l *Link) Deliver(name string, p source.Packet) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := false
	for _, to := range l.ports {
		if to.name != name {
			continue
		}
		found = true
		p.Data = slices.Clone(p.Data)
		select {
		case to.packets <- p:
		default:
		}
	}
	return found
}

// Open returns the names of the ports that are open.
func (l *Link) Open() (names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.ports {
		names = append(names, p.name)
	}
	return names
}

// Break has all open ports fail, as if the interface was gone.
func (l *Link) Break() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.ports {
		close(p.packets)
	}
	l.ports = nil
}

type port struct {
	link    *Link
	name    string
	packets chan source.Packet
}

func (p *port) Send(packet source.Packet) error {
	l := p.link
	l.mu.Lock()
	open, refuse := slices.Contains(l.ports, p), l.sendError
	l.mu.Unlock()
	if !open {
		return net.ErrClosed
	}
	packet.Data = slices.Clone(packet.Data)
	s := Sent{p.name, packet}
	if refuse != nil {
		if err := refuse(s); err != nil {
			return err
		}
	}
	select {
	case l.Sent <- s:
		return nil
	default:
		return fmt.Errorf("%d packets wait for the test", cap(l.Sent))
	}
}

func (p *port) Packets() <-chan source.Packet { return p.packets }

func (p *port) Close() error {
	p.link.mu.Lock()
	defer p.link.mu.Unlock()
	if i := slices.Index(p.link.ports, p); i >= 0 {
		p.link.ports = slices.Delete(p.link.ports, i, i+1)
		close(p.packets)
	}
	return nil
}

// A Sink remembers what a source says.
type Sink struct {
	// Said has, in their order, each source.Lease of Set, each error of Failed, and each
	// json.RawMessage of Store.
	Said chan any

	mu       sync.Mutex // guards setError
	setError func(source.Lease) error
}

var _ source.Sink = (*Sink)(nil)

// NewSink returns a sink.
func NewSink() *Sink { return &Sink{Said: make(chan any, 1000)} }

// RefuseSet has f return the errors of Set from now on; nil refuses nothing.
func (s *Sink) RefuseSet(f func(source.Lease) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setError = f
}

func (s *Sink) Set(l source.Lease) error {
	s.Said <- l
	s.mu.Lock()
	refuse := s.setError
	s.mu.Unlock()
	if refuse != nil {
		return refuse(l)
	}
	return nil
}

func (s *Sink) Failed(err error) {
	if err == nil {
		err = errors.New("Failed was called without an error")
	}
	s.Said <- err
}

func (s *Sink) Store(data json.RawMessage) { s.Said <- slices.Clone(data) }

// SomeConflicts is for RefuseSet: every tenth lease has an address that somebody else has.
func SomeConflicts(l source.Lease) error {
	if len(l.Addrs) > 0 && rand.IntN(10) == 0 {
		return &source.ConflictError{Addrs: []netip.Addr{l.Addrs[0].Prefix.Addr()}}
	}
	return nil
}
