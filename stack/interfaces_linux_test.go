//go:build amd64 || arm64

package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

func addInterface(t *testing.T, s *Stack, cfg Interface) {
	t.Helper()
	testenv.Check(t, s.AddInterface(t.Context(), cfg))
}

func removeInterface(t *testing.T, s *Stack, name string) {
	t.Helper()
	testenv.Check(t, s.RemoveInterface(name))
}

// exchange sends a datagram from one stack to an address of another, where it listens, and
// back.
func exchange(t *testing.T, a, b *Stack, listen, to string) {
	t.Helper()
	lc, d := net.ListenConfig{Control: b.Control}, net.Dialer{Control: a.Control}
	in := testenv.Must(lc.ListenPacket(t.Context(), "udp", listen))(t)
	defer in.Close()
	out := testenv.Must(d.Dial("udp", to))(t)
	defer out.Close()
	limit := time.Now().Add(testenv.Timeout)
	testenv.Check(t, errors.Join(in.SetDeadline(limit), out.SetDeadline(limit)))
	testenv.Must(out.Write([]byte("ping")))(t)
	buf := make([]byte, 10)
	n, from, err := in.ReadFrom(buf)
	testenv.Check(t, err)
	testenv.Must(in.WriteTo(buf[:n], from))(t)
	if n, err := out.Read(buf); err != nil || string(buf[:n]) != "ping" {
		t.Errorf("to %s: %q, %v", to, buf[:n], err)
	}
}

// describe returns the links, addresses and routes of a stack, without what differs from
// stack to stack.
func describe(t *testing.T, s *Stack) (all []string) {
	t.Helper()
	nl := testenv.Opened(s.RTNL())(t)
	names := map[int]string{0: "-"}
	var local []netip.Addr
	for _, l := range testenv.Must(nl.Links())(t) {
		names[l.Index] = l.Name
		all = append(all, fmt.Sprint("link ", l.Name, " ", l.Kind, " ", l.MTU, " ", l.Flags&(net.FlagUp|net.FlagMulticast) != 0))
		if len(l.HardwareAddr) == 6 {
			local = append(local, eui64(l.HardwareAddr))
		}
	}
	addrs := testenv.Must(nl.Addrs())(t)
	own := func(a netip.Addr) string {
		if slices.Contains(local, a) {
			return "own"
		}
		return a.String()
	}
	for _, a := range addrs {
		all = append(all, fmt.Sprint("address ", own(a.Prefix.Addr()), " ", a.Prefix.Bits(), " ", a.Name, " ", a.Scope, " ", a.Flags))
	}
	for _, r := range testenv.Must(nl.Routes())(t) {
		all = append(all, fmt.Sprint("route ", own(r.Dst.Addr()), " ", r.Dst.Bits(), " ", r.Gateway, " ", names[r.OutIface], " ", r.Table, " ", r.Type, " ", r.Metric, " ", r.Scope))
	}
	slices.Sort(all)
	return all
}

func wantSame(t *testing.T, what string, got, want []string) {
	t.Helper()
	for _, g := range got {
		if !slices.Contains(want, g) {
			t.Errorf("%s: %s is there, and is not with New", what, g)
		}
	}
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("%s: %s is missing, and is there with New", what, w)
		}
	}
}

