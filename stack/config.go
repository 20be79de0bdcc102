// Package stack holds one private TCP/IP stack: a network namespace of the
// kernel, its Ethernet interfaces, the plugs that carry their frames to
// networks, the sockets made in it and the commands that run in it.
//
// Programs use package vdestack, which adds names, dialers and listeners.
package stack

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"unicode"

	"github.com/vdestack/vdestack/vdeplug"
)

const (
	// DefaultMTU is the MTU of interfaces that do not say theirs, in bytes.
	DefaultMTU = 1500
	// minMTU is the smallest that IPv4 allows, RFC 791.
	minMTU = 68
	// maxName is the longest name of an interface, IFNAMSIZ less its zero.
	maxName = 15
)

// Config says how a Stack is made. The zero Config gives one with a loopback
// interface only.
type Config struct {
	// Name appears in errors and logs. Empty means "stack".
	Name string
	// Interfaces are made in this order.
	Interfaces []Interface
	// NetNS joins the namespace at this path instead of making one: of "ip netns"
	// (/run/netns/NAME), of a process (/proc/PID/ns/net), or one that a process
	// has open (/proc/PID/fd/N). It has to belong to this program or another one
	// of the same user; CAP_SYS_ADMIN opens all. Empty makes one.
	NetNS string
	// Logger receives rare events, never packets. Nil discards them.
	Logger *slog.Logger
}

// An Interface is an Ethernet interface of a stack. The zero Interface is
// called vde0, vde1, … by its place in the list, and is not connected.
type Interface struct {
	// VNL is the locator of the network, see package vdeplug. Empty means not
	// connected: frames are dropped.
	VNL string
	// Name has 1 to 15 characters. Empty means vdeN, N its place in the list.
	Name string
	// MAC is the hardware address, six bytes. Nil means a random one, locally
	// administered.
	MAC net.HardwareAddr
	// MTU is the largest payload of a frame in bytes, 68 to 9216. 0 means 1500.
	// IPv6 needs 1280.
	MTU int
	// Addrs are the interface's addresses, with the length of their networks'
	// prefixes. IPv6 addresses are usable at once: duplicate address detection
	// is skipped for them.
	Addrs []netip.Prefix
	// Gateways are default routes, at most one for IPv4 and one for IPv6.
	Gateways []netip.Addr
	// Down leaves the interface down.
	Down bool
}

// check completes and validates a configuration, and names the bad field.
func (c *Config) check() error {
	if c.Name == "" {
		c.Name = "stack"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	ifs := make([]Interface, len(c.Interfaces))
	copy(ifs, c.Interfaces)
	c.Interfaces = ifs
	names := map[string]int{"lo": -1}
	for i := range ifs {
		f := &ifs[i]
		if f.Name == "" {
			f.Name = fmt.Sprintf("vde%d", i)
		}
		if err := f.check(); err != nil {
			return fmt.Errorf("interface %d: %w", i, err)
		}
		if j, ok := names[f.Name]; ok {
			if j < 0 {
				return fmt.Errorf("interface %d: name %q belongs to loopback", i, f.Name)
			}
			return fmt.Errorf("interface %d: name %q is that of interface %d too", i, f.Name, j)
		}
		names[f.Name] = i
	}
	return nil
}

func (f *Interface) check() error {
	if err := checkName(f.Name); err != nil {
		return err
	}
	if f.MTU == 0 {
		f.MTU = DefaultMTU
	}
	if f.MTU < minMTU || f.MTU > vdeplug.MaxMTU {
		return fmt.Errorf("MTU %d is not within %d and %d", f.MTU, minMTU, vdeplug.MaxMTU)
	}
	if f.MAC != nil {
		if len(f.MAC) != 6 {
			return fmt.Errorf("MAC %q has %d bytes, an Ethernet address has 6", f.MAC, len(f.MAC))
		}
		if f.MAC[0]&1 != 0 {
			return fmt.Errorf("MAC %q is a group address: the lowest bit of its first byte must be 0", f.MAC)
		}
		if f.MAC.String() == "00:00:00:00:00:00" {
			return fmt.Errorf("MAC %q is no address; leave it out for a random one", f.MAC)
		}
	}
	for _, p := range f.Addrs {
		if !p.IsValid() || p.Addr().Is4In6() {
			return fmt.Errorf("address %v is not valid: write ADDRESS/LENGTH, such as 10.0.0.50/24", p)
		}
		if p.Addr().IsUnspecified() || p.Addr().IsMulticast() {
			return fmt.Errorf("address %v cannot be that of an interface", p)
		}
	}
	families := map[bool]netip.Addr{}
	for _, gw := range f.Gateways {
		if !gw.IsValid() || gw.Is4In6() || gw.IsUnspecified() || gw.IsMulticast() {
			return fmt.Errorf("gateway %v is not the address of a host", gw)
		}
		if other, ok := families[gw.Is4()]; ok {
			return fmt.Errorf("gateways %v and %v: one default route a family", other, gw)
		}
		families[gw.Is4()] = gw
		if f.Down {
			return fmt.Errorf("gateway %v needs the interface up", gw)
		}
	}
	return nil
}

func checkName(name string) error {
	switch {
	case len(name) > maxName:
		return fmt.Errorf("interface name %q has %d characters, at most %d are allowed", name, len(name), maxName)
	case name == "." || name == "..", strings.ContainsAny(name, "/:%"), strings.ContainsFunc(name, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}):
		return fmt.Errorf("interface name %q: no blanks and none of / : %% are allowed", name)
	}
	return nil
}

// Stats are the counters of a stack.
type Stats struct {
	Interfaces []InterfaceStats // in the order of the configuration
}

// InterfaceStats count what passed between an interface and its network. "Tx"
// is what the stack sent.
type InterfaceStats struct {
	Name  string
	Index int
	VNL   string

	TxFrames, TxBytes, TxDropped uint64
	RxFrames, RxBytes, RxDropped uint64

	// Err says why the network is gone; nil while it is there.
	Err error
}
