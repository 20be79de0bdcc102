package vdeplug

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
)

// A remotesControl is a source of remotes that the test drives.
type remotesControl struct {
	sets  chan remotesSet
	taken chan struct{} // what was sent last is in use
}

type remotesSet struct {
	hosts []netip.AddrPort
	err   error
}

// set gives a set, or an error, to the plug, and waits until that has dealt with it.
func (c *remotesControl) set(t testing.TB, hosts []netip.AddrPort, err error) {
	t.Helper()
	select {
	case c.sets <- remotesSet{hosts, err}:
	case <-testenv.Context(t).Done():
		t.Fatal("the plug does not want another set")
	}
	<-c.taken
}

// registerRemotes registers the source "test", whose argument is a number, for the time of
// the test. It begins with a set.
func registerRemotes(t testing.TB, n int, first []netip.AddrPort) []*remotesControl {
	t.Helper()
	controls := make([]*remotesControl, n)
	for i := range controls {
		controls[i] = &remotesControl{make(chan remotesSet), make(chan struct{})}
	}
	RegisterRemotes("test", func(ctx context.Context, arg string) iter.Seq2[[]netip.AddrPort, error] {
		var i int
		fmt.Sscan(arg, &i)
		return func(yield func([]netip.AddrPort, error) bool) {
			if !yield(first, nil) {
				return
			}
			for {
				select {
				case s := <-controls[i].sets:
					more := yield(s.hosts, s.err)
					controls[i].taken <- struct{}{}
					if !more {
						return
					}
				case <-ctx.Done():
					return
				}
			}
		}
	})
	t.Cleanup(func() {
		remoteSources.mu.Lock()
		defer remoteSources.mu.Unlock()
		delete(remoteSources.funcs, "test")
	})
	return controls
}

// A vxlanHost is a host of a network, with an address of its own.
type vxlanHost struct {
	*plugtest.Inbox
	*remotesControl
	addr netip.AddrPort
}

// knows wants the host to know where a station is; nil: not to know it.
func (h *vxlanHost) knows(t *testing.T, station int, at *vxlanHost) {
	t.Helper()
	f, _ := packet.Find[*follower](transportOf(h.Conn))
	peer, ok := f.Lookup(plugtest.Station(station))
	if ok != (at != nil) || ok && netip.AddrPortFrom(peer.Addr(), peer.Port()) != at.addr {
		t.Errorf("%v: station %d is at %v, %v", h.addr, station, peer.Addr(), ok)
	}
}

// manyHosts is how many hosts are on a network in tests.
const manyHosts = 64

// vxlanAddrs returns addresses of hosts in 127.0.0.0/8 or another network.
func vxlanAddrs(n int, first string) []netip.AddrPort {
	addrs := make([]netip.AddrPort, n)
	a := netip.MustParseAddr(first)
	for i := range addrs {
		addrs[i] = netip.AddrPortFrom(a, vxlanPort)
		a = a.Next()
	}
	return addrs
}

// openVXLANHosts opens a plug with each address. enter runs a function where the address is.
func openVXLANHosts(t *testing.T, addrs []netip.AddrPort, enter func(i int, f func())) []*vxlanHost {
	t.Helper()
	controls := registerRemotes(t, len(addrs), addrs)
	hosts := make([]*vxlanHost, len(addrs))
	for i, a := range addrs {
		var c Conn
		var err error
		enter(i, func() { c, err = Open(fmt.Sprintf("vxlan:///bind=%s/vni=42/remotes=test:%d", a.Addr(), i), nil) })
		testenv.Check(t, err)
		hosts[i] = &vxlanHost{plugtest.NewInbox(t, c), controls[i], a}
	}
	return hosts
}

// TestRemotesLogLimit has a source that changes its set all the time, with errors in between.
func TestRemotesLogLimit(t *testing.T) {
	control := registerRemotes(t, 1, vxlanAddrs(1, "127.0.2.2"))[0]
	var log testenv.Buffer
	testenv.Opened(Open("vxlan:///bind=127.0.2.1/remotes=test:0", &Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}))(t)
	const most = 100 // and one a second
	start := time.Now()
	for i := range 2 * most {
		control.set(t, vxlanAddrs(1+i%2*2, "127.0.2.2"), nil)
		control.set(t, nil, errors.New("gone"))
	}
	if n := strings.Count(log.String(), "\n"); n < most || n > most+1+int(time.Since(start).Seconds()) {
		t.Errorf("%d lines for %d changes", n, 2*most)
	}
}