// TestAddInterface adds an interface of each kind to a stack in use, and removes it:
// links, addresses and routes are as New makes them.
func TestAddInterface(t *testing.T) {
	testenv.Long(t)
	netnstest.NoLeaks(t)
	for _, tt := range []struct {
		name, vnl string
		with      Interface
		alone     bool // no other stack can be on the network
	}{
		{name: "TAP", vnl: "null://", alone: true},
		{name: "TAP with MAC and MTU", vnl: "null://", alone: true, with: Interface{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 7}, MTU: 1400}},
		{name: "veth", vnl: "null://", alone: true, with: Interface{Kind: KindVeth}},
		{name: "down", vnl: "null://", alone: true, with: Interface{Down: true}},
		{name: "TAP and plug", vnl: "vlan://4{mem://%s}"},
		{name: "veth and plug", vnl: "vlan://4{mem://%s}", with: Interface{Kind: KindVeth}},
		{name: "mem", vnl: "mem://%s"},
		{name: "lan", vnl: "lan://%s"},
		{name: "mem in user space", vnl: "mem://%s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			netnstest.NoLeaks(t)
			if tt.name == "mem in user space" {
				netnstest.InUserSpace(t)
			}
			cfg := tt.with
			cfg.VNL = strings.ReplaceAll(tt.vnl, "%s", "add")
			cfg.Addrs = testenv.Prefixes("10.0.0.1/24", "fc00::1/64", "fe80::1/60")
			if cfg.Down { // the kernel makes routes of IPv6 when it likes
				cfg.Addrs = cfg.Addrs[:1]
			} else {
				cfg.Gateways = testenv.Addrs("10.0.0.9", "fc00::9")
			}
			first := Interface{Addrs: testenv.Prefixes("10.1.0.1/24")}
			byNew := func(list ...Interface) []string {
				s := made(t, Config{Interfaces: list})
				defer s.Close()
				return describe(t, s)
			}
			none, one, two := byNew(), byNew(cfg), byNew(cfg, first)

			s := made(t, Config{})
			for round := range 2 {
				record := &bytes.Buffer{}
				cfg.Capture = record
				addInterface(t, s, cfg)
				wantSame(t, "one", describe(t, s), one)
				if !tt.alone {
					other := made(t, Config{Interfaces: []Interface{{VNL: cfg.VNL, Addrs: testenv.Prefixes("10.0.0.2/24", "fc00::2/64")}}})
					for _, to := range []string{"10.0.0.2:7", "[fc00::2]:7"} {
						exchange(t, s, other, to, to)
					}
					for _, to := range []string{"10.0.0.1:7", "[fc00::1]:7"} {
						exchange(t, other, s, to, to)
					}
					other.Close()
				}
				addInterface(t, s, first) // gets the next name
				wantSame(t, "two", describe(t, s), two)
				st := s.Stats().Interfaces
				if len(st) != 2 || st[0].Name != "vde0" || st[1].Name != "vde1" || st[0].Err != nil || st[0].Index != firstIndex+2*round {
					t.Errorf("%+v", st)
				}
				if !tt.alone && (st[0].TxFrames < 4 || st[0].RxFrames < 4) {
					t.Errorf("counted %+v", st[0])
				}
				if got, want := s.String(), "stack (vde0 "+cfg.VNL+", vde1)"; got != want {
					t.Errorf("got %s, want %s", got, want)
				}
				removeInterface(t, s, "vde1")
				wantSame(t, "one again", describe(t, s), one)
				removeInterface(t, s, "vde0")
				if record.Len() == 0 {
					t.Error("the capture has not ended")
				}
				wantSame(t, "none again", describe(t, s), none)
				if st := s.Stats().Interfaces; len(st) != 0 {
					t.Errorf("%+v is left", st)
				}
			}
			testenv.Check(t, s.Close())
		})
	}
}

