package autoconf

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/autoconf/internal/dhcp4"
	"github.com/vdestack/vdestack/autoconf/internal/dhcp6"
	"github.com/vdestack/vdestack/autoconf/internal/rd"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/internal/limit"
	"github.com/vdestack/vdestack/vdeplug"
)

// startTime bounds the first attempts of sources.
const startTime = 10 * time.Second

// runs are the sources by protocol.
var runs = map[Source]source.Run{DHCP4: dhcp4.Run, DHCP6: dhcp6.Run, RD: rd.Run}

// A Client keeps an interface configured. Its methods may be called from several goroutines
// at once.
type Client struct {
	st      *vdestack.Stack // nil in tests without one
	dns     dnsSetter
	dev     device
	name    string // of the stack and the interface, for keys and errors
	log     *slog.Logger
	runs    map[Source]source.Run
	owned   bool // Close closes the stack
	cancel  context.CancelFunc
	ctx     context.Context // ends with the client
	done    chan struct{}   // closed when the client has ended
	watcher sync.WaitGroup

	changing sync.Mutex // held by Change, and while the client ends
	cfg      Config     // what was asked for so far; guarded by changing

	mu      sync.Mutex // guards the rest
	closed  bool
	forget  func() bool // takes back the call of BeforeClose
	static  source.Lease
	sources map[Source]*runner
	watches map[*watch]struct{}
}

// Start configures an interface of a stack, and keeps it configured until Close or the end
// of the stack. It returns when every source of c has configured something, or has given up
// its first attempt; after ten seconds at most. An error is returned if none has, with the
// reasons, if what is static cannot be configured, and if ctx ends. It leaves nothing behind.
// ctx bounds Start only. Who wants to wait for a network that may come later starts a client
// with what is static, or nothing, and adds sources by [Client.Change]: they go on trying.
//
//   - DHCPv6 is not waited for if there are routers, and none asks for it.
//   - Addresses and routes that were made by hand stay as they are. Routes that are learned
//     have metrics from 2048 on, so those made by hand for the same network have precedence,
//     but not those for a larger one.
//   - What a source says and the kernel does not take is left out, and told by the Logger and
//     Watch.
//   - Leases are renewed; an address that cannot be renewed is removed when its lease ends.
//   - An address of DHCPv4 that another host begins to use is announced again. If that does not
//     help, it is given up for another one, once an hour at most (RFC 5227, section 2.4).
//   - Servers and search list become the stack's [vdestack.DNS], for as long as it has no
//     servers by other means.
//   - A DHCP server can lower the MTU of the interface, not below 1280.
//   - While router advertisements are followed, the kernel does not.
//   - When the interface comes up again, or the machine wakes up, sources check whether
//     what they know still holds.
//   - Minus items are an error: [Client.Change] takes them.
//   - An interface has one client. When it is removed there is an [Event] of [Static]; the
//     client waits for Close.
func Start(ctx context.Context, st *vdestack.Stack, c Config) (*Client, error) {
	if c.VNL != "" {
		return nil, fmt.Errorf("autoconf: vnl=%s: the stack has its networks already; Open makes one", vdeplug.Redact(c.VNL))
	}
	return start(ctx, st, c)
}

// Open makes a stack with an interface on the network c.VNL, and configures that as Start
// does. Close ends both. It replaces ioth_newstackc.
func Open(ctx context.Context, c Config) (*Client, error) {
	if c.VNL == "" {
		return nil, errors.New("autoconf: no network for the new stack: vnl=LOCATOR names it")
	}
	if c.Index != 0 {
		return nil, fmt.Errorf("autoconf: ifindex=%d: the interface of a new stack has a name only", c.Index)
	}
	i := vdestack.Interface{VNL: c.VNL, Name: cmp.Or(c.Iface, defaultIface)}
	if c.Eth {
		i.MAC = c.mac()
	}
	st, err := vdestack.New(ctx, vdestack.Config{Interfaces: []vdestack.Interface{i}, Logger: c.Logger})
	if err != nil {
		return nil, fmt.Errorf("autoconf: %w", err)
	}
	client, err := start(ctx, st, c)
	if err != nil {
		st.Close()
		return nil, err
	}
	client.owned = true
	return client, nil
}