// TestVXLANHosts has many hosts on one network, of which some leave and come: namespaces
// or, as an ordinary user, addresses of this one.
func TestVXLANHosts(t *testing.T) {
	testenv.Long(t)
	testenv.NoLeaks(t)
	addrs := vxlanAddrs(manyHosts, "127.0.1.1")
	enter := func(_ int, f func()) { f() }
	if os.Geteuid() == 0 {
		addrs = vxlanAddrs(manyHosts, "10.9.7.1")
		spaces := bridgeHosts(t, addrs)
		enter = func(i int, f func()) { spaces[i].do(f) }
	}
	testVXLANHosts(t, openVXLANHosts(t, addrs, enter))
}

// bridgeHosts makes a namespace for each address, all of them on one bridge. They know each
// other's hardware address: the namespaces of a machine share a table of 1024 learned ones.
func bridgeHosts(t *testing.T, addrs []netip.AddrPort) []*netns {
	t.Helper()
	// The bridge is in a namespace too: the kernel removes the links in the background.
	var c *rtnl.Conn
	var err error
	newNetns(t).do(func() { c, err = rtnl.Dial(nil) })
	testenv.Check(t, err)
	defer c.Close()
	bridge := testenv.Must(c.LinkAdd(rtnl.LinkSpec{Name: "bridge0", Kind: "bridge", Up: true}))(t)
	spaces := make([]*netns, len(addrs))
	mac := func(i int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 1, byte(i)} }
	neighbors := make([]rtnl.Neighbor, len(addrs))
	for i, a := range addrs {
		neighbors[i] = rtnl.Neighbor{Addr: a.Addr(), HardwareAddr: mac(i)}
	}
	for i, a := range addrs {
		ns := newNetns(t)
		spaces[i] = ns
		file := testenv.Must(os.Open(ns.path))(t)
		_, err := c.LinkAdd(rtnl.LinkSpec{
			Name: fmt.Sprintf("host%d", i), Kind: "veth", Master: bridge, Up: true, Queues: 1,
			Peer: &rtnl.LinkSpec{Name: "eth0", NetNS: file, Queues: 1, MAC: mac(i)},
		})
		file.Close()
		testenv.Check(t, err)
		ns.do(func() { err = upWith(netip.PrefixFrom(a.Addr(), 16), neighbors) })
		testenv.Check(t, err)
	}
	return spaces
}

// upWith brings up eth0 of the caller's namespace with an address and neighbours.
func upWith(address netip.Prefix, neighbors []rtnl.Neighbor) error {
	c, err := rtnl.Dial(nil)
	if err != nil {
		return err
	}
	defer c.Close()
	index, err := c.IfNameToIndex("eth0")
	if err != nil {
		return err
	}
	err = errors.Join(c.LinkSetUp(index), c.AddrAdd(index, address))
	for _, n := range neighbors {
		n.IfIndex = index
		err = errors.Join(err, c.NeighborAdd(n))
	}
	return err
}

