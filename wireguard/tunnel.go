package wireguard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/rtnl"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// A Tunnel is a WireGuard interface of a stack, in use. Its methods may be called from several
// goroutines at once.
type Tunnel struct {
	st  *vdestack.Stack
	own bool // the stack is the tunnel's
	dev *device.Device
	nl  *rtnl.Conn
	// index and name are those of the interface.
	index    int
	name     string
	public   PublicKey       // of this end
	underlay *vdestack.Stack // nil is the host
	bind     *bind
	live     atomic.Pointer[[]PublicKey] // peers that flush waits for
	flushed  chan struct{}               // closed by flush
	made     atomic.Bool                 // the device is there, for stats
	log      *deviceLog
	dns      *dnsChange // of Up; nil if there is none

	ctx    context.Context // ends with the device
	cancel context.CancelFunc
	wg     sync.WaitGroup // what runs until then

	closing  sync.Once
	closeErr error

	mu     sync.Mutex // guards the fields below, and is held while they are applied
	peers  []Peer
	routes map[netip.Prefix]bool // that were added
}

// Open makes a stack that has nothing but a tunnel and loopback, and so reaches nothing but
// what is behind the tunnel. It is named after the interface. Close of the tunnel or of the
// stack ends both. ctx bounds the set-up, in which names of endpoints are looked up; peers are
// not waited for. An error leaves nothing behind.
func Open(ctx context.Context, c Config) (*Tunnel, error) {
	c, err := c.complete()
	if err != nil {
		return nil, fmt.Errorf("wireguard: %w", err)
	}
	st, err := vdestack.New(ctx, vdestack.Config{Name: c.Name, DNS: c.DNS, Logger: c.Logger})
	if err != nil {
		return nil, err
	}
	t, err := up(ctx, st, c, true)
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return t, nil
}

// Up adds a tunnel to a stack: an interface, its addresses, a route for each of AllowedIPs,
// and the stack's DNS. Close of the tunnel takes all of that back; Close of the stack ends the
// tunnel too.
//
//   - A tunnel for everything, 0.0.0.0/0 or ::/0, gets two routes, for the halves of it. They
//     have precedence over the default routes of other interfaces, whatever their metrics, and
//     give way to every other route, as with wg-quick. When the tunnel is closed, the default
//     routes of others count again: a program that must not use them has [Open].
//   - ctx bounds the set-up, as for Open. An error leaves nothing behind: it is [fs.ErrExist]
//     if the name of the interface or a route is taken.
//   - Where Underlay is the stack itself, no endpoint may be in AllowedIPs: encrypted packets
//     would go into the tunnel.
func Up(ctx context.Context, st *vdestack.Stack, c Config) (*Tunnel, error) {
	c, err := c.complete()
	if err != nil {
		return nil, fmt.Errorf("wireguard: %w", err)
	}
	return up(ctx, st, c, false)
}