// TestInterfaceErrors has calls that fail: nothing has changed then.
func TestInterfaceErrors(t *testing.T) {
	netnstest.NoLeaks(t)
	s := made(t, Config{Name: "lab", Interfaces: []Interface{
		{Addrs: testenv.Prefixes("10.0.0.1/24"), Gateways: testenv.Addrs("10.0.0.9")},
		{Name: "lan0", VNL: "lan://" + t.Name()},
	}})
	nl := testenv.Opened(s.RTNL())(t)
	other := testenv.Must(nl.LinkAdd(rtnl.LinkSpec{Name: "br0", Kind: "bridge"}))(t)
	before := describe(t, s)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		name string
		call func() error
		want string
		is   error
	}{
		{"name of another", func() error { return s.AddInterface(t.Context(), Interface{Name: "lan0"}) },
			`lab: interface lan0: name "lan0" is that of another interface too`, fs.ErrExist},
		{"loopback", func() error { return s.AddInterface(t.Context(), Interface{Name: "lo"}) },
			`lab: interface lo: name "lo" belongs to loopback`, nil},
		{"name taken, TAP", func() error { return s.AddInterface(t.Context(), Interface{Name: "br0", Kind: KindTAP}) },
			"(the namespace may have an interface of this name already: give this one another Name)", fs.ErrExist},
		{"name taken, veth", func() error { return s.AddInterface(t.Context(), Interface{Name: "br0", Kind: KindVeth}) },
			"give this one another Name", fs.ErrExist},
		{"name taken, lan", func() error { return s.AddInterface(t.Context(), Interface{Name: "br0", VNL: "lan://" + t.Name()}) },
			"give this one another Name", fs.ErrExist},
		{"second default route", func() error {
			return s.AddInterface(t.Context(), Interface{Addrs: testenv.Prefixes("10.1.0.1/24"), Gateways: testenv.Addrs("10.1.0.9")})
		}, "lab: interface vde2: gateway 10.1.0.9: interface vde0 has the default route of its family already; add others by RTNL, with a metric", nil},
		{"gateway far away", func() error {
			return s.AddInterface(t.Context(), Interface{VNL: "mem://" + t.Name(), Addrs: testenv.Prefixes("fc00::1/64"), Gateways: testenv.Addrs("fc01::9")})
		}, "lab: interface vde2: gateway fc01::9 is in no network of the addresses [fc00::1/64]", unix.EHOSTUNREACH},
		{"address", func() error { return s.AddInterface(t.Context(), Interface{Addrs: testenv.Prefixes("10.1.0.0/24")}) },
			"lab: interface vde2: address 10.1.0.0/24 is that of the network", nil},
		{"network", func() error { return s.AddInterface(t.Context(), Interface{VNL: "foo://x"}) },
			`lab: interface vde2: vdeplug: open "foo://x": unknown scheme "foo"`, errors.ErrUnsupported},
		{"context, TAP", func() error { return s.AddInterface(ended, Interface{}) }, "lab: interface vde2: ", context.Canceled},
		{"context, lan", func() error { return s.AddInterface(ended, Interface{VNL: "lan://x"}) }, "lab: interface vde2: ", context.Canceled},
		{"no interface", func() error { return s.RemoveInterface("vde7") }, `lab: there is no interface "vde7"`, fs.ErrNotExist},
		{"no name", func() error { return s.RemoveInterface("") }, `lab: there is no interface ""`, fs.ErrNotExist},
		{"loopback", func() error { return s.RemoveInterface("lo") }, `lab: interface "lo" is none of New or AddInterface: RTNL changes it`, nil},
		{"of netlink", func() error { return s.RemoveInterface("br0") }, `lab: interface "br0" is none of New or AddInterface: RTNL changes it`, nil},
	} {
		err := tt.call()
		if err == nil || !strings.Contains(err.Error(), tt.want) || tt.is != nil && !errors.Is(err, tt.is) {
			t.Errorf("%s: got %v, want %q and %v", tt.name, err, tt.want, tt.is)
		}
		wantSame(t, tt.name, describe(t, s), before)
		if n := len(s.Stats().Interfaces); n != 2 {
			t.Errorf("%s: %d interfaces", tt.name, n)
		}
	}
	testenv.Check(t, nl.LinkDel(other))
}

// TestRemoveRenamed removes interfaces that have other names by now, and one that was
// removed by netlink.
func TestRemoveRenamed(t *testing.T) {
	testenv.Long(t)
	netnstest.NoLeaks(t)
	for _, with := range []Interface{{}, {Kind: KindVeth}, {VNL: "mem://" + t.Name()}, {VNL: "lan://" + t.Name()}} {
		s := made(t, Config{Interfaces: []Interface{with, with, with, with}})
		nl := testenv.Opened(s.RTNL())(t)
		index := func(at int) int { return firstIndex + at }
		rename := func(at int, name string) {
			t.Helper()
			testenv.Check(t, nl.LinkSetDown(index(at)))
			testenv.Check(t, nl.LinkSetName(index(at), name))
		}
		left := func(want ...int) {
			t.Helper()
			var got, kernel []int
			for _, st := range s.Stats().Interfaces {
				got = append(got, st.Index)
			}
			for _, l := range testenv.Must(nl.Links())(t) {
				if l.Index >= firstIndex {
					kernel = append(kernel, l.Index)
				}
			}
			slices.Sort(kernel)
			for i := range want {
				want[i] += firstIndex
			}
			if !slices.Equal(got, want) || !slices.Equal(kernel, want) {
				t.Errorf("%v are left, the kernel has %v, want %v", got, kernel, want)
			}
		}
		// The name that it has now comes first, ...
		rename(0, "new")
		rename(1, "vde0")
		removeInterface(t, s, "vde0")
		left(0, 2, 3)
		// ... that which it was made with is enough while nobody else has it.
		testenv.Must(nl.LinkAdd(rtnl.LinkSpec{Name: "vde0", Kind: "bridge"}))(t)
		if err := s.RemoveInterface("vde0"); err == nil {
			t.Error("an interface of netlink was taken for that of the stack")
		}
		testenv.Check(t, nl.LinkDelName("vde0"))
		if err := s.AddInterface(t.Context(), Interface{Name: "vde0"}); !errors.Is(err, fs.ErrExist) {
			t.Errorf("the name of a renamed interface: %v", err)
		}
		removeInterface(t, s, "vde0")
		left(2, 3)
		rename(2, "newer")
		removeInterface(t, s, "newer")
		left(3)
		testenv.Check(t, nl.LinkDel(index(3)))
		if n := len(s.Stats().Interfaces); n != 1 {
			t.Errorf("%d interfaces", n)
		}
		removeInterface(t, s, "vde3")
		left()
		addInterface(t, s, Interface{Name: "vde0", VNL: with.VNL})
		testenv.Check(t, s.Close())
	}
}

