package wireguard

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

// resolve returns where a peer is configured to be, not valid without an Endpoint. Of several
// addresses it is the first or, if current is one of them, the next.
func (t *Tunnel) resolve(ctx context.Context, p Peer, current netip.AddrPort) (netip.AddrPort, error) {
	if p.Endpoint == "" {
		return netip.AddrPort{}, nil
	}
	host, port, err := splitEndpoint(p.Endpoint)
	if err != nil {
		return netip.AddrPort{}, err
	}
	var addrs []netip.Addr
	if a, perr := netip.ParseAddr(host); perr == nil {
		addrs = []netip.Addr{a}
	} else if t.underlay != nil {
		addrs, err = t.underlay.LookupNetIP(ctx, "ip", host)
	} else {
		addrs, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	}
	if err == nil && len(addrs) == 0 {
		err = fmt.Errorf("%s has no address", host)
	}
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%s: the Endpoint: %w", p.PublicKey.short(), err)
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool { return a.WithZone("").IsUnspecified() || a.IsMulticast() })
	if len(addrs) == 0 {
		return netip.AddrPort{}, fmt.Errorf("%s: the Endpoint: %s is no address of a host: name servers that block a name say 0.0.0.0", p.PublicKey.short(), host)
	}
	i := slices.IndexFunc(addrs, func(a netip.Addr) bool {
		a, err := t.zone(a)
		return err == nil && a == current.Addr()
	})
	next := addrs[(i+1)%len(addrs)]
	if next, err = t.zone(next); err != nil {
		return netip.AddrPort{}, fmt.Errorf("%s: the Endpoint: %w", p.PublicKey.short(), err)
	}
	return netip.AddrPortFrom(next, port), nil
}

// zone makes the name of an interface its number.
func (t *Tunnel) zone(a netip.Addr) (netip.Addr, error) {
	if a.Zone() == "" {
		return a, nil
	}
	if t.underlay == nil {
		return a, fmt.Errorf("%s: WireGuard's socket on the host knows no zones: use an address that is not link-local", a)
	}
	if _, err := strconv.Atoi(a.Zone()); err == nil {
		return a, nil
	}
	nl, err := t.underlay.RTNL()
	if err != nil {
		return a, err
	}
	defer nl.Close()
	index, err := nl.IfNameToIndex(a.Zone())
	return a.WithZone(strconv.Itoa(index)), err
}

// reachable refuses endpoints that are behind the tunnel itself.
func (t *Tunnel) reachable(endpoints []netip.AddrPort, peers []Peer) error {
	if t.underlay != t.st {
		return nil
	}
	for _, p := range peers {
		for _, a := range p.AllowedIPs {
			for _, e := range endpoints {
				to := e.Addr()
				if !to.IsLinkLocalUnicast() {
					to = to.WithZone("") // the kernel does not look at it
				}
				if a.Contains(to) {
					return fmt.Errorf("the endpoint %v is in AllowedIPs of %s, %v: its packets would go into the tunnel; give the tunnel a stack of its own", e, p.PublicKey.short(), a)
				}
			}
		}
	}
	return nil
}

// mtu returns the default MTU for peers at endpoints.
func (t *Tunnel) mtu(ctx context.Context, endpoints []netip.AddrPort) int {
	mtu := defaultMTU
	for _, e := range endpoints {
		if !e.IsValid() {
			continue
		}
		dial := (&net.Dialer{}).DialContext
		if t.underlay != nil {
			dial = t.underlay.DialContext
		}
		c, err := dial(ctx, "udp", e.String()) // sends nothing
		if err != nil {
			continue // there is no way now
		}
		if path, err := socketMTU(c.(*net.UDPConn), e.Addr().Is6()); err == nil {
			mtu = min(mtu, path-overhead)
		}
		c.Close()
	}
	return mtu
}