const defaultIface = "vde0"

// mac returns the hardware address that is to be set; nil leaves it as it is.
func (c *Config) mac() net.HardwareAddr {
	if c.MAC != nil {
		return c.MAC
	}
	return Hash{Name: c.FQDN}.MAC()
}

func start(ctx context.Context, st *vdestack.Stack, cfg Config) (*Client, error) {
	if cfg.Index == 0 {
		cfg.Iface = cmp.Or(cfg.Iface, defaultIface)
	}
	dev, err := openDevice(st, cfg.Iface, cfg.Index)
	if err != nil {
		return nil, fmt.Errorf("autoconf: %w", err)
	}
	c := newClient(dev, st, st.Name()+"/"+dev.ifname(), cfg)
	c.st = st
	forget, err := st.BeforeClose(func(ctx context.Context) {
		go c.end()
		select {
		case <-c.done:
		case <-ctx.Done():
		}
	})
	if err == nil {
		c.mu.Lock()
		c.forget = forget
		c.mu.Unlock()
		err = c.begin(ctx, cfg)
	}
	if err != nil {
		c.end()
		return nil, err
	}
	return c, nil
}

// newClient returns a client that does nothing yet.
func newClient(dev device, dns dnsSetter, name string, cfg Config) *Client {
	c := &Client{
		dev: dev, dns: dns, name: name, runs: runs, done: make(chan struct{}), forget: func() bool { return true },
		sources: make(map[Source]*runner), watches: make(map[*watch]struct{}),
	}
	switch {
	case cfg.Logger != nil:
		c.log = cfg.Logger
	case cfg.Debug:
		c.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	default:
		c.log = slog.New(slog.DiscardHandler)
	}
	at := strings.LastIndexByte(name, '/') // an interface has none in its name
	c.log = limit.Log(c.log).With("stack", name[:at], "interface", name[at+1:])
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// begin does what Start does. After an error the caller ends the client.
func (c *Client) begin(ctx context.Context, cfg Config) error {
	if !cfg.Remove.isZero() {
		return c.error(errors.New("minus items change a client that was started: see Client.Change"))
	}
	c.mu.Lock()
	if !c.closed { // else by the stack
		c.watcher.Go(func() { c.dev.watch(c.ctx, c.changed) })
	}
	c.mu.Unlock()
	return c.Change(ctx, cfg)
}

// error names the interface in an error.
func (c *Client) error(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("autoconf: %s: %w", c.name, err)
}

// Change takes back what the minus items of cfg name, and then does the rest of cfg, as
// Start does. ctx bounds that.
//
//   - What is static is added to what there is, without minus items.
//   - A source that runs already keeps its settings and is renewed. With its minus item in
//     the same cfg it begins anew.
//   - Without an interface or FQDN in cfg, they are those of before. Another interface is an
//     error: it takes a client of its own.
//   - After an error, what has succeeded stays, and sources go on trying. Of what is to be
//     static, all is added or nothing.
func (c *Client) Change(ctx context.Context, cfg Config) error {
	c.changing.Lock()
	defer c.changing.Unlock()
	if err := c.check(&cfg); err != nil {
		return c.error(err)
	}
	limit, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	r := cfg.Remove
	c.mu.Lock()
	closed, before := c.closed, c.static
	c.mu.Unlock()
	if closed {
		return c.error(net.ErrClosed)
	}
	static := without(before, r)
	var errs []error
	for _, s := range []struct {
		by     Source
		remove bool
	}{{RD, r.RD}, {DHCP6, r.DHCP6}, {DHCP4, r.DHCP4}} {
		if s.remove {
			errs = append(errs, c.stop(s.by))
		}
	}
	if r.Eth {
		errs = append(errs, c.dev.down())
	}
	if cfg.Eth {
		if err := c.eth(ctx, cfg.mac()); err != nil {
			return c.error(errors.Join(append(errs, fmt.Errorf("eth: %w", err))...))
		}
	}
	merge(&static, cfg)
	if err := c.setStatic(static); err != nil {
		errs = append(errs, fmt.Errorf("static: %w", err), c.setStatic(without(before, r)))
		return c.error(errors.Join(errs...))
	}
	attempts := make(map[Source]<-chan error)
	for _, s := range []struct {
		by  Source
		add bool
	}{{RD, cfg.RD}, {DHCP6, cfg.DHCP6}, {DHCP4, cfg.DHCP4}} {
		if s.add {
			attempts[s.by] = c.startSource(s.by, cfg)
		}
	}
	c.cfg = cfg
	some := len(cfg.Addrs)+len(cfg.Gateways)+len(cfg.DNS)+len(cfg.Domains) > 0
	if err := c.wait(ctx, limit, attempts, some); err != nil {
		errs = append(errs, err)
	}
	if cfg.Debug {
		for _, l := range c.Leases() {
			c.log.Info("configured", "source", l.Source, "lease", fmt.Sprintf("%+v", l))
		}
	}
	return c.error(errors.Join(errs...))
}

// eth sets up the interface, until ctx or the client ends.
func (c *Client) eth(ctx context.Context, mac net.HardwareAddr) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	return c.dev.eth(ctx, mac)
}