func up(ctx context.Context, st *vdestack.Stack, c Config, own bool) (_ *Tunnel, err error) {
	t := &Tunnel{
		st: st, own: own, name: c.Name, underlay: c.Underlay, public: c.PrivateKey.Public(),
		log:     newDeviceLog(c.Logger, st.Name(), c.Name),
		routes:  make(map[netip.Prefix]bool),
		flushed: make(chan struct{}),
	}
	t.live.Store(new([]PublicKey))
	defer func() { err = t.named(err) }()
	endpoints := make([]netip.AddrPort, len(c.Peers))
	for i, p := range c.Peers {
		if endpoints[i], err = t.resolve(ctx, p, netip.AddrPort{}); err != nil {
			return nil, err
		}
	}
	if err := t.reachable(endpoints, c.Peers); err != nil {
		return nil, err
	}
	if t.nl, err = st.RTNL(); err != nil {
		return nil, err
	}
	if c.MTU == 0 {
		c.MTU = max(t.mtu(ctx, endpoints), c.minMTU())
	}
	tun, err := st.TUN(vdestack.TUNConfig{Name: c.Name, MTU: c.MTU, Addrs: c.Addrs, Down: true, Peers: t.stats})
	if err != nil {
		t.nl.Close()
		return nil, err
	}
	if err := t.setUp(); err != nil {
		return nil, errors.Join(err, tun.Close(), t.nl.Close())
	}
	inner := 0
	if c.Underlay == st {
		inner = t.index
	}
	var outside *rtnl.Conn
	if c.Underlay != nil {
		t.bind = newBind(&stackBind{st: c.Underlay, inner: inner})
		outside, err = c.Underlay.RTNL()
	} else {
		t.bind = newBind(conn.NewDefaultBind())
		outside, err = rtnl.Dial(nil)
	}
	if err != nil {
		return nil, errors.Join(err, tun.Close(), t.nl.Close())
	}
	t.dev = device.NewDevice(newTUNDevice(tun, t.nl, t.index, t.flush), t.bind, &device.Logger{
		Verbosef: t.log.debug, Errorf: t.log.warn,
	})
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.made.Store(true)
	t.wg.Go(func() { t.watchUnderlay(outside) })
	t.wg.Go(func() { // the device ends with the interface
		<-t.dev.Wait()
		t.cancel()
	})
	defer func() {
		if err != nil {
			t.own = false // Open closes the stack
			t.Close()
		}
	}()
	if err := t.dev.IpcSet(c.setDevice(endpoints)); err != nil {
		return nil, err
	}
	for _, p := range c.Peers {
		t.take(p)
	}
	if err := t.route(); err != nil {
		return nil, err
	}
	if !own {
		if err := t.setDNS(c.DNS); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if err := t.dev.Up(); err != nil {
		return nil, fmt.Errorf("the socket for encrypted packets, on port %d: %w", c.ListenPort, err)
	}
	stop, err := st.BeforeClose(t.note)
	if err != nil {
		return nil, err
	}
	t.wg.Go(t.watch)
	t.wg.Go(func() {
		<-t.ctx.Done()
		stop()
		t.dns.forget()
	})
	return t, nil
}

// setUp sets the interface up. As the kernel's own of this kind it has no link-local address:
// the kernel would look for routers, and so wake the peers.
func (t *Tunnel) setUp() (err error) {
	if t.index, err = t.nl.IfNameToIndex(t.name); err != nil {
		return err
	}
	err = t.st.Sysctl("net/ipv6/conf/"+t.name+"/addr_gen_mode", "1")
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // without IPv6 there is none
		return err
	}
	return t.nl.LinkSetUp(t.index)
}

// warnEvery is how often the device's errors are warnings: it has one for each packet that it
// cannot send. The others are for Debug.
const warnEvery = time.Minute

// A deviceLog is the logger of a tunnel and its device. What they report has the beginnings of
// public keys only.
type deviceLog struct {
	*slog.Logger

	mu     sync.Mutex           // guards the fields below; held while the device logs
	warned map[string]time.Time // by format
	silent bool
}

func newDeviceLog(log *slog.Logger, stack, name string) *deviceLog {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &deviceLog{Logger: log.With("stack", stack, "interface", name), warned: make(map[string]time.Time)}
}

func (l *deviceLog) debug(format string, args ...any) { l.log(slog.LevelDebug, format, args) }

func (l *deviceLog) warn(format string, args ...any) { l.log(slog.LevelWarn, format, args) }

func (l *deviceLog) log(level slog.Level, format string, args []any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if level == slog.LevelWarn && slices.ContainsFunc(args, isClosed) {
		level = slog.LevelDebug // a packet that comes when the tunnel ends
	}
	if level == slog.LevelWarn {
		now := time.Now()
		if last, ok := l.warned[format]; ok && now.Sub(last) < warnEvery {
			level = slog.LevelDebug
		} else {
			l.warned[format] = now
		}
	}
	if !l.silent && l.Enabled(context.Background(), level) {
		l.Log(context.Background(), level, fmt.Sprintf(format, args...))
	}
}

func isClosed(arg any) bool {
	err, ok := arg.(error)
	return ok && errors.Is(err, net.ErrClosed)
}

// end has nothing logged any more: goroutines that nobody waits for report their end.
func (l *deviceLog) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.silent = true
}

// Stack returns the stack that has the tunnel.
func (t *Tunnel) Stack() *vdestack.Stack {
	if t.check() != nil {
		return nil
	}
	return t.st
}

// Name returns the name that the interface was made with.
func (t *Tunnel) Name() string {
	if t.check() != nil {
		return ""
	}
	return t.name
}

// String returns the names of the stack and of the interface.
func (t *Tunnel) String() string {
	if t.check() != nil {
		return "no tunnel"
	}
	return t.st.Name() + " " + t.name
}

// check refuses a Tunnel that Open and Up did not make.
func (t *Tunnel) check() error {
	if t == nil || t.dev == nil {
		return fmt.Errorf("wireguard: there is no tunnel, the error of Open or Up says why: %w", os.ErrInvalid)
	}
	return nil
}

