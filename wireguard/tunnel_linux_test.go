package wireguard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// only returns the status of the only peer.
func only(t *testing.T, tun *Tunnel) PeerStatus {
	t.Helper()
	all := testenv.Must(tun.Peers())(t)
	if len(all) != 1 {
		t.Fatalf("%d peers", len(all))
	}
	return all[0]
}

// TestPeer has wireguard-go in another process as peer, over IPv4 and IPv6.
func TestPeer(t *testing.T) {
	for name, endpoint := range map[string]string{"IPv4": "192.0.2.1:51820", "IPv6": "[fd09::1]:51820"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, near := newLab(t, "", 0)
			c := p.config(endpoint, "10.0.0.2/24", "fd00::2/64")
			c.Underlay = near
			began := time.Now()
			tun := testenv.Opened(Open(t.Context(), c))(t)
			echo(t, p.st)
			echo(t, tun.Stack())
			for _, n := range []int{1 << 10, 1 << 17} {
				transfer(t, tun.Stack(), "10.0.0.1", n)
				transfer(t, tun.Stack(), "fd00::1", n)
				transfer(t, p.st, "10.0.0.2", n)
				transfer(t, p.st, "fd00::2", n)
			}
			s := only(t, tun)
			if s.PublicKey != p.key.Public() || s.Endpoint.String() != endpoint || s.LastHandshake.Before(began.Truncate(0)) || s.RxBytes < 1<<19 || s.TxBytes < 1<<19 || len(s.AllowedIPs) != 2 {
				t.Errorf("status %+v", s)
			}
			interfaces := tun.Stack().Stats().Interfaces
			if len(interfaces) != 1 || len(interfaces[0].Peers) != 1 {
				t.Fatalf("stats %+v", interfaces)
			}
			if i := interfaces[0].Peers[0]; i.Name != p.key.Public().String() || i.Endpoint != s.Endpoint || i.LastHandshake.Before(s.LastHandshake) || i.RxBytes < s.RxBytes || i.TxBytes < s.TxBytes {
				t.Errorf("stats %+v, status %+v", i, s)
			}
		})
	}
}

// TestPeerChanges has a peer that moves, new session keys, and a peer that crashes and is
// started again.
func TestPeerChanges(t *testing.T) {
	t.Parallel()
	p, near := newLab(t, "", 0)
	c := p.config("192.0.2.1:51820", "10.0.0.2/24")
	c.Underlay = near
	tun := testenv.Opened(Open(t.Context(), c))(t)
	echo(t, p.st)
	echo(t, tun.Stack())
	transfer(t, tun.Stack(), "10.0.0.1", 1<<10)
	p.set("listen_port=51821\n")
	transfer(t, p.st, "10.0.0.2", 1<<10)
	if s := only(t, tun); s.Endpoint.String() != "192.0.2.1:51821" {
		t.Errorf("the peer is at 192.0.2.1:51821, the endpoint %v", s.Endpoint)
	}
	transfer(t, tun.Stack(), "10.0.0.1", 1<<10)

	before := only(t, tun)
	p.kill()
	p.start()
	port := testenv.Must(tun.ListenPort())(t)
	p.knows(c, fmt.Sprintf("endpoint=[fd09::2]:%d", port), "persistent_keepalive_interval=25\n")
	transfer(t, p.st, "10.0.0.2", 1<<10)
	transfer(t, tun.Stack(), "10.0.0.1", 1<<10)
	if s := only(t, tun); s.Endpoint.String() != "[fd09::1]:51820" || !s.LastHandshake.After(before.LastHandshake) {
		t.Errorf("after the peer's restart: %+v", s)
	}

	// To the device keys are too old when they have been used too often, too.
	before = only(t, tun)
	tun.dev.LookupPeer(device.NoisePublicKey(p.key.Public())).ExpireCurrentKeypairs()
	transfer(t, tun.Stack(), "10.0.0.1", 1<<10)
	if s := only(t, tun); !s.LastHandshake.After(before.LastHandshake) {
		t.Errorf("the keys are as old as before: %+v", s)
	}
}