// TestInterfacesJoined adds interfaces to a stack that has joined the namespace of
// another one: those of the other are not touched.
func TestInterfacesJoined(t *testing.T) {
	netnstest.NoLeaks(t)
	for _, vnl := range []string{"null://", "mem://" + t.Name()} {
		s := made(t, Config{Interfaces: []Interface{{Addrs: testenv.Prefixes("10.0.0.1/24")}}})
		f := testenv.Must(s.NetNS())(t)
		before := describe(t, s)
		in := made(t, Config{Name: "in", NetNS: fmt.Sprintf("/proc/self/fd/%d", f.Fd())})
		f.Close()
		if err := in.AddInterface(t.Context(), Interface{Name: "vde0", VNL: vnl}); err == nil {
			t.Error("two interfaces have the name vde0")
		}
		wantSame(t, "after a failure", describe(t, s), before)
		addInterface(t, in, Interface{Name: "in0", VNL: vnl, Addrs: testenv.Prefixes("fc00::2/64")})
		addInterface(t, in, Interface{Name: "in1", VNL: vnl})
		wantLocal(t, in, 3)
		if err := in.RemoveInterface("vde0"); err == nil {
			t.Error("the interface of another stack was removed")
		}
		removeInterface(t, in, "in0")
		testenv.Check(t, in.Close())
		wantSame(t, "in the end", describe(t, s), before)
		s.Close()
	}
}

// TestInterfacesJoinedGone has a stack in a namespace that it has joined, whose interfaces
// somebody else removes. It does not take those that another stack makes later for its own.
func TestInterfacesJoinedGone(t *testing.T) {
	netnstest.NoLeaks(t)
	s := made(t, Config{})
	ns := testenv.Must(s.NetNS())(t)
	defer ns.Close()
	nl := testenv.Opened(s.RTNL())(t)
	join := func() *Stack {
		in := made(t, Config{NetNS: fmt.Sprintf("/proc/self/fd/%d", ns.Fd())})
		for _, f := range []Interface{{VNL: "null://"}, {VNL: "null://", Kind: KindVeth}, {VNL: "mem://" + t.Name()}} {
			addInterface(t, in, f)
		}
		tun := testenv.Must(in.TUN(TUNConfig{}))(t)
		testenv.Check(t, testenv.Must(tun.File())(t).Close())
		testenv.Must(in.TUN(TUNConfig{Name: "tun1", Down: true}))(t)
		return in
	}
	first := join()
	for _, i := range first.Stats().Interfaces {
		if err := nl.LinkDel(i.Index); err != nil && !errors.Is(err, unix.ENODEV) {
			t.Fatal(err)
		}
	}
	second := join()
	before := describe(t, s)
	if i := first.Stats().Interfaces[2]; i.Err == nil {
		t.Errorf("it has the counters of another: %+v", i)
	}
	testenv.Check(t, first.Close())
	wantSame(t, "after Close of the other", describe(t, s), before)
	testenv.Check(t, second.Close())
}

