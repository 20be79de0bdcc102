package metrics

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/vdeplug"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// made returns a stack that ends with the test.
func made(t testing.TB, name string, interfaces ...vdestack.Interface) *vdestack.Stack {
	t.Helper()
	return testenv.Opened(vdestack.New(t.Context(), vdestack.Config{Name: name, Interfaces: interfaces}))(t)
}

func on(vnl string, addrs ...string) vdestack.Interface {
	return vdestack.Interface{VNL: vnl, Addrs: testenv.Prefixes(addrs...)}
}

// registry returns one that checks all that it gets.
func registry(t testing.TB) *prometheus.Registry {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	testenv.Check(t, r.Register(NewCollector()))
	return r
}

// samples are values by name and labels, such as "stacks" or "tcp_sockets lab listen". Labels
// are in alphabetical order of their names, without these.
type samples map[string]float64

func scrape(t testing.TB, r *prometheus.Registry) (all, counters samples) {
	t.Helper()
	families, err := r.Gather()
	testenv.Check(t, err)
	all, counters = make(samples), make(samples)
	for _, f := range families {
		for _, m := range f.Metric {
			key := []string{strings.TrimPrefix(f.GetName(), "vdestack_")}
			for _, l := range m.Label {
				key = append(key, l.GetValue())
			}
			k := strings.Join(key, " ")
			if c := m.GetCounter(); c != nil {
				counters[k] = c.GetValue()
			}
			all[k] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return all, counters
}

// want compares the samples that want has.
func want(t *testing.T, got, want samples) {
	t.Helper()
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if v, ok := got[k]; !ok {
			t.Errorf("%q is missing", k)
		} else if v != want[k] {
			t.Errorf("%q is %v, want %v", k, v, want[k])
		}
	}
}

// missing says that there are no samples that begin like this.
func missing(t *testing.T, got samples, prefix string) {
	t.Helper()
	for k, v := range got {
		if strings.HasPrefix(k, prefix) {
			t.Errorf("%q is %v, want none", k, v)
		}
	}
}

// TestCollect has one of everything.
func TestCollect(t *testing.T) {
	mem := "mem://" + t.Name()
	emu := "netemu://loss=0%{" + mem + "}"
	lab := on(emu, "10.0.0.1/24")
	lab.Capture = io.Discard
	a := made(t, "lab", lab, on("lan://"+t.Name(), "10.1.0.1/24"))
	b := made(t, "lab", on("netemu://{"+mem+"}", "10.0.0.2/24"))
	odd := made(t, "\xffodd")
	sw := "switch://" + testenv.ShortDir(t) + "/sw"
	plug := testenv.Opened(vdeplug.Open(sw, nil))(t)
	in := testenv.Opened(a.ForwardIn(t.Context(), "tcp4", "127.0.0.1:0", "10.0.0.1:80", nil))(t)
	testenv.Opened(a.ForwardOut(t.Context(), "udp", "10.0.0.1:53", "127.0.0.1:53", nil))(t)

	handshake := time.UnixMilli(1700000000250)
	tun := testenv.Opened(a.TUN(vdestack.TUNConfig{Name: "wg0", Peers: func() []vdestack.PeerStats {
		return []vdestack.PeerStats{
			{Name: "one", Endpoint: netip.MustParseAddrPort("192.0.2.1:51820"), LastHandshake: handshake, RxBytes: 7, TxBytes: 8},
			{Name: "two"},
			{Name: "two", RxBytes: 9}, // wrongly: the scrape goes on
		}
	}}))(t)

	r := registry(t)
	problems, err := testutil.GatherAndLint(r)
	testenv.Check(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	l := testenv.Listen(t, a, "tcp", ":80")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go io.Copy(c, c)
		}
	}()
	ask := func(c net.Conn) {
		t.Helper()
		c.SetDeadline(time.Now().Add(testenv.Timeout))
		testenv.Must(c.Write([]byte("hello")))(t)
		testenv.Must(io.ReadFull(c, make([]byte, 5)))(t)
	}
	c := testenv.Dial(t, b, "tcp", "10.0.0.1:80")
	ask(c)
	client := testenv.Opened(net.Dial("tcp", in.Addr().String()))(t)
	ask(client)
	testenv.Check(t, plug.Send(make([]byte, 60)))

	got, _ := scrape(t, r)
	vde0 := "vde0 " + emu + " lab"
	want(t, got, samples{
		"stacks":                                                               3,
		"plug_up " + vde0:                                                      1,
		"plug_reconnecting " + vde0:                                            0,
		"plug_reconnects_total " + vde0:                                        0,
		"capture_up " + vde0:                                                   1,
		"plug_up vde1 lan://TestCollect lab":                                   1,
		"plug_up vde0 netemu://{" + mem + "} lab#2":                            1,
		"tunnel_peer_receive_bytes_total wg0 one lab":                          7,
		"tunnel_peer_transmit_bytes_total wg0 one lab":                         8,
		"tunnel_peer_endpoint_known wg0 one lab":                               1,
		"tunnel_peer_endpoint_known wg0 two lab":                               0,
		"tunnel_peer_last_handshake_timestamp_seconds wg0 one lab":             1700000000.25,
		"tunnel_peer_last_handshake_timestamp_seconds wg0 two lab":             0,
		"tunnel_peer_receive_bytes_total wg0 two lab":                          0,
		"tcp_sockets lab listen":                                               1,
		"tcp_sockets lab#2 established":                                        1,
		"tcp_sockets lab#2 other":                                              0,
		"tcp_active_opens_total lab#2":                                         1,
		"tcp_sockets \uFFFDodd listen":                                         0,
		"udp_sockets lab":                                                      1,
		"switch_ports plug " + sw:                                              1,
		"switch_ports client " + sw:                                            0,
		"switch_frames_total " + sw:                                            1,
		"switch_bytes_total " + sw:                                             60,
		"switch_ports plug " + mem:                                             2,
		"forward_clients in " + in.Addr().String() + " tcp lab":                1,
		"forward_accepted_clients_total in " + in.Addr().String() + " tcp lab": 1,
		"forward_client_bytes_total in " + in.Addr().String() + " tcp lab":     5,
		"forward_server_bytes_total in " + in.Addr().String() + " tcp lab":     5,
		"forward_client_datagrams_total out 10.0.0.1:53 udp lab":               0,
		"emulation_impaired_frames_total out lost " + vde0:                     0,
	})
	for _, k := range []string{"interface_receive_bytes_total " + vde0, "interface_transmit_frames_total " + vde0, "capture_frames_total " + vde0, "tcp_transmit_segments_total lab", "interface_receive_frames_total vde0 netemu://{" + mem + "} lab#2"} {
		if got[k] == 0 {
			t.Errorf("%q is %v", k, got[k])
		}
	}
	missing(t, got, "capture_up vde1")
	missing(t, got, "forward_client_datagrams_total in")
	missing(t, got, "emulation_frames_total vde1")
	for _, m := range all {
		name := m.name()
		if !slices.ContainsFunc(slices.Collect(maps.Keys(got)), func(k string) bool { return k == name || strings.HasPrefix(k, name+" ") }) {
			t.Errorf("%s is described, and nowhere collected", name)
		}
	}

	// All is lost: the kernel sends again, after 0.2 s.
	e := testenv.Must(b.Emulator("vde0"))(t)
	testenv.Check(t, e.SetEmulation(vdeplug.Emulation{Out: vdeplug.Impairment{Loss: 1}}))
	testenv.Must(c.Write([]byte("lost")))(t)
	testenv.Eventually(t, "retransmissions are counted", func() bool {
		got, _ := scrape(t, r)
		return got["tcp_retransmitted_segments_total lab#2"] > 0 && got["emulation_impaired_frames_total out lost vde0 netemu://{"+mem+"} lab#2"] > 0
	})

	// What is closed is gone; names stay what they were.
	testenv.Check(t, tun.Close())
	got, _ = scrape(t, r)
	missing(t, got, "tunnel_")
	a.Close()
	odd.Close()
	third := made(t, "lab")
	got, _ = scrape(t, r)
	missing(t, got, "plug_up "+vde0)
	missing(t, got, "forward_")
	want(t, got, samples{"stacks": 2, "tcp_sockets lab listen": 0})
	third.Close()
	b.Close()
	plug.Close()
	got, _ = scrape(t, r)
	want(t, got, samples{"stacks": 0})
	if len(got) != 1 {
		t.Errorf("without a stack: %v", got)
	}
}