// TestUnderlayMTU has a network for the encrypted packets whose MTU is too small for those of a
// tunnel elsewhere.
func TestUnderlayMTU(t *testing.T) {
	t.Parallel()
	p, near := newLab(t, "", 1400)
	c := p.config("[fd09::1]:51820", "10.0.0.2/24", "fd00::2/64")
	c.Underlay = near
	tun := testenv.Opened(Open(t.Context(), c))(t)
	echo(t, p.st)
	echo(t, tun.Stack())
	transfer(t, tun.Stack(), "10.0.0.1", 1<<16)
	transfer(t, p.st, "fd00::2", 1<<16)
	nl := testenv.Opened(tun.Stack().RTNL())(t)
	if l := testenv.Must(nl.Link(tun.index))(t); l.MTU != 1320 {
		t.Errorf("the MTU is %d, want 1320", l.MTU)
	}
	// The stack's socket sends fragments.
	testenv.Check(t, nl.LinkSetMTU(tun.index, 1500))
	transfer(t, tun.Stack(), "10.0.0.1", 1<<14)
}

// TestPathMTU has a network of a small MTU behind the peer, and an MTU that changes.
func TestPathMTU(t *testing.T) {
	t.Parallel()
	p, near := newLab(t, "", 0)
	c := p.config("192.0.2.1:51820", "10.0.0.2/32", "fd00::2/128")
	c.Underlay, c.MTU = near, 1400
	tun := testenv.Opened(Open(t.Context(), c))(t)
	vnl := "mem://" + t.Name() + "-behind"
	behind := newStack(t, vdestack.Interface{
		VNL: vnl, MTU: 1280, Addrs: testenv.Prefixes("10.9.0.1/24", "fd19::1/64"), Gateways: testenv.Addrs("10.9.0.2", "fd19::2"),
	})
	testenv.Check(t, p.st.AddInterface(t.Context(), vdestack.Interface{VNL: vnl, MTU: 1280, Addrs: testenv.Prefixes("10.9.0.2/24", "fd19::2/64")}))
	for _, name := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		testenv.Check(t, p.st.Sysctl(name, "1"))
	}
	echo(t, behind)
	transfer(t, tun.Stack(), "10.9.0.1", 1<<16)
	transfer(t, tun.Stack(), "fd19::1", 1<<16)

	nl := testenv.Opened(tun.Stack().RTNL())(t)
	index := tun.index
	if l := testenv.Must(nl.Link(index))(t); l.MTU != 1400 {
		t.Errorf("the MTU is %d, want 1400", l.MTU)
	}
	testenv.Check(t, nl.LinkSetMTU(index, 1280))
	transfer(t, tun.Stack(), "10.9.0.1", 1<<16)
	testenv.Check(t, nl.LinkSetMTU(index, 9000)) // encrypted, they are fragments
	transfer(t, tun.Stack(), "fd19::1", 1<<16)
}

// TestLoss has a network that loses packets.
func TestLoss(t *testing.T) {
	t.Parallel()
	p, near := newLab(t, "netemu://delay=1ms{%s}", 0)
	c := p.config("[fd09::1]:51820", "10.0.0.2/24", "fd00::2/64")
	c.Underlay = near
	tun := testenv.Opened(Open(t.Context(), c))(t)
	echo(t, p.st)
	transfer(t, tun.Stack(), "10.0.0.1", 1<<10) // a lost handshake would take five seconds
	em := testenv.Must(near.Emulator("vde0"))(t)
	e := em.Emulation()
	e.Out.Loss, e.In.Loss, e.Seed = 0.02, 0.02, 1
	testenv.Check(t, em.SetEmulation(e))
	transfer(t, tun.Stack(), "10.0.0.1", 1<<16)
	transfer(t, tun.Stack(), "fd00::1", 1<<16)
}

// TestHost has the encrypted sockets of both ends on the host, and Up and ParseConfig.
func TestHost(t *testing.T) {
	netnstest.NoLeaks(t)
	a, b := NewKey(), NewKey()
	server := testenv.Opened(Open(t.Context(), testenv.Must(ParseConfig(`[Interface]
PrivateKey = `+a.Reveal()+`
Address = 10.0.0.1/24, fd00::1/64
[Peer]
PublicKey = `+b.Public().String()+`
AllowedIPs = 10.0.0.2/32, fd00::2/128
`))(t)))(t)
	port := testenv.Must(server.ListenPort())(t)
	st := newStack(t, vdestack.Interface{VNL: "mem://" + t.Name(), Addrs: testenv.Prefixes("192.0.2.1/24")})
	client := testenv.Opened(Up(t.Context(), st, testenv.Must(ParseConfig(`[Interface]
PrivateKey = `+b.Reveal()+`
Address = 10.0.0.2/24
Address = fd00::2/64
[Peer]
PublicKey = `+a.Public().String()+`
AllowedIPs = 10.0.0.0/24, fd00::/64
Endpoint = localhost:`+fmt.Sprint(port)+`
PersistentKeepalive = 25
`))(t)))(t)
	if client.Stack() != st || client.Name() != "wg0" || !strings.HasSuffix(client.String(), " wg0") {
		t.Errorf("%v has the stack %v", client, client.Stack())
	}
	echo(t, server.Stack())
	echo(t, st)
	transfer(t, st, "10.0.0.1", 1<<16)
	transfer(t, st, "fd00::1", 1<<16)
	transfer(t, server.Stack(), "10.0.0.2", 1<<16)
	transfer(t, server.Stack(), "fd00::2", 1<<16)
	if s := only(t, client); !s.Endpoint.Addr().IsLoopback() || s.PersistentKeepalive != 25*time.Second {
		t.Errorf("status %+v", s)
	}
	c := Config{PrivateKey: NewKey(), ListenPort: port}
	if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("wireguard: wg0: the socket for encrypted packets, on port %d", port)) {
		t.Errorf("the port of another tunnel: %v", err)
	}
}

