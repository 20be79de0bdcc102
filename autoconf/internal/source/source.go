// Package source is the contract between a client of module autoconf and its sources:
// packages dhcp4, dhcp6 and rd beside this one. Each source is a state machine in one
// function,
//
//	func Run(ctx context.Context, cfg source.Config, link source.Link, sink source.Sink) error
//
// that keeps one interface configured by one protocol, and has a line in the client's map of
// sources. The client starts it in a goroutine of its own. Whatever it needs comes with its
// arguments:
//
//   - cfg: what the user has chosen, what was stored, and what the client asks for later.
//   - link: sockets on the interface. A source opens no others, and does not look at the
//     host. Package sourcetest has a Link of queues for tests.
//   - sink: takes what the source learns. The client applies it to the kernel and to the
//     stack's DNS.
//   - the time: from package time alone, so that tests turn the clock with
//     testing/synctest. A source reads no other clock, and does not wait for anything but
//     channels: those of ports and timers, Config.Calls and ctx.
//
// # Life
//
//   - Run calls [Sink.Set] each time when what it knows has changed, and when it was
//     renewed: the lifetimes are then longer. Something that ended is left out by the
//     next Set. When nothing is left, that is Set of the zero Lease.
//   - Every attempt that ends without a result is reported by [Sink.Failed]; the first
//     one not later than [FirstAttempt] after the start. Run then goes on trying, with the
//     back-off of its RFC, for as long as ctx lives. The same holds for attempts to renew.
//   - The client waits for the first Set (not of the zero Lease) or Failed of each source.
//   - Run returns nil when ctx has ended, and an error only if it can never go on, such as
//     a port that cannot be opened. The client then treats that as a failed attempt, and
//     starts the source again when the interface changes, or after a minute and ever later.
//   - When ctx has ended, and Config.Release asks for it, Run gives the lease back before
//     it returns, within [ReleaseTime]. Sockets and addresses are there until then, but
//     ports have to be used without ctx. DHCPv6 calls Set with the zero Lease first, as
//     RFC 8415 (18.2.7) wants it. After Run the client removes what the source had set.
//   - The source closes its ports and stops its timers before it returns.
//
// # Hostile input
//
// Everything that comes from a port, and Config.Stored, was written by others. A packet that
// is malformed or not meant for this source is ignored, without a report. Lists are bounded:
// [MaxItems] of each kind, so that nobody on the network can fill the kernel's tables.
// Nothing panics, nothing waits for ever, nothing is sent more often because somebody asks
// for it. Each source has fuzz targets for the packets that it takes. The client leaves out
// addresses, routes and servers that make no sense, such as 127.0.0.1.
package source

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"
)

const (
	// FirstAttempt bounds the first attempt of a source, so that the client can start
	// within ten seconds.
	FirstAttempt = 8 * time.Second
	// ReportAfter is when a source reports an attempt that has no result yet. It goes on.
	ReportAfter = FirstAttempt - 500*time.Millisecond
	// ReleaseTime bounds what a source does after its context has ended.
	ReleaseTime = time.Second
	// MaxItems bounds each list of a Lease.
	MaxItems = 16
)

// Run is the type of the function that each source has.
type Run func(ctx context.Context, cfg Config, link Link, sink Sink) error

// Config is what a source needs to know.
type Config struct {
	// FQDN is the name that the user gave to the interface, without a trailing dot; empty
	// if there is none. DHCP tells it to the server.
	FQDN string
	// Release asks for the lease to be given back when ctx ends.
	Release bool
	// Stored is what the source has stored last, perhaps years ago and in another process;
	// nil if there is nothing. It is JSON, but need not be what this source has written.
	Stored json.RawMessage
	// Calls are what the client asks for. It may be nil.
	Calls <-chan Call
	// Log receives what a person may want to know and Sink does not tell, at most a few
	// lines an attempt. It is never nil when the client starts a source.
	Log *slog.Logger

	// AddrGen says how rd makes the address in a prefix that allows it.
	AddrGen AddrGen
	// Temporary asks rd for temporary addresses too, RFC 8981: it sets Addr.Temporary.
	Temporary bool
	// Hash returns the address for AddrHash: base is the prefix with a host part of zero.
	// It is nil without an FQDN.
	Hash func(base netip.Addr) netip.Addr
}

