package autoconf

import (
	"crypto/md5"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
)

// Hash makes addresses from a name, so that whoever knows the name knows the address: a
// name server does not have to be told. They are those of the C libraries iothconf and
// libioth. MD5 spreads the addresses evenly; that it is no secure hash does not matter
// without a password.
type Hash struct {
	// Name is that of the host, such as "host.example.org". A trailing dot does not count,
	// upper and lower case differ.
	Name string
	// Password makes addresses that only those know who have it; they may be tried out
	// by others, so it should be long.
	Password string
	// Counter changes the address, not the hardware address, with time: a one-time
	// address (OTIP). In libioth it is (now + offset) / period, all in seconds.
	Counter uint32
}

// MAC returns the hardware address of the name and the password: locally administered,
// unicast. It is nil for an empty name, which all would share.
func (h Hash) MAC() net.HardwareAddr {
	h.Counter = 0
	d, ok := h.sum()
	if !ok {
		return nil
	}
	return net.HardwareAddr{d[0]&^1 | 2, d[1], d[2], d[5], d[6], d[7]}
}

// Addr returns the IPv6 address of the name in the network of base, whose lower 64 bits,
// mostly zero, are mixed in. A zone stays. It is the zero Addr for an empty name, and if
// base is not IPv6.
func (h Hash) Addr(base netip.Addr) netip.Addr {
	d, ok := h.sum()
	if !ok || !base.Is6() || base.Is4In6() {
		return netip.Addr{}
	}
	a := base.As16()
	for i := range 8 {
		a[8+i] ^= d[i]
	}
	a[8] &^= 3 // neither universal nor a group, as in modified EUI-64
	return netip.AddrFrom16(a).WithZone(base.Zone())
}

// sum reports false for an empty name.
func (h Hash) sum() (d [md5.Size]byte, ok bool) {
	name := strings.TrimSuffix(h.Name, ".")
	if name == "" {
		return d, false
	}
	b := []byte(name + h.Password)
	if h.Counter != 0 {
		b = binary.BigEndian.AppendUint32(b, h.Counter)
	}
	return md5.Sum(b), true
}
