package soak

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vdestack/vdestack"
	"golang.org/x/sys/unix"
)

// quietTime is how long after a repair the kernel may still use earlier state: it gives a
// silent neighbour up after three seconds.
const quietTime = 4 * time.Second

// A network is what stacks are connected to. No address is used twice, so that neighbour
// tables have no stale entries.
type network struct {
	name   string
	index  int         // of its subnet
	max    int         // number of stacks at once
	vnl    string      // empty: loopback only, ends or fabric
	ends   chan string // of a cable, the locators that are free
	plug   bool        // stacks may join through a vde_plug
	fabric *fabric     // of a network with switches

	taken  int           // number of stacks; guarded by soak.mu
	serial atomic.Uint32 // of addresses
	upsets atomic.Uint64 // how often it was cut or repaired
	calm   atomic.Int64  // end of the last upset, in Unix nanoseconds, and of quietTime
}

// loopback reports whether the stacks have no other network, and do not reach each other.
func (n *network) loopback() bool { return n.vnl == "" && n.ends == nil && n.fabric == nil }

// disturb is called before the network is cut; it returns a function that is called when
// the network is repaired.
func (n *network) disturb() (repaired func()) {
	n.upsets.Add(1)
	n.calm.Store(time.Now().Add(time.Hour).UnixNano())
	return func() {
		n.upsets.Add(1)
		n.calm.Store(time.Now().Add(quietTime).UnixNano())
	}
}

// quiet returns the time from which operations on the network must succeed.
func (n *network) quiet() time.Time { return time.Unix(0, n.calm.Load()) }

// address returns the nth addresses of the network.
func (n *network) address(nth uint32) (v4, v6 netip.Addr) {
	nth = nth%60000 + 1
	b := []byte{byte(nth >> 8), byte(nth)}
	v4 = netip.AddrFrom4([4]byte{10, byte(n.index), b[0], b[1]})
	v6 = netip.AddrFrom16([16]byte{0: 0xfd, 3: byte(n.index), 14: b[0], 15: b[1]})
	return v4, v6
}

// absent returns addresses of the network that no stack has.
func (n *network) absent() (v4, v6 netip.Addr) { return n.address(59999) }

// A member is a stack on a network.
type member struct {
	st     *vdestack.Stack
	net    *network
	serial uint32
	half   int    // of the fabric
	end    string // of the cable
	via    *peer
	addrs  []netip.Addr // IPv4, IPv6
	known  []*member    // those that its resolver has names for
	space  string       // its network namespace, as links of /proc show it
	cookie uint64
	upsets uint64 // of the network, before the stack was opened

	closing, cut atomic.Bool
	closed       atomic.Bool // Close has returned
	left         sync.Once
}

func (m *member) String() string { return fmt.Sprintf("%s.%d", m.net.name, m.serial) }

// name is what other stacks call it.
func (m *member) name() string { return fmt.Sprintf("s%d", m.serial) }

// ifName is the name of its interface.
func (m *member) ifName() string {
	if m.net.loopback() {
		return "lo"
	}
	return "vde0"
}

// doomed reports whether the stack is closed, or cut off from its network.
func (m *member) doomed() bool { return m.closing.Load() || m.cut.Load() }

// reserve reserves room for some stacks on a random network. It returns nil if no network
// has room.
func (t *task) reserve(stacks int) *network {
	t.soak.mu.Lock()
	defer t.soak.mu.Unlock()
	var free []*network
	for _, n := range t.nets {
		if n.taken+stacks <= n.max {
			free = append(free, n)
		}
	}
	if len(free) == 0 {
		return nil
	}
	n := free[t.rng.IntN(len(free))]
	n.taken += stacks
	return n
}

func (s *soak) release(n *network, stacks int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n.taken -= stacks
}

// members returns n stacks of one network at random, which may be the same one, or nil if
// there is no stack.
func (t *task) members(n int) []*member {
	t.soak.mu.Lock()
	defer t.soak.mu.Unlock()
	var usable []*member
	for _, m := range t.live {
		if !m.doomed() {
			usable = append(usable, m)
		}
	}
	if len(usable) == 0 {
		return nil
	}
	ms := []*member{usable[t.rng.IntN(len(usable))]}
	usable = slices.DeleteFunc(usable, func(m *member) bool { return m.net != ms[0].net })
	for len(ms) < n {
		m := ms[0]
		if !m.net.loopback() {
			m = usable[t.rng.IntN(len(usable))]
		}
		ms = append(ms, m)
	}
	for _, m := range ms {
		t.use(m.net, m)
	}
	return ms
}

