package rtnl

import (
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"unicode"

	"github.com/mdlayher/netlink"
)

// encode joins the fixed part of a message and its attributes.
func encode(fixed []byte, attrs ...netlink.Attribute) ([]byte, error) {
	for _, a := range attrs {
		if len(a.Data) > math.MaxUint16-sizeofRtAttr {
			return nil, invalid(syscall.EMSGSIZE, "byte slice is too large to fit in a netlink attribute")
		}
	}
	return append(fixed, marshal(attrs...)...), nil
}

// marshal returns the attributes that have data, in their order. It writes a wrong length
// for one that is too long, but encode finds that: what it is nested in is even longer.
func marshal(attrs ...netlink.Attribute) (b []byte) {
	for _, a := range attrs {
		if a.Data == nil {
			continue
		}
		b = binary.NativeEndian.AppendUint16(b, uint16(sizeofRtAttr+len(a.Data)))
		b = binary.NativeEndian.AppendUint16(b, a.Type)
		b = append(append(b, a.Data...), make([]byte, -len(a.Data)&3)...)
	}
	return b
}

// raw returns an attribute, which is left out if b is nil. The zero Addr has no bytes.
func raw(typ uint16, b []byte) netlink.Attribute { return netlink.Attribute{Type: typ, Data: b} }

// number returns an attribute of 32 bits.
func number(typ uint16, v uint32) netlink.Attribute {
	return raw(typ, binary.NativeEndian.AppendUint32(nil, v))
}

// nonzero is number, but 0 is left out.
func nonzero(typ uint16, v uint32) netlink.Attribute {
	if v == 0 {
		return netlink.Attribute{}
	}
	return number(typ, v)
}

// words returns an attribute that is a string, which is left out if it is empty.
func words(typ uint16, s string) netlink.Attribute {
	if s == "" {
		return netlink.Attribute{}
	}
	return raw(typ, append([]byte(s), 0))
}

// nest returns an attribute of attributes, without the flag Nested, which C programs do
// not send. It is left out if all of them are.
func nest(typ uint16, attrs ...netlink.Attribute) netlink.Attribute {
	return raw(typ, marshal(attrs...))
}

// decode calls f for each attribute after a fixed part of the given size. The
// error names the kind of message.
func decode(kind string, b []byte, size int, f func(ad *netlink.AttributeDecoder)) error {
	if len(b) < size {
		return malformed(kind, fmt.Errorf("%d bytes are too short", len(b)))
	}
	if err := attributes(b[size:], f); err != nil {
		return malformed(kind, err)
	}
	return nil
}

func malformed(kind string, err error) error {
	return invalid(errMalformed, "%s: %v", kind, err)
}

// attributes calls f for each attribute in b.
func attributes(b []byte, f func(ad *netlink.AttributeDecoder)) error {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return err
	}
	for ad.Next() {
		f(ad)
	}
	return ad.Err()
}

// nested returns a function for attributes that calls f for the attributes inside
// those of the given type.
func nested(typ uint16, f func(ad *netlink.AttributeDecoder)) func(ad *netlink.AttributeDecoder) {
	return func(ad *netlink.AttributeDecoder) {
		if ad.Type() == typ {
			ad.Do(func(b []byte) error { return attributes(b, f) })
		}
	}
}

// family returns the address family of an address; 0 for the zero Addr.
func family(a netip.Addr) uint8 {
	switch {
	case a.Is4():
		return afInet
	case a.Is6():
		return afInet6
	}
	return afUnspec
}

// unspecified returns 0.0.0.0 or ::, and false for other families.
func unspecified(family uint8) (netip.Addr, bool) {
	switch family {
	case afInet:
		return netip.IPv4Unspecified(), true
	case afInet6:
		return netip.IPv6Unspecified(), true
	}
	return netip.Addr{}, false
}

// addrAttr decodes an attribute that holds an address of the family.
func addrAttr(ad *netlink.AttributeDecoder, fam uint8, dst *netip.Addr) {
	ad.Do(func(b []byte) error {
		a, ok := netip.AddrFromSlice(b)
		if !ok || family(a) != fam {
			return fmt.Errorf("attribute %d: address of %d bytes", ad.Type(), len(b))
		}
		*dst = a
		return nil
	})
}

// uint32At reads an integer in the kernel's byte order.
func uint32At(b []byte, off int) uint32 { return binary.NativeEndian.Uint32(b[off:]) }

// indexAt reads an interface index, which is a signed int in the kernel.
func indexAt(b []byte, off int) int { return int(int32(uint32At(b, off))) }

// checkAddr rejects addresses that do not fit into a message.
func checkAddr(what string, a netip.Addr, fam uint8) error {
	switch {
	case family(a) != fam:
		hint := ""
		if a.Is4In6() {
			hint = "; Unmap makes it IPv4"
		}
		return invalid(syscall.EINVAL, "%s %v is not of the family of the other address%s", what, a, hint)
	case a.Zone() != "":
		return invalid(syscall.EINVAL, "%s %v: give the interface's index instead of a zone", what, a)
	}
	return nil
}

// checkMAC takes Ethernet addresses only, as nlinline does.
func checkMAC(mac net.HardwareAddr) error {
	if len(mac) != 6 {
		return invalid(syscall.EINVAL, "hardware address of %d bytes, want 6", len(mac))
	}
	return nil
}

func checkMTU(mtu int) error { return checkInt("MTU", mtu) }

// checkInt rejects what does not fit into the kernel's field.
func checkInt(what string, v int) error {
	if v < 0 || int64(v) > 1<<31-1 {
		return invalid(syscall.EINVAL, "%s %d", what, v)
	}
	return nil
}

// checkName rejects what the kernel does not accept as an interface name, with its
// errno.
func checkName(name string) error {
	switch {
	case len(name) > maxName:
		return invalid(syscall.ERANGE, "interface name %q is longer than %d bytes", name, maxName)
	case name == "":
		return invalid(syscall.EINVAL, "interface name is empty")
	case name == ".", name == "..",
		strings.ContainsAny(name, "/:\x00"), strings.ContainsFunc(name, unicode.IsSpace):
		return invalid(syscall.EINVAL, "%q cannot be an interface name", name)
	}
	return nil
}