// check completes a configuration with that of before. c.changing is held.
func (c *Client) check(cfg *Config) error {
	first := c.cfg.Iface == "" && c.cfg.Index == 0
	if !first {
		switch {
		case cfg.VNL != "":
			return fmt.Errorf("vnl=%s: the stack has its networks already", vdeplug.Redact(cfg.VNL))
		case cfg.Iface != "" && cfg.Iface != c.cfg.Iface, cfg.Index != 0 && cfg.Index != c.cfg.Index:
			return fmt.Errorf("the interface %s%s is another one: start a client for it", cfg.Iface, index(cfg.Index))
		}
		cfg.Iface, cfg.Index = c.cfg.Iface, c.cfg.Index
		cfg.FQDN, cfg.Store = cmp.Or(cfg.FQDN, c.cfg.FQDN), cmp.Or(cfg.Store, c.cfg.Store)
	}
	if cfg.MAC != nil {
		if err := checkMAC(cfg.MAC); err != nil {
			return err
		}
	}
	if cfg.SLAAC != SLAACNone {
		if err := parseSLAAC(&Config{}, string(cfg.SLAAC)); err != nil {
			return fmt.Errorf("slaac: %w", err)
		}
	}
	if cfg.SLAAC == SLAACHash && cfg.FQDN == "" {
		return errors.New("slaac=hash: there is no name to make addresses from: fqdn=NAME gives it")
	}
	for _, d := range cfg.Domains {
		if _, err := parseName(d); err != nil {
			return fmt.Errorf("domain: %w", err)
		}
	}
	if cfg.FQDN != "" {
		if _, err := parseName(cfg.FQDN); err != nil {
			return fmt.Errorf("fqdn: %w", err)
		}
	}
	for _, p := range cfg.Addrs {
		if !p.IsValid() || p.Addr().Is4In6() {
			return fmt.Errorf("ip=%v is not an address with its length", p)
		}
	}
	for _, a := range slices.Concat(cfg.Gateways, cfg.DNS) {
		if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
			return fmt.Errorf("gw= or dns=%v is not an address without a zone", a)
		}
	}
	return nil
}

func index(i int) string {
	if i == 0 {
		return ""
	}
	return fmt.Sprint(i)
}

// isZero reports whether there is nothing to remove.
func (r Remove) isZero() bool {
	return !r.Static && !r.Eth && !r.DHCP4 && !r.DHCP6 && !r.RD && len(r.Addrs)+len(r.Gateways)+len(r.DNS)+len(r.Domains) == 0
}