// Close ends the tunnel and, after Open, its stack, whose connections' peers are told through the
// tunnel. It may be called twice, and with any other call. When it returns,
// interface, routes and sockets are gone, nothing is logged any more, and the stack of Up has
// the DNS that it had before, unless somebody has changed that meanwhile.
func (t *Tunnel) Close() error {
	if err := t.check(); err != nil {
		return err
	}
	t.closing.Do(func() {
		var err error
		if t.own {
			err = t.st.Close()
			t.awaitFlush()
		} else {
			err = ignoreClosed(t.dns.undo())
		}
		t.dev.Close() // it logs its errors
		t.wg.Wait()
		t.log.end()
		t.closeErr = errors.Join(err, ignoreClosed(t.nl.Close()))
	})
	return t.closeErr
}

// ignoreClosed returns nil for an error that says that the stack is closed.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// setDNS gives the stack the servers and domains of the tunnel.
func (t *Tunnel) setDNS(d vdestack.DNS) error {
	if len(d.Servers)+len(d.Search)+len(d.Hosts) == 0 {
		return nil
	}
	dnsChanges.Lock()
	defer dnsChanges.Unlock()
	var before, with vdestack.DNS
	for swapped := false; !swapped; { // else somebody else has set it meanwhile
		before = t.st.DNS()
		with = before
		with.Hosts = maps.Clone(before.Hosts)
		if with.Hosts == nil {
			with.Hosts = make(map[string][]netip.Addr)
		}
		maps.Copy(with.Hosts, d.Hosts)
		if len(d.Servers)+len(d.Search) > 0 {
			with.Servers, with.Search, with.Ndots = d.Servers, d.Search, d.Ndots
		}
		var err error
		if swapped, err = t.st.CompareAndSwapDNS(before, with); err != nil {
			return err
		}
	}
	t.dns = &dnsChange{t.st, before, with}
	dnsChanges.all = append(dnsChanges.all, t.dns)
	return nil
}

// A dnsChange is what a tunnel has changed in the DNS of a stack.
type dnsChange struct {
	st           *vdestack.Stack
	before, with vdestack.DNS
}

// dnsChanges are those of the tunnels in use: two of a stack may end in any order.
var dnsChanges struct {
	sync.Mutex
	all []*dnsChange
}

// undo gives the stack the DNS that it had before or, if another tunnel has changed it since, leaves
// that to its end. What somebody else has changed stays.
func (c *dnsChange) undo() error {
	if c == nil {
		return nil
	}
	c.forget()
	dnsChanges.Lock()
	defer dnsChanges.Unlock()
	swapped, err := c.st.CompareAndSwapDNS(c.with, c.before)
	if swapped || err != nil {
		return err
	}
	for _, later := range dnsChanges.all {
		if later.st == c.st && reflect.DeepEqual(later.before, c.with) {
			later.before = c.before
		}
	}
	return nil
}

// forget has the end of other tunnels do nothing for this one.
func (c *dnsChange) forget() {
	dnsChanges.Lock()
	defer dnsChanges.Unlock()
	dnsChanges.all = slices.DeleteFunc(dnsChanges.all, func(other *dnsChange) bool { return other == c })
}

// closed returns the error of calls after Close.
func (t *Tunnel) closed() error {
	if t.ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("the tunnel is closed: %w", net.ErrClosed)
}

// status asks the device.
func (t *Tunnel) status() (status, error) {
	if err := t.closed(); err != nil {
		return status{}, err
	}
	text, err := t.dev.IpcGet()
	if err != nil {
		return status{}, err
	}
	return parseStatus(text)
}

// Peers returns what is known about the peers, in the order in which they were configured.
func (t *Tunnel) Peers() ([]PeerStatus, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s, err := t.status()
	if err != nil {
		return nil, t.named(err)
	}
	all := make([]PeerStatus, 0, len(t.peers))
	for _, p := range t.peers {
		if st := s.peers[p.PublicKey]; st != nil {
			all = append(all, *st)
		}
	}
	return all, nil
}

// ListenPort returns the UDP port of the encrypted socket.
func (t *Tunnel) ListenPort() (uint16, error) {
	if err := t.check(); err != nil {
		return 0, err
	}
	s, err := t.status()
	return s.port, t.named(err)
}