// open opens a stack on a network that has room.
func (t *task) open(n *network) (*member, error) {
	t.use(n, nil)
	m := &member{net: n, serial: n.serial.Add(1), upsets: n.upsets.Load()}
	cfg := vdestack.Config{Name: m.String(), DNS: vdestack.DNS{
		Servers: []netip.AddrPort{nameServer},
		Hosts:   make(map[string][]netip.Addr),
	}}
	if n.loopback() {
		m.addrs = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}
	} else {
		v4, v6 := n.address(m.serial)
		m.addrs = []netip.Addr{v4, v6}
		vnl := n.vnl
		switch {
		case n.fabric != nil:
			m.half = t.rng.IntN(len(n.fabric.halves))
			vnl = n.fabric.halves[m.half].vnl()
		case n.ends != nil:
			vnl = <-n.ends
			m.end = vnl
		}
		if n.plug && t.chance(3) {
			m.via = &peer{direct: vnl, file: filepath.Join(t.dir, fmt.Sprint("peer", t.serial.Add(1)))}
			vnl = fmt.Sprintf("cmd://sh -c 'echo $$ >%s; exec %s %s 2>/dev/null'", m.via.file, t.vdePlug, vnl)
		}
		mac := net.HardwareAddr{2, byte(t.rng.Uint32()), byte(n.index), byte(m.serial >> 16), byte(m.serial >> 8), byte(m.serial)}
		v4absent, _ := n.absent()
		cfg.DNS.Servers = append(cfg.DNS.Servers, netip.AddrPortFrom(v4absent, 53))
		cfg.Interfaces = []vdestack.Interface{{
			VNL: vnl, MAC: mac,
			Addrs: []netip.Prefix{netip.PrefixFrom(v4, 16), netip.PrefixFrom(v6, 64)},
		}}
	}
	t.soak.mu.Lock()
	for _, other := range t.live {
		if other.net == n && !other.doomed() {
			m.known = append(m.known, other)
		}
	}
	t.soak.mu.Unlock()
	m.known = append(m.known, m)
	for _, other := range m.known {
		cfg.DNS.Hosts[other.name()] = other.addrs
	}
	if err := m.create(t, cfg); err != nil {
		m.leave()
		return nil, err
	}
	t.use(m.net, m)
	if m.via != nil {
		if err := m.via.ready(t, m, cfg.Interfaces[0].MAC); err != nil {
			m.close()
			return nil, err
		}
	}
	return m, nil
}

// create opens the stack.
func (m *member) create(t *task, cfg vdestack.Config) (err error) {
	// A child of the process that has not executed its program yet has a copy of the
	// socket of the stack that had this end of a cable before.
	t.wait(func() bool {
		m.st, err = vdestack.New(t.ctx, cfg)
		return m.end == "" || !errors.Is(err, unix.EADDRINUSE)
	})
	if err == nil {
		if err = m.identify(); err != nil {
			m.st.Close()
		}
	}
	return err
}

// identify records which namespace the stack has.
func (m *member) identify() error {
	f, err := m.st.NetNS()
	if err != nil {
		return err
	}
	defer f.Close()
	if m.space, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd())); err != nil {
		return err
	}
	probe, err := m.st.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer probe.Close()
	m.cookie, err = unix.GetsockoptUint64(int(probe.Fd()), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return err
}

// close closes the stack and what belongs to it.
func (m *member) close() error {
	m.closing.Store(true)
	err := m.st.Close()
	m.closed.Store(true)
	m.left.Do(m.leave)
	return err
}

// leave gives back the end and the peer of the stack.
func (m *member) leave() {
	m.via.forget()
	if m.end != "" {
		m.net.ends <- m.end
	}
}

// dead waits until the stack has noticed that its network is gone for the first time. It
// may have it back before anybody looks.
func (m *member) dead(t *task) error {
	noticed := func() bool {
		st := m.st.Stats().Interfaces[0]
		return st.Err != nil || st.Reconnects > 0
	}
	if !t.wait(func() bool { return m.closing.Load() || noticed() }) {
		return fmt.Errorf("%v does not notice that its network is gone", m)
	}
	return nil
}

// doOpen opens a stack for all tasks.
func (t *task) doOpen() error {
	n := t.reserve(1)
	if n == nil {
		return errSkip
	}
	m, err := t.open(n)
	if err != nil {
		t.release(n, 1)
		return err
	}
	t.soak.mu.Lock()
	defer t.soak.mu.Unlock()
	// A task that cuts the network counts that first, and then looks for its stacks.
	if n.upsets.Load() != m.upsets {
		m.cut.Store(true)
	}
	t.live = append(t.live, m)
	return nil
}

// doClose closes a stack, even if others use it; one that is cut off comes first.
func (t *task) doClose() error {
	t.soak.mu.Lock()
	var m *member
	for _, o := range t.live {
		if o.cut.Load() {
			m = o
		}
	}
	if m == nil && len(t.live) > 0 {
		m = t.live[t.rng.IntN(len(t.live))]
	}
	t.live = slices.DeleteFunc(t.live, func(o *member) bool { return o == m })
	t.soak.mu.Unlock()
	if m == nil {
		return errSkip
	}
	t.use(m.net, m)
	return t.end(m)
}

// end closes a stack that no other task can find. Its own Close excuses no error.
func (t *task) end(m *member) error {
	defer t.release(m.net, 1)
	if err := m.close(); err != nil {
		t.Errorf("closing %v: %v", m, err)
	}
	if _, err := m.st.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0); err == nil || !excused(err) {
		t.Errorf("%v makes sockets after Close: %v", m, err)
	}
	return nil
}

// stopFabrics ends the programs.
func (t *task) stopFabrics() error {
	for _, n := range t.nets {
		if n.fabric != nil {
			n.fabric.stop(t)
		}
	}
	return nil
}