func testVXLANHosts(t *testing.T, hosts []*vxlanHost) {
	last := len(hosts) - 1
	leaver := hosts[last]
	var all []netip.AddrPort
	for _, h := range hosts {
		all = append(all, h.addr)
	}
	setAll := func(set []netip.AddrPort) {
		t.Helper()
		for _, h := range hosts[:last] {
			h.set(t, set, nil)
		}
	}
	// flood sends a frame and wants it as the next of some hosts.
	flood := func(from *vxlanHost, to []*vxlanHost, frame []byte) {
		t.Helper()
		plugtest.Send(t, from, frame)
		for _, h := range to {
			if h != from {
				h.WantNext(t, frame)
			}
		}
	}
	broadcast := func(station int) []byte {
		return plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(station), 60)
	}
	// Each learns where all others are, and gets each frame once: more would be the next.
	for i, h := range hosts {
		flood(h, hosts, broadcast(i))
	}
	for i := 1; i < len(hosts); i++ {
		hosts[0].knows(t, i, hosts[i])
		flood(hosts[0], hosts[i:i+1], plugtest.TestFrame(plugtest.Station(i), plugtest.Station(0), 60))
	}

	// One leaves. Nothing goes to it any more, though it sends all the same.
	setAll(all[:last])
	for _, h := range hosts[:last] {
		h.knows(t, last, nil)
	}
	flood(leaver, hosts, broadcast(last))
	hosts[0].knows(t, last, nil)
	hosts[0].knows(t, 1, hosts[1])
	flood(hosts[0], hosts[:last], broadcast(0))
	flood(hosts[0], hosts[:last], plugtest.TestFrame(plugtest.Station(last), plugtest.Station(0), 60))

	// It comes back, and gets the next frame for all, not those in between.
	setAll(all)
	flood(hosts[0], hosts, broadcast(0))
	flood(leaver, hosts, broadcast(last))
	hosts[0].knows(t, last, leaver)

	// While half of the hosts come and go, frames reach those that stay once, and the
	// others at most once.
	half := len(hosts) / 2
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for set := all; ; {
			select {
			case <-stop:
				return
			case hosts[0].sets <- remotesSet{hosts: set}:
				<-hosts[0].taken
			}
			if len(set) == half {
				set = all
			} else {
				set = all[:half]
			}
		}
	}()
	const frames = 100
	sent := make(map[string]int)
	for i := range frames {
		frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(0), 60)
		sent[string(frame)] = i
		flood(hosts[0], hosts[:half], frame)
	}
	close(stop)
	<-stopped
	hosts[0].set(t, all, nil)
	end := broadcast(0)
	plugtest.Send(t, hosts[0], end)
	some := 0
	for _, h := range hosts[half:] {
		before := -1
		for {
			frame := h.Next(t)
			if string(frame) == string(end) {
				break
			}
			i, ok := sent[string(frame)]
			if !ok || i <= before {
				t.Fatalf("%v: frame %d after %d", h.addr, i, before)
			}
			before = i
			some++
		}
	}
	t.Logf("%d of %d frames to hosts that come and go", some, frames*half)
}

// TestVXLANFile follows a file, and says what is wrong with it.
func TestVXLANFile(t *testing.T) {
	testenv.NoLeaks(t)
	path := filepath.Join(t.TempDir(), "hosts")
	vnl := "vxlan:///bind=127.0.0.2/remotes='file:" + path + "'"
	wantOpenError(t, vnl, `option "remotes=file:`+path+`":`, os.ErrNotExist)
	writeFile(t, path, "127.0.0.3\nlocalhost\n")
	wantOpenError(t, vnl, `line 2: "localhost" is not ADDRESS`)
	writeFile(t, path, "127.0.0.3\n224.0.0.1\n")
	wantOpenError(t, vnl, `224.0.0.1 is no address of a host`)
	writeFile(t, path, "127.0.0.3\n")
	var log testenv.Buffer
	a := plugtest.NewInbox(t, testenv.Must(Open(vnl, &Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}))(t))
	b := openInbox(t, "vxlan:///bind=127.0.0.3/remote=127.0.0.2")
	c := openInbox(t, "vxlan:///bind=127.0.0.4/remote=127.0.0.2,127.0.0.3")
	plugtest.Deliver(t, a, b, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
	writeFile(t, path, "127.0.0.4\n")
	testenv.Eventually(t, "the change in the log", func() bool { return strings.Contains(log.String(), "the hosts have changed") }, log.String)
	plugtest.Deliver(t, a, c, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
	frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(4), 60)
	plugtest.Send(t, c, frame)
	a.WantNext(t, frame)
	b.WantNext(t, frame) // and not that of a
}

// TestRemotesLog sees what is logged: each error once, and changes.
func TestRemotesLog(t *testing.T) {
	testenv.NoLeaks(t)
	one := vxlanAddrs(1, "127.0.0.3")
	source := registerRemotes(t, 1, one)[0]
	var log testenv.Buffer
	c := testenv.Must(Open("vxlan:///bind=127.0.0.2/remotes=test:0", &Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}))(t)
	defer c.Close()
	down := errors.New("the servers are down")
	for _, s := range []struct {
		set  remotesSet
		want string
	}{
		{remotesSet{hosts: one}, ""},
		{remotesSet{err: down}, `level=WARN msg="no new set of hosts, the last one stays" remotes=test:0 hosts=1 error="the servers are down"`},
		{remotesSet{err: down}, ""},
		{remotesSet{hosts: make([]netip.AddrPort, 1)}, `error="a host has no address"`},
		{remotesSet{err: down}, "servers are down"},
		{remotesSet{hosts: one}, ""},
		{remotesSet{err: down}, "servers are down"},
		{remotesSet{hosts: vxlanAddrs(3, "127.0.0.3")}, `level=INFO msg="the hosts have changed" remotes=test:0 hosts=3`},
		{remotesSet{}, "hosts=0"},
	} {
		before := log.String()
		source.set(t, s.set.hosts, s.set.err)
		if got := strings.TrimPrefix(log.String(), before); !strings.Contains(got, s.want) || s.want == "" && got != "" {
			t.Errorf("%v: logged %q, want %q", s.set, got, s.want)
		}
	}
}

