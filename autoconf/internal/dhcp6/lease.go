package dhcp6

import (
	"encoding/hex"
	"encoding/json"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vdestack/vdestack/autoconf/internal/source"
)

// minRenew bounds how often a server can have the client renew.
const minRenew = 5 * time.Second

// A lease is what a server has given: addresses or, without any, information.
type lease struct {
	server  []byte // its DUID
	addrs   []address
	options source.Lease // without addresses and times
	// renew and rebind are T1 and T2. Of information, renew is when it is asked for again.
	renew, rebind time.Time
}

// An address ends at valid. The zero Time means never.
type address struct {
	addr             netip.Addr
	preferred, valid time.Time
}

// newLease returns the lease of a reply to what was sent at a time.
func newLease(r reply, sent time.Time) *lease {
	l := &lease{server: r.server, options: r.options}
	for _, a := range r.ia.addrs {
		l.addrs = append(l.addrs, address{a.addr, instant(sent, a.preferred), instant(sent, a.valid)})
	}
	return l
}

func instant(from time.Time, d time.Duration) time.Time {
	if d == infinite {
		return time.Time{}
	}
	return from.Add(d)
}

// renewNow has the lease renewed now, if not before.
func (l *lease) renewNow() {
	if now := time.Now(); now.Before(l.renew) || l.renew.IsZero() {
		l.renew = now
	}
}

func (l *lease) hosts() (all []netip.Addr) {
	for _, a := range l.addrs {
		all = append(all, a.addr)
	}
	return all
}

// keep adds the addresses of an older lease that an IA does not mention.
func (l *lease) keep(old *lease, i *ia) {
	for _, a := range old.addrs {
		if !slices.Contains(i.hosts(), a.addr) && !slices.Contains(i.ended, a.addr) && len(l.addrs) < source.MaxItems {
			l.addrs = append(l.addrs, a)
		}
	}
}

// remove removes addresses, and returns those that were there.
func (l *lease) remove(addrs []netip.Addr) (removed []netip.Addr) {
	l.addrs = slices.DeleteFunc(l.addrs, func(a address) bool {
		if !slices.Contains(addrs, a.addr) {
			return false
		}
		removed = append(removed, a.addr)
		return true
	})
	return removed
}

// expire removes the addresses whose lifetime is over, and returns them.
func (l *lease) expire(now time.Time) []netip.Addr {
	var over []netip.Addr
	for _, a := range l.addrs {
		if source.Due(a.valid, now) {
			over = append(over, a.addr)
		}
	}
	return l.remove(over)
}

// firstEnd returns when the first address ends, the zero Time if none does.
func (l *lease) firstEnd() (first time.Time) {
	for _, a := range l.addrs {
		if !a.valid.IsZero() && (first.IsZero() || a.valid.Before(first)) {
			first = a.valid
		}
	}
	return first
}

// lastEnd returns when the last address ends, the zero Time if one does not.
func (l *lease) lastEnd() (last time.Time) {
	for _, a := range l.addrs {
		if a.valid.IsZero() {
			return time.Time{}
		}
		if a.valid.After(last) {
			last = a.valid
		}
	}
	return last
}

// schedule sets T1 and T2. If the server does not say them, they are a half and four
// fifths of the shortest preferred lifetime (section 21.4). Both are before the end of the
// last address, whatever the server says.
func (l *lease) schedule(t1, t2 time.Duration, now time.Time) {
	valid, shortest := time.Duration(0), infinite
	for _, a := range l.addrs {
		left := infinite
		if !a.valid.IsZero() {
			left = a.valid.Sub(now)
		}
		valid = max(valid, left)
		switch {
		case a.preferred.IsZero():
		case a.preferred.After(now):
			shortest = min(shortest, a.preferred.Sub(now))
		default:
			shortest = min(shortest, left)
		}
	}
	part := func(d time.Duration, tenths time.Duration) time.Duration {
		if d == infinite {
			return infinite
		}
		return d / 10 * tenths
	}
	if t1 == 0 {
		t1 = part(shortest, 5)
	}
	if t2 == 0 {
		t2 = max(part(shortest, 8), t1)
	}
	if valid < infinite && t2 >= valid {
		t2 = part(valid, 8)
	}
	if t1 > t2 || valid < infinite && t1 >= valid {
		t1 = min(t1, part(t2, 6))
	}
	t1 = max(t1, minRenew)
	t2 = max(t2, t1)
	l.renew, l.rebind = instant(now, t1), instant(now, t2)
}

// instants returns all that are kept.
func (l *lease) instants() []*time.Time {
	all := []*time.Time{&l.renew, &l.rebind}
	for i := range l.addrs {
		all = append(all, &l.addrs[i].preferred, &l.addrs[i].valid)
	}
	return all
}