// TestLabels has stacks with the same and with confusing names.
func TestLabels(t *testing.T) {
	c := NewCollector()
	labels := func() string {
		var all []string
		for _, s := range c.stacks() {
			all = append(all, s.label)
		}
		return strings.Join(all, " ")
	}
	check := func(want string) {
		t.Helper()
		if got := labels(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	made(t, "a#2")
	first, second := made(t, "a"), made(t, "a")
	check("a#2 a a#3")
	made(t, "a")
	first.Close()
	check("a#2 a#3 a")
	made(t, "a")
	check("a#2 a#3 a a#4")
	second.Close()
	made(t, "")
	made(t, "a")
	check("a#2 a a#4 stack a#3")
}

// TestSecrets has a command in a locator whose arguments are nobody's business.
func TestSecrets(t *testing.T) {
	made(t, "lab", on("netemu://{cmd://sh -c 'sleep 1000; : SECRET'}", "10.0.0.1/24"))
	got, _ := scrape(t, registry(t))
	want(t, got, samples{"plug_up vde0 netemu://{cmd://sh …} lab": 1, "emulation_impaired_frames_total out lost vde0 netemu://{cmd://sh …} lab": 0})
	for k := range got {
		if strings.Contains(k, "SECRET") {
			t.Error(k)
		}
	}
}

// TestBeside scrapes while stacks, interfaces and forwards come and go, and frames are dropped.
// No counter of a stack that stays goes down, and no scrape has an error.
func TestBeside(t *testing.T) {
	network := "mem://" + t.Name()
	stays := made(t, "stays", on("netemu://rate=100mbit/queue=20k{"+network+"}", "10.0.0.1/24"), on("lan://"+t.Name(), "10.1.0.1/24"))
	u := testenv.ListenPacket(t, stays, "udp", "10.0.0.1:0")
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.0.0.255:9"))
	done := make(chan struct{})
	var wg sync.WaitGroup
	loop := func(f func(n int) error) {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				if err := f(n); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	loop(func(int) error { // to nobody in particular: it floods
		u.WriteTo(make([]byte, 1400), to)
		return nil
	})
	loop(func(n int) error {
		s, err := vdestack.New(t.Context(), vdestack.Config{Interfaces: []vdestack.Interface{on(network), on("lan://" + t.Name())}})
		if err != nil {
			return err
		}
		f, err := s.ForwardIn(t.Context(), "tcp", "127.0.0.1:0", "10.0.0.9:80", nil)
		if err == nil && n%2 == 0 {
			err = f.Close()
		}
		if err != nil {
			return err
		}
		return s.Close()
	})
	loop(func(int) error {
		if err := stays.AddInterface(t.Context(), on("lan://"+t.Name()+".2")); err != nil {
			return err
		}
		return stays.RemoveInterface("vde2")
	})
	r := registry(t)
	_, before := scrape(t, r)
	for range 50 {
		_, now := scrape(t, r)
		for k, v := range now {
			if strings.Contains(k, "stays") && !strings.Contains(k, "vde2") && v < before[k] {
				t.Errorf("%s goes down from %v to %v", k, before[k], v)
			}
		}
		before = now
	}
	close(done)
	wg.Wait()
	if k := "interface_transmit_dropped_frames_total vde0 netemu://rate=100mbit/queue=20k{" + network + "} stays"; before[k] == 0 {
		t.Errorf("no frame was dropped: %s", k)
	}
}

// A hung network takes nothing, for ever.
type hung struct{ closed chan struct{} }

func (h hung) Send([]byte) error        { <-h.closed; return net.ErrClosed }
func (h hung) Recv([]byte) (int, error) { <-h.closed; return 0, net.ErrClosed }
func (h hung) Close() error             { close(h.closed); return nil }

type hungWriter struct{ end chan struct{} }

func (w hungWriter) Write(b []byte) (int, error) { <-w.end; return len(b), nil }

// TestHung scrapes beside a network and a writer that hang.
func TestHung(t *testing.T) {
	vdeplug.Register(vdeplug.Scheme{Name: "hung", Open: func(_ context.Context, _ vdeplug.Locator, _ *vdeplug.Options) (vdeplug.Conn, error) {
		return hung{make(chan struct{})}, nil
	}})
	w := hungWriter{make(chan struct{})}
	i := on("hung://", "10.0.0.1/24")
	i.Capture = w
	s := made(t, "hung", i)
	u := testenv.ListenPacket(t, s, "udp", "10.0.0.1:0")
	for range 50 {
		u.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.0.0.2:9")))
	}
	r := registry(t)
	start := time.Now()
	got, _ := scrape(t, r)
	if d := time.Since(start); d > testenv.Timeout/2 {
		t.Errorf("it took %v", d)
	}
	want(t, got, samples{"plug_up vde0 hung:// hung": 1, "capture_up vde0 hung:// hung": 1})
	close(w.end)
}

// BenchmarkCollect scrapes many stacks, on a network of the kernel.
func BenchmarkCollect(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprintf("stacks=%d", n), func(b *testing.B) {
			for range n {
				made(b, "", on("lan://"+b.Name()))
			}
			r := registry(b)
			for b.Loop() {
				scrape(b, r)
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "µs/stack")
		})
	}
}
