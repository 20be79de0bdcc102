package serve

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/autoconf/internal/link"
	"github.com/vdestack/vdestack/autoconf/internal/source"
)

// A Server serves a network. Its methods may be called from several goroutines at once.
type Server struct {
	name   string // of the stack and the interface
	cancel context.CancelFunc
	ends   sync.WaitGroup
	forget func() bool  // takes back the call of BeforeClose
	dhcp4  *dhcp4Server // nil without DHCPv4
	dhcp6  *dhcp6Server // nil without DHCPv6
}

// Start serves the network of an interface of a stack, until Close or the end of the stack. The
// interface has its addresses already, and keeps them. A Config that says something that
// cannot be is an error.
func Start(st *vdestack.Stack, c Config) (*Server, error) {
	cfg, err := c.check()
	if err != nil {
		return nil, fmt.Errorf("serve: %w", err)
	}
	s, err := start(st, cfg)
	if err != nil {
		return nil, fmt.Errorf("serve: %s/%s: %w", st.Name(), cfg.Interface, err)
	}
	return s, nil
}

func start(st *vdestack.Stack, cfg *settings) (_ *Server, err error) {
	l, own, err := openLink(st, cfg.Interface)
	if err != nil {
		return nil, err
	}
	s := &Server{name: st.Name() + "/" + cfg.Interface}
	cfg.log = cfg.log.With("stack", st.Name(), "interface", cfg.Interface)
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(context.Background())
	var runs []func(context.Context) error
	var closes []func()
	started := make(chan struct{})
	defer close(started)
	// First: the end of the stack waits, or the sockets would end while they are set up.
	s.forget, err = st.BeforeClose(func(ctx context.Context) {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			<-started
			s.end()
		}()
		select {
		case <-ended:
		case <-ctx.Done():
		}
	})
	if err != nil {
		s.cancel()
		return nil, err
	}
	defer func() {
		if err != nil {
			s.forget()
			s.cancel()
			for _, f := range closes {
				f()
			}
		}
	}()
	if !cfg.DHCP4.Off && (has4(own) || len(cfg.DHCP4.Pools)+len(cfg.DHCP4.Reservations) > 0) {
		if s.dhcp4, err = newDHCP4(cfg, l, own); err != nil {
			return nil, fmt.Errorf("DHCPv4: %w", err)
		}
		closes, runs = append(closes, s.dhcp4.close), append(runs, s.dhcp4.run)
	}
	var leases *table
	if s.dhcp4 != nil {
		leases = s.dhcp4.table
	}
	if cfg.serves6(own) {
		if s.dhcp6, err = newDHCP6(cfg, l, own, leases); err != nil {
			return nil, fmt.Errorf("DHCPv6: %w", err)
		}
		closes, runs = append(closes, s.dhcp6.close), append(runs, s.dhcp6.run)
	}
	if !cfg.RA.Off && len(cfg.RA.prefixes(own)) > 0 {
		a, err := newRA(cfg, l, own)
		if err != nil {
			return nil, fmt.Errorf("router advertisements: %w", err)
		}
		closes, runs = append(closes, a.close), append(runs, a.run)
	}
	if !cfg.DNS.Off {
		d, err := newDNS(cfg, leases, s.dhcp6, own, st)
		if err != nil {
			return nil, fmt.Errorf("DNS: %w", err)
		}
		closes, runs = append(closes, d.close), append(runs, d.run)
	}
	if len(runs) == 0 {
		return nil, fmt.Errorf("nothing can be served: the interface has %v", own)
	}
	for _, run := range runs {
		s.ends.Go(func() {
			if err := run(ctx); err != nil {
				cfg.log.Error("the server has ended", "error", err)
			}
		})
	}
	return s, nil
}

// has4 reports whether an interface has an IPv4 network with room for others.
func has4(own []netip.Prefix) bool {
	return slices.ContainsFunc(own, func(p netip.Prefix) bool { return p.Addr().Is4() && p.Bits() < 31 })
}

// openLink returns an interface, and its addresses but those of the link.
func openLink(st *vdestack.Stack, name string) (source.Link, []netip.Prefix, error) {
	nl, err := st.RTNL()
	if err != nil {
		return nil, nil, err
	}
	defer nl.Close()
	index, err := nl.IfNameToIndex(name)
	if err != nil {
		return nil, nil, err
	}
	i, err := nl.Link(index)
	if err != nil {
		return nil, nil, err
	}
	if len(i.HardwareAddr) != 6 || i.Flags&net.FlagLoopback != 0 {
		return nil, nil, fmt.Errorf("interface %s is not an Ethernet", name)
	}
	addrs, err := nl.Addrs()
	if err != nil {
		return nil, nil, err
	}
	var own []netip.Prefix
	for _, a := range addrs {
		if a.IfIndex == index && !a.Prefix.Addr().IsLinkLocalUnicast() {
			own = append(own, a.Prefix)
		}
	}
	return link.New(st, name, index, i.HardwareAddr), own, nil
}

// Leases returns the leases of DHCP, in the order of addresses.
func (s *Server) Leases() (all []Lease) {
	if s.dhcp4 != nil {
		all = s.dhcp4.table.leases(time.Now())
	}
	if s.dhcp6 != nil {
		all = append(all, s.dhcp6.leases(time.Now())...)
	}
	slices.SortFunc(all, func(a, b Lease) int { return a.Addr.Compare(b.Addr) })
	return all
}

// Close ends the server, and returns when its sockets are closed. Clients keep what they have until it
// ends. Close may be called twice, and while other methods run.
func (s *Server) Close() error {
	s.forget()
	s.end()
	return nil
}

func (s *Server) end() {
	s.cancel()
	s.ends.Wait()
}