// TestRemotesEnd opens networks whose source ends, or does not.
func TestRemotesEnd(t *testing.T) {
	testenv.NoLeaks(t)
	var mu sync.Mutex
	source := RemotesFunc(func(context.Context, string) iter.Seq2[[]netip.AddrPort, error] { return nil })
	RegisterRemotes("endtest", func(ctx context.Context, arg string) iter.Seq2[[]netip.AddrPort, error] {
		mu.Lock()
		defer mu.Unlock()
		return source(ctx, arg)
	})
	defer func() {
		remoteSources.mu.Lock()
		defer remoteSources.mu.Unlock()
		delete(remoteSources.funcs, "endtest")
	}()
	use := func(f func(ctx context.Context, yield func([]netip.AddrPort, error) bool)) {
		mu.Lock()
		defer mu.Unlock()
		source = func(ctx context.Context, _ string) iter.Seq2[[]netip.AddrPort, error] {
			return func(yield func([]netip.AddrPort, error) bool) { f(ctx, yield) }
		}
	}
	const vnl = "vxlan:///bind=127.0.0.2/remotes=endtest:x"
	wantOpenError(t, vnl, `option "remotes=endtest:x": the source has returned nil in place of a sequence`)
	use(func(context.Context, func([]netip.AddrPort, error) bool) {})
	wantOpenError(t, vnl, `option "remotes=endtest:x": the source has ended without a set of hosts`)
	down := errors.New("the servers are down")
	use(func(_ context.Context, yield func([]netip.AddrPort, error) bool) { yield(nil, down) })
	wantOpenError(t, vnl, "the servers are down", down)
	// The set of a source that has ended stays.
	use(func(_ context.Context, yield func([]netip.AddrPort, error) bool) {
		yield(vxlanAddrs(1, "127.0.0.3"), nil)
	})
	a := openInbox(t, vnl)
	b := openInbox(t, "vxlan:///bind=127.0.0.3/remote=127.0.0.2")
	plugtest.Deliver(t, a, b, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
	// A port that is taken ends the source too.
	use(func(ctx context.Context, yield func([]netip.AddrPort, error) bool) {
		yield(vxlanAddrs(1, "127.0.0.3"), nil)
		<-ctx.Done()
	})
	wantOpenError(t, vnl, "port 4789 is in use")
	// One that waits, with a context that ends.
	use(func(ctx context.Context, _ func([]netip.AddrPort, error) bool) { <-ctx.Done() })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := OpenContext(ctx, vnl, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that the context has ended", err)
	}
}

// BenchmarkVXLANFlood sends a frame of 1500 bytes to all hosts. They do not read, so that
// this is the cost of sending.
func BenchmarkVXLANFlood(b *testing.B) {
	for _, n := range []int{1, 8, manyHosts, maxRemotes} {
		b.Run(fmt.Sprintf("hosts=%d", n), func(b *testing.B) {
			addrs := vxlanAddrs(n, "127.0.4.1")
			registerRemotes(b, 1, addrs)
			for _, a := range addrs {
				c := testenv.Must(net.ListenUDP("udp4", net.UDPAddrFromAddrPort(a)))(b)
				defer c.Close()
				testenv.Check(b, c.SetReadBuffer(1))
			}
			c := openPlug(b, "vxlan:///bind=127.0.0.2/remotes=test:0").(packet.Transport)
			packets := []packet.Packet{{Data: plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 1514)}}
			b.ReportAllocs()
			for b.Loop() {
				testenv.Check(b, c.SendPackets(packets, true))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/host")
		})
	}
}

// BenchmarkVXLANSetRemotes lets one of 1024 hosts leave or come.
func BenchmarkVXLANSetRemotes(b *testing.B) {
	addrs := vxlanAddrs(maxRemotes, "127.0.4.1")
	source := registerRemotes(b, 1, addrs)[0]
	openPlug(b, "vxlan:///bind=127.0.0.2/remotes=test:0")
	for i := 0; b.Loop(); i++ {
		source.set(b, addrs[i%2:], nil)
	}
}