// TestAddInterfaceHangs has a network that cannot be reached: other interfaces come and
// go meanwhile, and Close ends the call.
func TestAddInterfaceHangs(t *testing.T) {
	netnstest.NoLeaks(t)
	s := made(t, Config{Name: "lab"})
	ctx, cancel := context.WithCancelCause(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { first <- s.AddInterface(ctx, Interface{Name: "a", VNL: "hangingtest://"}) }()
	go func() { second <- s.AddInterface(t.Context(), Interface{Name: "b", VNL: "hangingtest://"}) }()
	<-Hanging
	<-Hanging
	if err := s.AddInterface(t.Context(), Interface{Name: "a"}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a name that is being taken: %v", err)
	}
	addInterface(t, s, Interface{Name: "c", VNL: "mem://" + t.Name()})
	removeInterface(t, s, "c")
	cancel(nil)
	if err := <-first; !errors.Is(err, context.Canceled) || !strings.HasPrefix(err.Error(), "lab: interface a: ") {
		t.Errorf("the context has ended: %v", err)
	}
	addInterface(t, s, Interface{Name: "a"})
	testenv.Check(t, s.Close())
	if err := <-second; !errors.Is(err, net.ErrClosed) || err.Error() != s.errClosed().Error() {
		t.Errorf("the stack was closed: %v", err)
	}
}

// A slowPlug is a plug that leaves its network when left is closed.
type slowPlug struct {
	closing, left chan struct{}
	err           error
}

func (p *slowPlug) open() (vdeplug.Conn, error) {
	if p.closing == nil {
		return nil, p.err
	}
	return p, nil
}

func (p *slowPlug) Recv([]byte) (int, error) { <-p.closing; return 0, net.ErrClosed }

func (p *slowPlug) Send([]byte) error { return nil }

func (p *slowPlug) Close() error {
	select {
	case <-p.closing:
	default:
		close(p.closing)
	}
	<-p.left
	return p.err
}

// TestInterfaceLeaves has an interface that takes long to be removed, and whose network
// reports in the end that a connection of its own is closed.
func TestInterfaceLeaves(t *testing.T) {
	netnstest.NoLeaks(t)
	s := made(t, Config{Name: "lab", Interfaces: []Interface{{}}})
	gateway := Interface{Addrs: testenv.Prefixes("10.0.0.1/24"), Gateways: testenv.Addrs("10.0.0.9")}
	slow := gateway
	slow.VNL, slow.NoReconnect = "testplug://", true
	p := &slowPlug{make(chan struct{}), make(chan struct{}), fmt.Errorf("leaving: %w", net.ErrClosed)}
	Opens <- p.open
	addInterface(t, s, slow)
	removed := make(chan error, 1)
	go func() { removed <- s.RemoveInterface("vde1") }()
	<-p.closing
	if err := s.RemoveInterface("vde1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a second call: %v", err)
	}
	if err := s.AddInterface(t.Context(), Interface{Name: "vde1"}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the name is in use: %v", err)
	}
	if err := s.AddInterface(t.Context(), gateway); err == nil || !strings.Contains(err.Error(), "interface vde1 has the default route") {
		t.Errorf("the default route is in use: %v", err)
	}
	addInterface(t, s, Interface{})
	removeInterface(t, s, "vde2")
	close(p.left)
	if err := <-removed; err == nil || err.Error() != "lab: removing interface vde1: leaving: use of closed network connection" {
		t.Errorf("the stack is open, and the error of the network: %v", err)
	}
	gateway.Name = "vde1"
	addInterface(t, s, gateway)

	// A name that the kernel has is not chosen.
	nl := testenv.Opened(s.RTNL())(t)
	for i, name := range []string{"vde2", "vde3"} {
		testenv.Must(nl.LinkAdd(rtnl.LinkSpec{Name: name, Kind: "bridge"}))(t)
		if i == 0 {
			continue
		}
		addInterface(t, s, Interface{})
		removeInterface(t, s, "vde4")
	}

	// The network ends by itself, with that error.
	slow.Gateways, slow.Addrs = nil, nil
	p = &slowPlug{make(chan struct{}), make(chan struct{}), nil}
	close(p.closing)
	close(p.left)
	Opens <- p.open
	addInterface(t, s, slow)
	testenv.Eventually(t, "the error of the network", func() bool {
		all := s.Stats().Interfaces
		err := all[len(all)-1].Err
		e, ok := errors.AsType[*vdeplug.Error](err)
		return errors.Is(err, net.ErrClosed) && ok && e.Op == "recv" && e.VNL == "testplug://"
	})
	removeInterface(t, s, "vde4")

	Opens <- (&slowPlug{err: net.ErrClosed}).open
	err := s.AddInterface(t.Context(), Interface{VNL: "testplug://"})
	if _, ok := errors.AsType[*InterfaceError](err); !ok || !strings.HasPrefix(err.Error(), "lab: interface vde4: vdeplug: open ") {
		t.Errorf("opening the network: %v", err)
	}
	Opens <- (&slowPlug{err: net.ErrClosed}).open
	_, err = New(t.Context(), Config{Interfaces: []Interface{{VNL: "testplug://"}}})
	if _, ok := errors.AsType[*InterfaceError](err); !ok || !errors.Is(err, net.ErrClosed) {
		t.Errorf("opening the network of a new stack: %v", err)
	}
}