// without returns what is static, without what is taken back.
func without(l source.Lease, r Remove) source.Lease {
	if r.Static {
		return source.Lease{}
	}
	l.Addrs = slices.DeleteFunc(slices.Clone(l.Addrs), func(a source.Addr) bool { return slices.Contains(r.Addrs, a.Prefix) })
	l.Routes = slices.DeleteFunc(slices.Clone(l.Routes), func(o source.Route) bool { return slices.Contains(r.Gateways, o.Gateway) })
	l.DNS = slices.DeleteFunc(slices.Clone(l.DNS), func(s source.Server) bool { return slices.Contains(r.DNS, s.Addr) })
	l.Search = slices.DeleteFunc(slices.Clone(l.Search), func(d source.Domain) bool { return slices.Contains(r.Domains, d.Name) })
	return l
}

// merge adds what a configuration has to what is static.
func merge(l *source.Lease, cfg Config) {
	for _, p := range cfg.Addrs {
		add(&l.Addrs, source.Addr{Prefix: p})
	}
	for _, gw := range cfg.Gateways {
		add(&l.Routes, source.Route{Dst: netip.PrefixFrom(zero(gw), 0), Gateway: gw})
	}
	for _, a := range cfg.DNS {
		add(&l.DNS, source.Server{Addr: a})
	}
	for _, d := range cfg.Domains {
		add(&l.Search, source.Domain{Name: d})
	}
}

func add[T comparable](to *[]T, v T) {
	if !slices.Contains(*to, v) {
		*to = append(*to, v)
	}
}

// zero returns 0.0.0.0 or ::.
func zero(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func (c *Client) setStatic(l source.Lease) error {
	err := c.dev.apply(c.ctx, Static, l)
	c.mu.Lock()
	c.static = l
	c.mu.Unlock()
	if err != nil {
		return err
	}
	return c.updateNames()
}

// wait waits for the first attempts of sources, until limit ends. It is an error if none has
// a result, unless something else was configured.
func (c *Client) wait(ctx, limit context.Context, attempts map[Source]<-chan error, some bool) error {
	expired := fmt.Errorf("no answer within %v", startTime)
	failed := make(map[Source]error)
	for _, by := range []Source{RD, DHCP4, DHCP6} {
		attempt, ok := attempts[by]
		if !ok {
			continue
		}
		end, late := limit.Done(), expired
		if by == DHCP6 && attempts[RD] != nil && failed[RD] == nil && !c.routersAskForDHCP6() {
			end, late = ended, errors.New("no router asks for it")
		}
		var err error
		select {
		case err = <-attempt:
		case <-end:
			select {
			case err = <-attempt: // while another was waited for
			default:
				err = late
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.ctx.Done():
			return net.ErrClosed
		}
		if err == nil {
			some = true
		} else {
			failed[by] = err
		}
	}
	if some {
		return nil
	}
	var errs []error
	for _, by := range order {
		if err := failed[by]; err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", by, err))
		}
	}
	return errors.Join(errs...)
}

// ended is a channel of something that has ended.
var ended = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

func (c *Client) routersAskForDHCP6() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.sources[RD]
	return r != nil && r.lease.DHCP6
}

// changed does what a change of the interface needs.
func (c *Client) changed(ch change) {
	if ch.err != nil {
		c.publish(Event{Source: Static, Err: fmt.Errorf("applying all again: %w", ch.err)})
	}
	if ch.gone {
		c.publish(Event{Source: Static, Err: errors.New("the interface is gone")})
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.sources {
		r.call(source.Call{Confirm: true, Slept: ch.slept})
	}
}

// Leases returns what each source knows. Sources that know nothing are left out.
func (c *Client) Leases() (all []Lease) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, by := range order {
		l := c.static
		if by != Static {
			l = source.Lease{}
			if r := c.sources[by]; r != nil {
				l = r.lease
			}
		}
		if !l.IsZero() {
			all = append(all, publicLease(by, l))
		}
	}
	return all
}