// routes returns the routes of the main table through wg0.
func routes(t *testing.T, st *vdestack.Stack) (all []string) {
	t.Helper()
	nl := testenv.Opened(st.RTNL())(t)
	index, err := nl.IfNameToIndex("wg0")
	if err != nil {
		return nil
	}
	for _, r := range testenv.Must(nl.Routes())(t) {
		if r.OutIface == index && r.Table == rtnl.TableMain && !r.Dst.Addr().IsLinkLocalUnicast() {
			all = append(all, r.Dst.String())
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// TestUp adds a tunnel for everything to a stack that has another default route, changes its
// peers, and takes it back.
func TestUp(t *testing.T) {
	t.Parallel()
	st := newStack(t, vdestack.Interface{
		VNL: "mem://" + t.Name(), Addrs: testenv.Prefixes("192.0.2.1/24", "fd09::1/64"), Gateways: testenv.Addrs("192.0.2.9", "fd09::9"),
	})
	own := vdestack.DNS{Servers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.9:53")}, Hosts: map[string][]netip.Addr{"a": testenv.Addrs("192.0.2.8")}}
	testenv.Check(t, st.SetDNS(own))
	k := NewKey().Public()
	c := Config{
		PrivateKey: NewKey(), Addrs: testenv.Prefixes("10.0.0.2/24", "fd00::2/64"), Logger: testLogger(t),
		DNS:   vdestack.DNS{Servers: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:53")}, Search: []string{"lab.example"}},
		Peers: []Peer{{PublicKey: k, AllowedIPs: testenv.Prefixes("0.0.0.0/0", "::/0", "10.0.0.0/24", "10.0.0.0/8")}},
	}
	tun := testenv.Opened(Up(t.Context(), st, c))(t)
	want := func(when, want string) {
		t.Helper()
		if got := fmt.Sprint(routes(t, st)); got != want {
			t.Errorf("%s the routes are %s, want %s", when, got, want)
		}
	}
	all := "[0.0.0.0/1 10.0.0.0/24 10.0.0.0/8 128.0.0.0/1 8000::/1 ::/1 fd00::/64]"
	want("after Up", all)
	if d := st.DNS(); fmt.Sprint(d.Servers, d.Search, d.Hosts) != "[10.0.0.1:53] [lab.example] map[a:[192.0.2.8]]" {
		t.Errorf("the DNS is %v", d)
	}
	if _, err := Up(t.Context(), st, c); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second tunnel of the same name: %v", err)
	}
	other := c
	other.Name = "wg1"
	if _, err := Up(t.Context(), st, other); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second tunnel for everything: %v", err)
	}
	nl := testenv.Opened(st.RTNL())(t)
	if _, err := nl.IfNameToIndex("wg1"); err == nil {
		t.Error("after an error wg1 is there")
	}
	want("after the errors", all)

	second := Peer{PublicKey: NewKey().Public(), AllowedIPs: testenv.Prefixes("10.1.0.1/16", "::/0")}
	testenv.Check(t, tun.SetPeer(t.Context(), second))
	want("with another peer", "[0.0.0.0/1 10.0.0.0/24 10.0.0.0/8 10.1.0.0/16 128.0.0.0/1 8000::/1 ::/1 fd00::/64]")
	if p := testenv.Must(tun.Peers())(t); len(p) != 2 || p[0].PublicKey != k || len(p[0].AllowedIPs) != 3 || len(p[1].AllowedIPs) != 2 {
		t.Errorf("the peers are %+v", p)
	}
	second.AllowedIPs, second.PersistentKeepalive = testenv.Prefixes("10.2.0.0/16"), 5*time.Second
	testenv.Check(t, tun.SetPeer(t.Context(), second))
	want("with another route", "[0.0.0.0/1 10.0.0.0/24 10.0.0.0/8 10.2.0.0/16 128.0.0.0/1 fd00::/64]")
	testenv.Check(t, tun.RemovePeer(second.PublicKey))
	if err := tun.RemovePeer(second.PublicKey); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a peer that is gone: %v", err)
	}
	if err := tun.SetPeer(t.Context(), Peer{}); err == nil {
		t.Error("a peer without PublicKey is one")
	}
	want("without the other peer", "[0.0.0.0/1 10.0.0.0/24 10.0.0.0/8 128.0.0.0/1 fd00::/64]")

	testenv.Check(t, tun.Close())
	testenv.Check(t, tun.Close())
	want("after Close", "[]")
	if d := st.DNS(); fmt.Sprint(d.Servers, d.Search) != "[192.0.2.9:53] []" {
		t.Errorf("after Close the DNS is %v", d)
	}
	_, perr := tun.Peers()
	_, lerr := tun.ListenPort()
	for what, err := range map[string]error{"Peers": perr, "ListenPort": lerr, "SetPeer": tun.SetPeer(t.Context(), second), "RemovePeer": tun.RemovePeer(k)} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
	again := testenv.Opened(Up(t.Context(), st, c))(t)
	testenv.Check(t, st.SetDNS(own))
	testenv.Check(t, again.Close())
}

// TestEnds closes stacks of tunnels that are in use.
func TestEnds(t *testing.T) {
	t.Parallel()
	p, near := newLab(t, "", 0)
	echo(t, p.st)
	for name, end := range map[string]func(*Tunnel) error{
		"tunnel": (*Tunnel).Close,
		"stack":  func(tun *Tunnel) error { return tun.Stack().Close() },
	} {
		c := p.config("192.0.2.1:51820", "10.0.0.2/24")
		c.Underlay = near
		tun := testenv.Opened(Open(t.Context(), c))(t)
		ln := testenv.Listen(t, p.st, "tcp", ":8")
		conn := testenv.Dial(t, tun.Stack(), "tcp", "10.0.0.1:8")
		far := testenv.Must(ln.Accept())(t)
		ln.Close()
		testenv.Check(t, end(tun))
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: reading from a connection of the stack: %v", name, err)
		}
		far.SetReadDeadline(time.Now().Add(testenv.Timeout))
		if _, err := far.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the other end has not heard of it: %v", name, err)
		}
		far.Close()
		select {
		case <-tun.ctx.Done():
		case <-time.After(testenv.Timeout):
			t.Fatalf("%s: the device lives", name)
		}
		if _, err := tun.Peers(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: Peers: %v", name, err)
		}
		testenv.Check(t, tun.Close())
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	c := p.config("192.0.2.1:51820", "10.0.0.2/24")
	if _, err := Open(canceled, c); !errors.Is(err, context.Canceled) {
		t.Errorf("Open with a context that is done: %v", err)
	}
}

// TestNote has the end of a tunnel wait for its peer, but not while the interface is down.
func TestNote(t *testing.T) {
	t.Parallel()
	p, near := newLab(t, "", 0)
	echo(t, p.st)
	c := p.config("192.0.2.1:51820", "10.0.0.2/24")
	c.Underlay = near
	tun := testenv.Opened(Open(t.Context(), c))(t)
	check := func(what string, want int) {
		t.Helper()
		tun.note(t.Context())
		if live := *tun.live.Load(); len(live) != want {
			t.Errorf("%s: the end waits for %d peers, want %d", what, len(live), want)
		}
	}
	check("without keys", 0)
	transfer(t, tun.Stack(), "10.0.0.1", 1600)
	check("with keys", 1)
	testenv.Check(t, tun.nl.LinkSetDown(tun.index))
	check("down", 0)
}

// TestDeviceEvents checks what wireguard-go is told, and asks, of an interface.
func TestDeviceEvents(t *testing.T) {
	t.Parallel()
	st := testenv.Opened(vdestack.Open(""))(t)
	d := testenv.Must(st.TUN(vdestack.TUNConfig{Name: "wg0", MTU: 1420}))(t)
	nl := testenv.Opened(st.RTNL())(t)
	index := testenv.Must(nl.IfNameToIndex("wg0"))(t)
	dev := newTUNDevice(d, nl, index, func() {})
	testenv.Check(t, nl.LinkSetMTU(index, 1300))
	for _, want := range []tun.Event{tun.EventMTUUpdate, tun.EventDown, tun.EventUp} {
		if got := <-dev.Events(); got != want {
			t.Errorf("event %v, want %v", got, want)
		}
		switch want {
		case tun.EventMTUUpdate:
			if mtu := testenv.Must(dev.MTU())(t); mtu != 1300 {
				t.Errorf("MTU %d", mtu)
			}
			testenv.Check(t, nl.LinkSetDown(index))
		case tun.EventDown:
			testenv.Check(t, nl.LinkSetUp(index))
		}
	}
	if name := testenv.Must(dev.Name())(t); name != "wg0" || dev.File() != nil {
		t.Errorf("name %q, file %v", name, dev.File())
	}
	testenv.Check(t, dev.Close())
	for range dev.Events() {
	}
}

// TestDeviceLog checks that errors that repeat do not flood a log.
func TestDeviceLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out testenv.Buffer
		l := newDeviceLog(slog.New(slog.NewTextHandler(&out, nil)), "lab", "wg0")
		for range 100 {
			l.warn("cannot %s", "send")
		}
		l.warn("cannot receive")
		l.debug("details")
		time.Sleep(warnEvery)
		l.warn("cannot %s", "send")
		l.warn("cannot write: %v", fmt.Errorf("wg0: %w", net.ErrClosed))
		l.end()
		l.warn("the end")
		if got := regexp.MustCompile(`msg=("[^"]+")`).FindAllString(out.String(), -1); fmt.Sprint(got) != `[msg="cannot send" msg="cannot receive" msg="cannot send"]` {
			t.Errorf("logged %s", got)
		}
	})
}