// source returns the lease for the sink.
func (l *lease) source() source.Lease {
	s := l.options
	s.Renew, s.Rebind = l.renew, l.rebind
	if len(l.addrs) > 0 {
		s.Expires = l.lastEnd()
	}
	for _, a := range l.addrs {
		s.Addrs = append(s.Addrs, source.Addr{Prefix: netip.PrefixFrom(a.addr, 128), Preferred: a.preferred, Valid: a.valid})
	}
	s.DNS, s.Search, s.NTP = slices.Clone(s.DNS), slices.Clone(s.Search), slices.Clone(s.NTP)
	for i := range s.DNS {
		s.DNS[i].Expires = s.Expires
	}
	for i := range s.Search {
		s.Search[i].Expires = s.Expires
	}
	return s
}

// A storedState is what is kept: who the client is, its addresses and what came with them.
// Instants are of the wall clock.
type storedState struct {
	DUID          string          `json:"duid"` // in hexadecimal
	IAID          string          `json:"iaid"`
	Server        string          `json:"server,omitempty"` // its DUID
	Addrs         []storedAddress `json:"addresses,omitempty"`
	DNS           []netip.Addr    `json:"dns,omitempty"`
	Search        []string        `json:"search,omitempty"`
	NTP           []netip.Addr    `json:"ntp,omitempty"`
	CaptivePortal string          `json:"captive_portal,omitempty"`
}

type storedAddress struct {
	Addr      netip.Addr `json:"address"`
	Preferred time.Time  `json:"preferred,omitzero"`
	Valid     time.Time  `json:"valid,omitzero"`
}

// wall returns an instant in the time of the wall clock, in which the clock may have been
// set since the instant was learned.
func wall(at, now time.Time) time.Time {
	if at.IsZero() {
		return at
	}
	return now.Round(0).Add(at.Sub(now)).UTC().Truncate(time.Second)
}

// encode encodes the identity of the client and its lease, which may be nil.
func encode(duid []byte, iaid [4]byte, l *lease) json.RawMessage {
	s := storedState{DUID: hex.EncodeToString(duid), IAID: hex.EncodeToString(iaid[:])}
	if l != nil {
		s.Server, s.NTP, s.CaptivePortal = hex.EncodeToString(l.server), l.options.NTP, l.options.CaptivePortal
		now := time.Now()
		for _, a := range l.addrs {
			s.Addrs = append(s.Addrs, storedAddress{a.addr, wall(a.preferred, now), wall(a.valid, now)})
		}
		for _, d := range l.options.DNS {
			s.DNS = append(s.DNS, d.Addr)
		}
		for _, d := range l.options.Search {
			s.Search = append(s.Search, d.Name)
		}
	}
	b, err := json.Marshal(s)
	if err != nil {
		return nil // a year of five digits
	}
	return b
}

// loadStored returns the identity that was stored, or a new one, and the lease that was
// stored, or nil. Of a lease that is not well-formed nothing is used.
func loadStored(b json.RawMessage, mac net.HardwareAddr) (duid []byte, iaid [4]byte, l *lease) {
	var s storedState
	err := json.Unmarshal(b, &s)
	duid, derr := hex.DecodeString(s.DUID)
	id, ierr := hex.DecodeString(s.IAID)
	if err != nil || derr != nil || ierr != nil || len(duid) < minDUID || len(duid) > maxDUID || copy(iaid[:], id) != len(iaid) || len(id) != len(iaid) {
		copy(iaid[:], mac[len(mac)-len(iaid):])
		return (&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac}).ToBytes(), iaid, nil
	}
	server, err := hex.DecodeString(s.Server)
	if err != nil || len(server) < minDUID || len(server) > maxDUID || len(s.Addrs) == 0 ||
		max(len(s.Addrs), len(s.DNS), len(s.Search), len(s.NTP)) > source.MaxItems {
		return duid, iaid, nil
	}
	l = &lease{server: server}
	now := time.Now()
	for _, a := range s.Addrs {
		preferred, ok := fromWall(a.Preferred, now)
		valid, ok2 := fromWall(a.Valid, now)
		contradicts := !valid.IsZero() && (preferred.IsZero() || preferred.After(valid))
		if !ok || !ok2 || contradicts || !isHost(a.Addr) || a.Addr.IsLinkLocalUnicast() || slices.Contains(l.hosts(), a.Addr) {
			return duid, iaid, nil
		}
		l.addrs = append(l.addrs, address{a.Addr, preferred, valid})
	}
	for _, a := range s.DNS {
		if isHost(a) {
			l.options.DNS = append(l.options.DNS, source.Server{Addr: a})
		}
	}
	for _, name := range names(s.Search) {
		l.options.Search = append(l.options.Search, source.Domain{Name: name})
	}
	l.options.NTP = slices.DeleteFunc(s.NTP, func(a netip.Addr) bool { return !isHost(a) })
	l.options.CaptivePortal = source.ParsePortal(s.CaptivePortal)
	return duid, iaid, l
}

// fromWall returns an instant of the wall clock as one of the monotonic clock. It reports
// whether it can be the end of a lifetime.
func fromWall(at, now time.Time) (time.Time, bool) {
	if at.IsZero() {
		return at, true
	}
	left := at.Sub(now.Round(0))
	return now.Add(left), left < infinite
}