// AddrGen is how the host part of an address is made from a prefix of 64 bits.
type AddrGen int

// The ways. AddrHash is used for prefixes without the flag for autonomous configuration
// too, as in iothconf: the administrator of the names knows the address.
const (
	AddrNone   AddrGen = iota // no addresses
	AddrHash                  // Config.Hash
	AddrEUI64                 // from the hardware address, RFC 4291, appendix A
	AddrStable                // RFC 7217: stable in a network, and unlike those in others
)

// A Call is something that the client asks of a source. A source that has several to
// take may treat them as one.
type Call struct {
	// Renew asks for an attempt now: to renew what is known or, if nothing is, to find
	// it. It ends with Set, even if nothing has changed, or with Failed.
	Renew bool
	// Confirm says that the interface may be on another network: it was down or without
	// a carrier, or the machine was asleep. The source verifies what it knows:
	// INIT-REBOOT, CONFIRM, a solicitation. It too ends with Set or Failed.
	Confirm bool
	// Slept is for how long the machine was asleep. Timers and the monotonic clock
	// have stood still, so every instant that the source keeps is that much too late.
	Slept time.Duration
}

// Sink takes what a source knows. A source calls it from one goroutine at a time.
type Sink interface {
	// Set replaces all that the source knew before. It returns when the kernel has the
	// addresses, which takes a second or two for new IPv6 addresses: the kernel looks for
	// duplicates. What stays the same is not absent for a moment, and two sources may give
	// the same.
	//
	// A [*ConflictError] has the addresses that are in use by another host; they are not
	// configured, and everything else is. After any other error, which the client reports
	// itself, it applies the lease again when the interface changes, and the source
	// continues as if there was none.
	Set(Lease) error
	// Failed says that an attempt has ended without a result. The source goes on trying.
	Failed(error)
	// Store keeps data for Config.Stored of a later Run of this client or, if the user wants
	// leases to be stored, of another one. Instants in it are of the wall clock.
	Store(data json.RawMessage)
}

// A ConflictError has addresses that another host on the network has.
type ConflictError struct{ Addrs []netip.Addr }

func (e *ConflictError) Error() string {
	var all []string
	for _, a := range e.Addrs {
		all = append(all, a.String())
	}
	return fmt.Sprintf("in use by another host: %s", strings.Join(all, ", "))
}

// Link is an Ethernet interface of a stack, and opens ports on it. A port sends and
// receives on this interface only.
type Link interface {
	Name() string
	Index() int // for the kernel
	// MAC returns the hardware address, six bytes, which stays as it is during a Run.
	MAC() net.HardwareAddr

	// UDP opens a socket at a local address, which may be 0.0.0.0 or ::, and port. It can
	// send to 255.255.255.255 and to groups. Packets to an IPv6 group have hop limit 1.
	// Port 547 receives what is for all servers of DHCPv6.
	UDP(local netip.AddrPort) (Port, error)
	// UDP4Unconfigured opens a packet socket for UDP over IPv4 on an interface without an
	// address. It sends from Packet.Local, or 0.0.0.0, and the port to Packet.Peer, by
	// Ethernet to Packet.HW, or to all if that is nil. It receives what comes for the port, whatever the
	// destination address is, with right checksums.
	UDP4Unconfigured(port uint16) (Port, error)
	// ARP opens a packet socket for ARP, which receives what comes from an address, and what
	// others without an address ask about it; everything if it is the zero Addr. Data is the
	// packet after the Ethernet header; it is sent to Packet.HW, or to all if that is nil.
	ARP(about netip.Addr) (Port, error)
	// Ours reports whether an interface of the stack, which may have several on a network, has
	// a hardware address.
	Ours(mac net.HardwareAddr) bool
	// ICMP6 opens a raw socket for ICMPv6 that receives the given types only, with right
	// checksums. Data begins with the type; the kernel fills in the checksum. Packets are
	// sent with hop limit 255. With router solicitations it receives what is for all routers.
	ICMP6(types ...uint8) (Port, error)
}