// TestInterfacesConcurrent adds and removes interfaces from many goroutines, beside
// those that use the stack, until it is closed.
func TestInterfacesConcurrent(t *testing.T) {
	testenv.Long(t)
	netnstest.NoLeaks(t)
	for range 3 {
		peer := made(t, Config{Interfaces: []Interface{{VNL: "mem://" + t.Name(), Addrs: testenv.Prefixes("10.0.0.100/24")}}})
		s := made(t, Config{Name: "busy"})
		var wg, users sync.WaitGroup
		ends := make(chan struct{})
		expect := func(what string, err error) {
			if err != nil && !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: %v", what, err)
			}
		}
		for j, with := range []Interface{{}, {Kind: KindVeth}, {VNL: "mem://" + t.Name()}, {VNL: "lan://" + t.Name()}, {VNL: "netemu://delay=1ms{mem://" + t.Name() + "}"}} {
			wg.Go(func() {
				with.Name = fmt.Sprintf("if%d", j)
				with.Addrs = testenv.Prefixes(fmt.Sprintf("10.0.0.%d/24", j+1), fmt.Sprintf("fc00::%d/64", j+1))
				for range 4 {
					expect("add", s.AddInterface(t.Context(), with))
					_, err := s.Emulator(with.Name)
					if j == 4 {
						expect("emulator", err)
					}
					expect("remove", s.RemoveInterface(with.Name))
				}
				expect("add", s.AddInterface(t.Context(), with))
			})
		}
		for range 3 {
			users.Go(func() {
				for {
					select {
					case <-ends:
						return
					default:
					}
					s.Stats()
					_ = s.String()
					s.meet(t.Context(), netip.MustParseAddr("10.0.0.100"))
					expect("DNS", s.SetDNS(DNS{Hosts: map[string][]netip.Addr{"a": testenv.Addrs("10.0.0.100")}}))
					s.DNS()
					_, err := s.ReadSysctl("net.ipv4.ip_forward")
					expect("sysctl", err)
					f, err := s.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
					expect("socket", err)
					if err == nil {
						unix.Connect(int(f.Fd()), &unix.SockaddrInet4{Port: 7, Addr: [4]byte{10, 0, 0, 100}})
						unix.Write(int(f.Fd()), []byte("x"))
						f.Close()
					}
				}
			})
		}
		wg.Wait()
		if n := len(s.Stats().Interfaces); n != 5 {
			t.Errorf("%d interfaces, want 5", n)
		}
		wantLocal(t, s, 5)
		// Close comes when interfaces are being made and removed.
		for j := range 5 {
			wg.Go(func() { expect("remove", s.RemoveInterface(fmt.Sprintf("if%d", j))) })
			wg.Go(func() {
				expect("add", s.AddInterface(t.Context(), Interface{VNL: []string{"", "mem://x", "lan://x"}[j%3], Addrs: testenv.Prefixes(fmt.Sprintf("fc01::%d/64", j+1))}))
			})
		}
		expect("close", s.Close())
		close(ends)
		wg.Wait()
		users.Wait()
		peer.Close()
	}
}