// TestKeysHidden looks at all that a tunnel logs, prints and returns, in use and when it fails.
func TestKeysHidden(t *testing.T) {
	t.Parallel()
	var out testenv.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	secret, psk := NewKey(), NewKey()
	c := Config{
		PrivateKey: secret, Addrs: testenv.Prefixes("10.0.0.2/24"), Logger: log,
		Peers: []Peer{{PublicKey: NewKey().Public(), PresharedKey: psk, AllowedIPs: testenv.Prefixes("10.0.0.0/24"), Endpoint: "127.0.0.1:9"}},
	}
	tun := testenv.Opened(Open(t.Context(), c))(t)
	port := testenv.Must(tun.ListenPort())(t)
	fmt.Fprintf(&out, "%v %+v %#v %v\n", tun, tun, tun, testenv.Must(tun.Peers())(t))
	if conn, err := tun.Stack().Dial("udp", "10.0.0.1:9"); err == nil {
		conn.Write([]byte("x")) // begins a handshake
		conn.Close()
	}
	busy := c
	busy.ListenPort = port
	_, err := Open(t.Context(), busy)
	fmt.Fprintf(&out, "%v %+v %#v\n", err, err, err)
	_, err = Up(t.Context(), tun.Stack(), c)
	fmt.Fprintf(&out, "%v %+v %#v\n", err, err, err)
	p := c.Peers[0]
	p.Endpoint = "localhost"
	err = tun.SetPeer(t.Context(), p)
	fmt.Fprintf(&out, "%v %+v %#v\n", err, err, err)
	testenv.Check(t, tun.Close())
	err = tun.SetPeer(t.Context(), c.Peers[0])
	fmt.Fprintf(&out, "%v %+v %#v\n", err, err, err)
	if text := out.String(); !strings.Contains(text, "address already in use") || !strings.Contains(text, "Sending handshake initiation") || strings.Contains(text, "<nil>\n") {
		t.Errorf("nothing has failed: %s", text)
	}
	leaks(t, "the output", out.String(), secret, psk)
}

// TestFailureHidesKeys looks at the output of a test that fails, with all that is logged and the
// stacks of all goroutines.
func TestFailureHidesKeys(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(testenv.Context(t), testenv.Must(os.Executable())(t), "-test.run=^TestPeerChanges$")
	cmd.Env = append(os.Environ(), failVariable+"=1")
	out, err := cmd.CombinedOutput()
	for _, part := range []string{"--- FAIL: TestPeerChanges", "as the environment has it", "Sending handshake initiation", "device.(*Device).RoutineReadFromTUN"} {
		if err == nil || !strings.Contains(string(out), part) {
			t.Errorf("%v: the output has no %q", err, part)
		}
	}
	if keyText.Match(out) {
		t.Error("the output has what looks like a key")
	}
}

// keyText is a key in base64 or in hexadecimal.
var keyText = regexp.MustCompile(`[A-Za-z0-9+/]{43}=|(?i)[0-9a-f]{64}`)