// stats returns the peers for the counters of the stack. It takes no lock that is held while
// the kernel is asked.
func (t *Tunnel) stats() []vdestack.PeerStats {
	if !t.made.Load() {
		return nil
	}
	s, err := t.status()
	if err != nil {
		return nil
	}
	all := make([]vdestack.PeerStats, 0, len(s.peers))
	for k, p := range s.peers {
		all = append(all, vdestack.PeerStats{
			Name: k.String(), Endpoint: p.Endpoint, LastHandshake: p.LastHandshake, RxBytes: p.RxBytes, TxBytes: p.TxBytes,
		})
	}
	slices.SortFunc(all, func(a, b vdestack.PeerStats) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// SetPeer adds a peer or, if there is one with the PublicKey, changes it. Keys that were
// agreed on stay in use, and an empty Endpoint leaves the peer where it was seen. ctx bounds
// the lookup of the endpoint, whose error changes nothing; after an error of a route the peer
// is without that.
func (t *Tunnel) SetPeer(ctx context.Context, p Peer) error {
	if err := t.check(); err != nil {
		return err
	}
	return t.named(t.setPeer(ctx, p))
}

func (t *Tunnel) setPeer(ctx context.Context, p Peer) error {
	if err := p.complete(t.public); err != nil {
		return fmt.Errorf("%s: %w", p.PublicKey.short(), err)
	}
	endpoint, err := t.resolve(ctx, p, netip.AddrPort{})
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s, err := t.status()
	if err != nil {
		return err
	}
	peers, endpoints := []Peer{p}, []netip.AddrPort{endpoint}
	for _, other := range t.peers {
		if other.PublicKey != p.PublicKey {
			peers = append(peers, other)
		} else if endpoint.IsValid() {
			continue
		}
		if now := s.peers[other.PublicKey]; now != nil {
			endpoints = append(endpoints, now.Endpoint)
		}
	}
	if err := t.reachable(endpoints, peers); err != nil {
		return err
	}
	if err := t.dev.IpcSet(p.set(endpoint)); err != nil {
		return err
	}
	t.take(p)
	return t.route()
}

// RemovePeer removes a peer, and the routes that no other has. The error is [fs.ErrNotExist]
// if there is no such peer.
func (t *Tunnel) RemovePeer(k PublicKey) error {
	if err := t.check(); err != nil {
		return err
	}
	return t.named(t.removePeer(k))
}

func (t *Tunnel) removePeer(k PublicKey) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.closed(); err != nil {
		return err
	}
	i := slices.IndexFunc(t.peers, func(p Peer) bool { return p.PublicKey == k })
	if i < 0 {
		return fmt.Errorf("there is no %s: %w", k.short(), fs.ErrNotExist)
	}
	if err := t.dev.IpcSet(remove(k)); err != nil {
		return err
	}
	t.peers = slices.Delete(t.peers, i, i+1)
	return t.route()
}

// take notes a peer as the device does: it gets its AllowedIPs, and no other has them.
func (t *Tunnel) take(p Peer) {
	at := -1
	for i := range t.peers {
		if other := &t.peers[i]; other.PublicKey == p.PublicKey {
			at = i
		} else {
			other.AllowedIPs = slices.DeleteFunc(other.AllowedIPs, func(a netip.Prefix) bool { return slices.Contains(p.AllowedIPs, a) })
		}
	}
	if at < 0 {
		t.peers = append(t.peers, p)
	} else {
		t.peers[at] = p
	}
}

// route adds the routes that the peers need, and removes what they do not need any more.
func (t *Tunnel) route() (err error) {
	wanted := make(map[netip.Prefix]bool)
	for _, p := range t.peers {
		for _, a := range p.AllowedIPs {
			if a.Bits() > 0 || t.own {
				wanted[a] = true
				continue
			}
			for _, half := range halves[a.Addr().Is6()] {
				wanted[half] = true
			}
		}
	}
	for dst := range t.routes {
		if !wanted[dst] {
			err = errors.Join(err, t.nl.RouteDel(dst, netip.Addr{}, t.index))
			delete(t.routes, dst)
		}
	}
	for dst := range wanted {
		if t.routes[dst] {
			continue
		}
		rerr := t.nl.RouteAdd(dst, netip.Addr{}, t.index)
		switch {
		case rerr == nil:
			t.routes[dst] = true
		case !errors.Is(rerr, fs.ErrExist) || !t.routed(dst):
			err = errors.Join(err, fmt.Errorf("AllowedIPs: %w", rerr))
		}
	}
	return err
}

// halves are the routes for everything, by whether they are IPv6.
var halves = map[bool][]netip.Prefix{
	false: {netip.MustParsePrefix("0.0.0.0/1"), netip.MustParsePrefix("128.0.0.0/1")},
	true:  {netip.MustParsePrefix("::/1"), netip.MustParsePrefix("8000::/1")},
}

// routed reports whether there is a route through the interface, such as the kernel's for one
// of its addresses.
func (t *Tunnel) routed(dst netip.Prefix) bool {
	routes, _ := t.nl.Routes()
	return slices.ContainsFunc(routes, func(r rtnl.Route) bool { return r.Dst == dst && r.OutIface == t.index })
}

// named names the tunnel in an error.
func (t *Tunnel) named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("wireguard: %s: %w", t.name, err)
}