// A Port sends and receives packets.
type Port interface {
	// Send sends a packet. It does not wait for the network.
	Send(Packet) error
	// Packets returns the packets that were received. The channel is closed when the port
	// is, and when its socket has failed: the interface or the stack is gone. Packets that
	// come while some dozens wait are lost.
	Packets() <-chan Packet
	// Close closes the port. It may be called twice.
	Close() error
}

// A Packet was received, or is to be sent. Addresses have no zones: it is the link's.
type Packet struct {
	// Data is the payload: of UDP, of the frame for ARP, or the ICMPv6 message. What was
	// received belongs to the receiver.
	Data []byte
	// Peer is the sender of a packet that was received, and else the destination. ICMPv6
	// has no port, ARP no Peer.
	Peer netip.AddrPort
	// Local is the address for which a packet was received, by UDP of IPv6, UDP4Unconfigured
	// and ICMP6; and the sender of packets to be sent by UDP4Unconfigured.
	Local netip.Addr
	// HW is the Ethernet address of the peer on packet sockets.
	HW net.HardwareAddr
	// HopLimit is that of an ICMPv6 message that was received. On its own link it is
	// 255, which proves that no router has passed it.
	HopLimit int
}

// Lease is all that one source knows. A source that knows nothing (any longer) has the
// zero value. Instants have a monotonic clock reading where the lifetime was learned in
// this process; the zero Time means never.
type Lease struct {
	Addrs  []Addr
	Routes []Route
	DNS    []Server
	Search []Domain

	// MTU is that of the network in bytes, 0 if it was not said: of DHCPv4 for the
	// interface, of router advertisements for IPv6.
	MTU int
	// NTP are servers of time, and CaptivePortal is the URI of RFC 8910. They are passed
	// on to the program; nothing here uses them.
	NTP           []netip.Addr
	CaptivePortal string
	// DHCP6 says that a router asks for DHCPv6, by a flag M or O of RFC 4861, section 4.2.
	DHCP6 bool

	// Server is who gave it: a DHCP server, or the router that was heard last.
	Server netip.Addr
	// Renew and Rebind are T1 and T2 of DHCP, Expires is the end of the whole lease.
	Renew, Rebind, Expires time.Time
}

// IsZero reports whether the source knows nothing.
func (l *Lease) IsZero() bool {
	return len(l.Addrs)+len(l.Routes)+len(l.DNS)+len(l.Search)+len(l.NTP) == 0 && l.MTU == 0 && l.CaptivePortal == "" &&
		!l.Server.IsValid() && l.Renew.IsZero() && l.Rebind.IsZero() && l.Expires.IsZero()
}

// Addr is an address of the interface.
type Addr struct {
	// Prefix is the address with the length of its network, which is on the link: the kernel
	// makes a route to it that ends with the address. A prefix that is not on the link, or
	// has a lifetime of its own, gets NoPrefixRoute or the address's whole length.
	Prefix        netip.Prefix
	NoPrefixRoute bool
	// Preferred and Valid are when new connections begin to avoid the address, and when it
	// ends.
	Preferred, Valid time.Time
	// Temporary has the kernel keep temporary addresses in the address's network, which is
	// of 64 bits: it makes them, replaces them in time, prefers them for connections, and
	// removes them with this one. A program cannot make addresses that the kernel takes
	// for temporary ones.
	Temporary bool
}

// Route is a route by way of the interface.
type Route struct {
	Dst     netip.Prefix // 0.0.0.0/0 or ::/0 for the default route
	Gateway netip.Addr   // the zero Addr for a destination on the link
	Expires time.Time
	// Preference is that of RFC 4191: -1 low, 0 medium, 1 high. Among routes to one
	// destination with the same preference the kernel passes over gateways that do not
	// answer; IPv6 shares the connections between the others.
	Preference int
}

// Server is the address of a DNS server.
type Server struct {
	Addr    netip.Addr // without a zone if it is link-local: it is the link's
	Expires time.Time
}

// Domain is a suffix of the search list.
type Domain struct {
	Name    string // in ASCII, without a trailing dot
	Expires time.Time
}