// Stack returns the stack of the client.
func (c *Client) Stack() *vdestack.Stack { return c.st }

// known returns the servers and the search list. The zone is that of link-local servers.
func (c *Client) known(zone string) (r resolver) {
	for _, l := range c.Leases() {
		if l.Source == Static { // as in iothconf
			slices.SortStableFunc(l.DNS, func(a, b Server) int { return b.Addr.BitLen() - a.Addr.BitLen() })
		}
		for _, s := range l.DNS {
			a := s.Addr.WithZone("")
			if a.IsLinkLocalUnicast() && a.Is6() {
				a = a.WithZone(zone)
			}
			add(&r.servers, a)
		}
		for _, d := range l.Search {
			add(&r.search, d.Name)
		}
	}
	return r
}

func (c *Client) updateNames() error { return setNames(c, c.dns, c.resolver) }

// resolver returns what the client knows about names.
func (c *Client) resolver() resolver { return c.known(c.dev.ifname()) }

// ResolvConf returns a resolv.conf(5) of what the client knows: what is static, then what
// DHCPv6, DHCPv4 and router advertisements have brought. It is empty if nothing is known.
func (c *Client) ResolvConf() string { return c.resolver().resolvConf() }

// Renew has all sources renew what they know, or look again. It returns when each has a
// result, with the errors of those that have none; ctx bounds that.
func (c *Client) Renew(ctx context.Context) error {
	c.mu.Lock()
	closed := c.closed
	attempts := make(map[Source]<-chan error)
	for by, r := range c.sources {
		attempts[by] = r.renew()
	}
	c.mu.Unlock()
	if closed {
		return c.error(net.ErrClosed)
	}
	var errs []error
	for _, by := range order {
		attempt, ok := attempts[by]
		if !ok {
			continue
		}
		select {
		case err := <-attempt:
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", by, err))
			}
		case <-ctx.Done():
			return c.error(errors.Join(append(errs, fmt.Errorf("%s: %w", by, context.Cause(ctx)))...))
		case <-c.ctx.Done():
			return c.error(net.ErrClosed)
		}
	}
	return c.error(errors.Join(errs...))
}

// publish tells an event to those who watch.
func (c *Client) publish(e Event) {
	e.Lease.Source = e.Source
	if e.Err != nil {
		c.log.Debug("no result", "source", e.Source, "error", e.Err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.watches {
		w.event(e)
	}
}

// Close ends the client, as the end of its stack does.
//
//   - Leases are given back if Config.Release asks for it.
//   - Addresses, routes, settings and DNS of the client are removed, and those of before
//     restored. The hardware address stays, and the interface stays up.
//   - The stack stays open, unless Open has made it.
//   - Other calls of the client return net.ErrClosed, waiting ones too; watches end.
//   - It may be called twice, and returns when all is done.
func (c *Client) Close() error {
	err := c.end()
	if c.owned {
		err = errors.Join(err, c.st.Close())
	}
	return err
}

func (c *Client) end() error {
	c.mu.Lock()
	closed := c.closed
	c.closed = true
	c.mu.Unlock()
	if closed {
		<-c.done
		return nil
	}
	defer close(c.done)
	c.cancel()
	c.changing.Lock() // Change returns soon
	defer c.changing.Unlock()
	c.watcher.Wait()
	c.mu.Lock()
	sources := c.sources
	c.mu.Unlock()
	for _, r := range sources {
		<-r.done
	}
	c.mu.Lock()
	c.static, c.sources = source.Lease{}, nil
	watches, forget := c.watches, c.forget
	c.watches = nil
	c.mu.Unlock()
	err := setNames(c, c.dns, func() resolver { return resolver{} })
	if gone(err) {
		err = nil
	}
	err = errors.Join(err, c.dev.close())
	forget()
	for w := range watches {
		w.add(func(w *watch) { w.ended = true })
	}
	return c.error(err)
}
