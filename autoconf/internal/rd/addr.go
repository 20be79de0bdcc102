package rd

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"net"
	"net/netip"
	"time"

	"github.com/vdestack/vdestack/autoconf/internal/source"
)

const (
	// bits is the length of prefixes in which addresses are made, RFC 4291, section 2.5.1.
	bits = 64
	// idgenRetries and idgenDelay are those of RFC 7217, section 7.
	idgenRetries = 3
	idgenDelay   = time.Second
	// secretSize is the size in bytes of the secret of RFC 7217, section 5.
	secretSize = 32
)

// An address was made for a prefix.
type address struct {
	addr       netip.Addr
	conflicts  int  // the DAD_Counter of RFC 7217
	taken      bool // another host has it
	autonomous bool // the router allows to make addresses
}

// address makes the address for a prefix, and reports whether there is to be one.
func (c *client) address(p prefixOption) (a address, ok bool) {
	a.autonomous = p.autonomous
	if p.prefix.Bits() != bits || !p.autonomous && c.cfg.AddrGen != source.AddrHash {
		return a, false
	}
	switch c.cfg.AddrGen {
	case source.AddrHash:
		if c.cfg.Hash != nil {
			a.addr = c.cfg.Hash(p.prefix.Addr())
		}
	case source.AddrEUI64:
		a.addr = EUI64(p.prefix.Addr(), c.mac)
	case source.AddrStable:
		a.addr, a.conflicts = c.secret.addr(c.link.Name(), p.prefix, c.secret.conflicts[p.prefix])
	}
	return a, p.prefix.Contains(a.addr)
}

// EUI64 returns the address of a hardware address, of six bytes, in a network, RFC 4291,
// appendix A.
func EUI64(base netip.Addr, mac net.HardwareAddr) netip.Addr {
	a := base.As16()
	copy(a[8:], []byte{mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
	return netip.AddrFrom16(a)
}

// A secret makes stable and private addresses.
type secret struct {
	key []byte
	// conflicts has the DAD_Counter of prefixes where it is not 0, so that the same
	// address is found again.
	conflicts map[netip.Prefix]int
}

// A storedSecret is what is kept of a secret.
type storedSecret struct {
	Key       []byte               `json:"key"`
	Conflicts map[netip.Prefix]int `json:"conflicts,omitempty"`
}

func (s *secret) generate() {
	s.key, s.conflicts = make([]byte, secretSize), nil
	rand.Read(s.key)
}

// load reports whether there was a secret in what was stored.
func (s *secret) load(data json.RawMessage) bool {
	var stored storedSecret
	if json.Unmarshal(data, &stored) != nil || len(stored.Key) != secretSize {
		return false
	}
	s.key, s.conflicts = stored.Key, make(map[netip.Prefix]int)
	for p, n := range stored.Conflicts {
		if n > 0 && n <= idgenRetries && p.IsValid() && len(s.conflicts) < source.MaxItems {
			s.conflicts[p] = n
		}
	}
	return true
}

// store stores the secret, with the conflicts of the prefixes that are known, and those of
// others while there is room.
func (c *client) store() {
	conflicts := make(map[netip.Prefix]int)
	for _, e := range c.addrs {
		if e.v.conflicts > 0 {
			conflicts[e.key] = e.v.conflicts
		}
	}
	for p, n := range c.secret.conflicts {
		if _, ok := conflicts[p]; !ok && len(conflicts) < source.MaxItems {
			conflicts[p] = n
		}
	}
	c.secret.conflicts = conflicts
	if b, err := json.Marshal(storedSecret{c.secret.key, conflicts}); err == nil {
		c.sink.Store(b)
	}
}

// addr returns the address of RFC 7217, section 5, and the DAD_Counter with which it is not
// reserved.
func (s *secret) addr(iface string, prefix netip.Prefix, conflicts int) (netip.Addr, int) {
	a := prefix.Addr().As16()
	for ; ; conflicts++ {
		f := hmac.New(sha256.New, s.key)
		f.Write(a[:bits/8])
		f.Write(binary.BigEndian.AppendUint32(nil, uint32(conflicts)))
		f.Write([]byte(iface))
		id := f.Sum(nil)[sha256.Size-8:]
		if !reserved(binary.BigEndian.Uint64(id)) {
			copy(a[8:], id)
			return netip.AddrFrom16(a), conflicts
		}
	}
}

// reserved reports whether an interface identifier is one of RFC 5453: of the anycast address
// of routers, of IANA's Ethernet block, and of anycast addresses of subnets.
func reserved(id uint64) bool {
	return id == 0 || id >= 0x02005efffe000000 && id <= 0x02005efffeffffff || id >= 0xfdffffffffffff80 && id <= 0xfdffffffffffffff
}