const (
	// lookInterval is how often the peers are looked at, and the limit of a lookup. A handshake
	// that gets no answer is begun again in half of it.
	lookInterval = 2 * device.RekeyTimeout
	// silentLooks is how many looks in a row have to find a peer silent: what is sent just
	// before the first is answered before the second, by a keepalive if by nothing else.
	silentLooks = 2
	// maxLookups is how many names are looked up at once.
	maxLookups = 8
)

// A silence is what is known about a peer at the last look.
type silence struct {
	rx, tx uint64
	looks  int // in a row that have found the peer silent
}

// look reports whether a peer does not answer: since the last look this end has sent more than
// keepalives, which need no answer, and got nothing.
func (s *silence) look(p *PeerStatus) bool {
	keepalives := 1
	if p.PersistentKeepalive > 0 {
		keepalives += int(lookInterval / p.PersistentKeepalive)
	}
	quiet := p.RxBytes == s.rx && p.TxBytes > s.tx+uint64(keepalives)*device.MessageKeepaliveSize
	s.rx, s.tx = p.RxBytes, p.TxBytes
	if s.looks++; !quiet {
		s.looks = 0
	}
	return s.looks >= silentLooks
}

// watch looks for peers that do not answer, until the tunnel ends.
func (t *Tunnel) watch() {
	ticks := time.NewTicker(lookInterval)
	defer ticks.Stop()
	known := make(map[PublicKey]*silence)
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-ticks.C:
		}
		var silent []PublicKey
		all, _ := t.Peers() // an error is the end
		for _, p := range all {
			if known[p.PublicKey] == nil {
				known[p.PublicKey] = &silence{}
			}
			if known[p.PublicKey].look(&p) {
				silent = append(silent, p.PublicKey)
			}
		}
		t.find(silent)
	}
}

// find looks up the endpoints of peers, and tells the device where they are now.
func (t *Tunnel) find(silent []PublicKey) {
	ctx, cancel := context.WithTimeout(t.ctx, lookInterval)
	defer cancel()
	lookups := make(chan struct{}, maxLookups)
	var wg sync.WaitGroup
	for _, k := range silent {
		lookups <- struct{}{}
		wg.Go(func() {
			defer func() { <-lookups }()
			if err := t.findPeer(ctx, k); err != nil && t.ctx.Err() == nil {
				t.log.warn("a peer does not answer: %v", err)
			}
		})
	}
	wg.Wait()
}

func (t *Tunnel) findPeer(ctx context.Context, k PublicKey) error {
	t.mu.Lock()
	i := slices.IndexFunc(t.peers, func(p Peer) bool { return p.PublicKey == k })
	if i < 0 {
		t.mu.Unlock()
		return nil
	}
	p := t.peers[i]
	t.mu.Unlock()
	s, err := t.status()
	if err != nil || s.peers[k] == nil {
		return err
	}
	was := s.peers[k].Endpoint
	endpoint, err := t.resolve(ctx, p, was)
	if err != nil || !endpoint.IsValid() || endpoint == was {
		return err
	}
	moved, err := t.move(p, was, endpoint)
	if moved {
		t.log.warn("%s does not answer at %v, now it is tried at %v", k.short(), was, endpoint)
	}
	return err
}

// move changes the endpoint of a peer, unless the peer was heard of elsewhere or has another
// configuration since the endpoint was looked up.
func (t *Tunnel) move(p Peer, was, to netip.AddrPort) (moved bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, err := t.status()
	if err != nil {
		return false, err
	}
	same := slices.ContainsFunc(t.peers, func(now Peer) bool { return now.PublicKey == p.PublicKey && now.Endpoint == p.Endpoint })
	if now := s.peers[p.PublicKey]; !same || now == nil || now.Endpoint != was {
		return false, nil
	}
	if err := t.reachable([]netip.AddrPort{to}, t.peers); err != nil {
		return false, err
	}
	err = t.dev.IpcSet(move(p.PublicKey, to))
	return err == nil, err
}
