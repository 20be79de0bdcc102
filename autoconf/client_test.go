package autoconf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/autoconf/internal/source/sourcetest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// A fakeDevice is a device without a kernel.
type fakeDevice struct {
	changes chan change
	noRoute bool // eth waits for what does not come

	mu     sync.Mutex // guards the rest
	leases map[Source]source.Lease
	taken  []netip.Addr // by another host
	log    []string
}

func newFakeDevice() *fakeDevice {
	return &fakeDevice{changes: make(chan change), leases: make(map[Source]source.Lease)}
}

func (d *fakeDevice) ifname() string    { return "vde0" }
func (d *fakeDevice) link() source.Link { return sourcetest.NewLink() }

func (d *fakeDevice) note(s string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log = append(d.log, s)
	return nil
}

func (d *fakeDevice) eth(ctx context.Context, mac net.HardwareAddr) error {
	if d.noRoute {
		<-ctx.Done()
	}
	return d.note("eth " + mac.String())
}
func (d *fakeDevice) down() error          { return d.note("down") }
func (d *fakeDevice) follow(on bool) error { return d.note(fmt.Sprint("follow ", on)) }
func (d *fakeDevice) close() error         { return d.note("close") }

func (d *fakeDevice) apply(_ context.Context, by Source, l source.Lease) error {
	d.note("apply " + string(by))
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leases[by] = l
	for _, a := range l.Addrs {
		if slices.Contains(d.taken, a.Prefix.Addr()) {
			return errors.Join(&source.ConflictError{Addrs: []netip.Addr{a.Prefix.Addr()}})
		}
	}
	return nil
}

func (d *fakeDevice) watch(ctx context.Context, f func(change)) {
	for {
		select {
		case ch := <-d.changes:
			f(ch)
		case <-ctx.Done():
			return
		}
	}
}

// fakeDNS is the DNS of a stack.
type fakeDNS struct {
	mu       sync.Mutex // guards the rest
	dns      vdestack.DNS
	swapping func() // called once, by the next CompareAndSwapDNS, before it
	swapped  func() // and after it
}

func (f *fakeDNS) DNS() vdestack.DNS {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dns
}

func (f *fakeDNS) SetDNS(d vdestack.DNS) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dns = d
}

func (f *fakeDNS) CompareAndSwapDNS(old, new vdestack.DNS) (swapped bool, err error) {
	f.mu.Lock()
	before, after := f.swapping, f.swapped
	f.swapping, f.swapped = nil, nil
	f.mu.Unlock()
	if before != nil {
		before()
	}
	if after != nil {
		defer after()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !reflect.DeepEqual(f.dns, old) {
		return false, nil
	}
	f.dns = new
	return true, nil
}

// lease returns one with an address and a server of names.
func lease(p, server string) source.Lease {
	l := source.Lease{Addrs: []source.Addr{{Prefix: prefix(p)}}}
	if server != "" {
		l.DNS = []source.Server{{Addr: addr(server)}}
	}
	return l
}

// say returns a source that says something after a time, a source.Lease or an error, and
// then waits for the end.
func say(after time.Duration, what any) source.Run {
	return func(ctx context.Context, _ source.Config, _ source.Link, sink source.Sink) error {
		select {
		case <-time.After(after):
		case <-ctx.Done():
			return nil
		}
		switch what := what.(type) {
		case source.Lease:
			sink.Set(what)
		case error:
			sink.Failed(what)
		}
		<-ctx.Done()
		return nil
	}
}

// startFake starts a client without a stack.
func startFake(ctx context.Context, d *fakeDevice, dns dnsSetter, runs map[Source]source.Run, text string) (*Client, error) {
	cfg, err := Parse(text)
	if err != nil {
		return nil, err
	}
	return startFakeConfig(ctx, d, dns, runs, cfg)
}

func startFakeConfig(ctx context.Context, d *fakeDevice, dns dnsSetter, runs map[Source]source.Run, cfg Config) (*Client, error) {
	if cfg.Iface == "" {
		cfg.Iface = defaultIface
	}
	c := newClient(d, dns, "lab/vde0", cfg)
	c.runs = runs
	if err := c.begin(ctx, cfg); err != nil {
		c.end()
		return nil, err
	}
	return c, nil
}

// TestRenewDuring has Renew called while a source says the result of an earlier one.
func TestRenewDuring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var renewed atomic.Int32
		run := func(ctx context.Context, cfg source.Config, _ source.Link, sink source.Sink) error {
			for {
				sink.Set(lease("10.0.0.5/24", fmt.Sprintf("10.0.0.%d", 10+renewed.Load())))
				select {
				case <-cfg.Calls:
				case <-ctx.Done():
					return nil
				}
				time.Sleep(time.Second)
				renewed.Add(1)
			}
		}
		dns := &fakeDNS{}
		c := testenv.Must(startFake(t.Context(), newFakeDevice(), dns, map[Source]source.Run{DHCP4: run}, "dhcp"))(t)
		defer c.Close()
		renew := func(want int32) {
			if err := c.Renew(t.Context()); err != nil || renewed.Load() != want {
				t.Errorf("Renew returns %v after %d renewals, want %d", err, renewed.Load(), want)
			}
		}
		var wg sync.WaitGroup
		dns.mu.Lock()
		dns.swapped = func() {
			wg.Go(func() { renew(2) })
			time.Sleep(time.Millisecond) // until it has asked
		}
		dns.mu.Unlock()
		renew(1)
		wg.Wait()
	})
}

// TestStart waits for sources that answer at different times, or not at all.
func TestStart(t *testing.T) {
	v4, v6, router, asking := lease("10.0.0.5/24", ""), lease("fd00::5/128", ""), lease("fd00::6/64", ""), lease("fd00::6/64", "")
	asking.DHCP6 = true
	tests := []struct {
		name  string
		text  string
		runs  map[Source]source.Run
		after time.Duration
		known []Source
		err   string
	}{
		{"all", "dhcp,dhcp6", map[Source]source.Run{DHCP4: say(time.Second, v4), DHCP6: say(3*time.Second, v6)}, 3 * time.Second, []Source{DHCP6, DHCP4}, ""},
		{"one fails", "dhcp,dhcp6", map[Source]source.Run{DHCP4: say(time.Second, v4), DHCP6: say(8*time.Second, errors.New("nobody"))}, 8 * time.Second, []Source{DHCP4}, ""},
		{"one is silent", "dhcp,dhcp6,rd", map[Source]source.Run{DHCP4: say(time.Second, v4), DHCP6: say(time.Hour, v6), RD: say(time.Hour, v6)}, 10 * time.Second, []Source{DHCP4}, ""},
		{
			"all fail", "dhcp,dhcp6,rd",
			map[Source]source.Run{DHCP4: say(8*time.Second, errors.New("no offer")), DHCP6: say(time.Hour, nil), RD: say(time.Second, errors.New("no router"))},
			10 * time.Second, nil, "autoconf: lab/vde0: dhcp6: no answer within 10s\ndhcp4: no offer\nrd: no router",
		},
		{"DHCPv6 without a router that asks", "auto,fqdn=a.example", map[Source]source.Run{DHCP4: say(time.Second, v4), DHCP6: say(8*time.Second, v6), RD: say(2*time.Second, router)}, 2 * time.Second, []Source{DHCP4, RD}, ""},
		{"DHCPv6 with one", "dhcp6,rd", map[Source]source.Run{DHCP6: say(3*time.Second, v6), RD: say(2*time.Second, asking)}, 3 * time.Second, []Source{DHCP6, RD}, ""},
		{"DHCPv6 without a router", "dhcp6,rd", map[Source]source.Run{DHCP6: say(8*time.Second, v6), RD: say(2*time.Second, errors.New("no router"))}, 8 * time.Second, []Source{DHCP6}, ""},
		{"static helps", "ip=10.0.0.7,dhcp", map[Source]source.Run{DHCP4: say(8*time.Second, errors.New("no offer"))}, 8 * time.Second, []Source{Static}, ""},
		{"nothing", "", nil, 0, nil, ""},
		{"a source ends", "dhcp", map[Source]source.Run{DHCP4: func(context.Context, source.Config, source.Link, source.Sink) error { return errors.New("no socket") }}, 0, nil, "dhcp4: no socket"},
		{"minus", "-dhcp", nil, 0, nil, "minus items change a client that was started: see Client.Change"},
		{"no name", "rd,slaac=hash", nil, 0, nil, "fqdn=NAME gives it"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				d := newFakeDevice()
				c, err := startFake(t.Context(), d, &fakeDNS{}, tt.runs, tt.text)
				if took := time.Since(start); took != tt.after {
					t.Errorf("it took %v, want %v", took, tt.after)
				}
				if err != nil {
					if tt.err == "" || !strings.Contains(err.Error(), tt.err) {
						t.Errorf("error %v, want %s", err, tt.err)
					}
				} else {
					var known []Source
					for _, l := range c.Leases() {
						known = append(known, l.Source)
					}
					if !slices.Equal(known, tt.known) || tt.err != "" {
						t.Errorf("got leases of %v, want %v, error %s", known, tt.known, tt.err)
					}
					testenv.Check(t, c.Close())
					testenv.Check(t, c.Close())
				}
				if last := d.log[len(d.log)-1]; last != "close" {
					t.Errorf("the device was not closed: %v", d.log)
				}
			})
		})
	}
}

// TestStartCanceled ends the context of Start.
func TestStartCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c, err := startFake(ctx, newFakeDevice(), &fakeDNS{}, map[Source]source.Run{DHCP4: say(time.Hour, nil)}, "dhcp,ip=10.0.0.1")
		if c != nil || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, %v", c, err)
		}
	})
}

// TestCloseDuringEth ends a client whose interface does not come up.
func TestCloseDuringEth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFakeDevice()
		c, _ := startPuppet(t, d, &fakeDNS{}, Config{DHCP4: true})
		d.noRoute = true
		changed := make(chan error)
		go func() { changed <- c.Change(t.Context(), Config{Eth: true, RD: true}) }()
		synctest.Wait()
		testenv.Check(t, c.Close())
		if err := <-changed; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Change ends with %v, want net.ErrClosed", err)
		}
	})
}

// A puppet is a source in the hands of a test.
type puppet struct {
	started chan *puppet // itself, again after each start
	cfg     source.Config
	sink    source.Sink
	end     chan error // ends it with an error
	onEnd   func()     // called when its context has ended
}

func newPuppet() *puppet {
	return &puppet{started: make(chan *puppet, 1), end: make(chan error), onEnd: func() {}}
}

func (p *puppet) run(ctx context.Context, cfg source.Config, _ source.Link, sink source.Sink) error {
	p.cfg, p.sink = cfg, sink
	p.started <- p
	select {
	case err := <-p.end:
		return err
	case <-ctx.Done():
		p.onEnd()
		return nil
	}
}

// startPuppet starts a client whose DHCPv4 has an address.
func startPuppet(t *testing.T, d *fakeDevice, dns dnsSetter, cfg Config) (*Client, *puppet) {
	t.Helper()
	p := newPuppet()
	go func() { (<-p.started).sink.Set(lease("10.0.0.5/24", "10.0.0.1")) }()
	c, err := startFakeConfig(t.Context(), d, dns, map[Source]source.Run{DHCP4: p.run, RD: say(time.Second, errors.New("no router"))}, cfg)
	testenv.Check(t, err)
	return c, p
}

// TestRenew renews, with and without success.
func TestRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFakeDevice()
		c, p := startPuppet(t, d, &fakeDNS{}, Config{DHCP4: true})
		for _, want := range []error{nil, errors.New("no answer")} {
			go func() {
				if call := <-p.cfg.Calls; call != (source.Call{Renew: true}) {
					t.Errorf("the source is asked for %+v", call)
				}
				if want != nil {
					p.sink.Failed(want)
				} else {
					p.sink.Set(lease("10.0.0.5/24", ""))
				}
			}()
			if err := c.Renew(t.Context()); !errors.Is(err, want) || want != nil && err.Error() != "autoconf: lab/vde0: dhcp4: no answer" {
				t.Errorf("got %v, want %v", err, want)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.Renew(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the end of the context", err)
		}
		// Several calls that are not taken become one.
		d.changes <- change{up: true}
		d.changes <- change{slept: time.Hour}
		d.changes <- change{slept: time.Minute}
		synctest.Wait()
		if call := <-p.cfg.Calls; call != (source.Call{Renew: true, Confirm: true, Slept: time.Hour + time.Minute}) {
			t.Errorf("the source is asked for %+v", call)
		}
		// The source is taken back meanwhile.
		other := make(chan error)
		go func() { other <- c.Renew(t.Context()) }()
		synctest.Wait()
		testenv.Check(t, c.Change(t.Context(), Config{Remove: Remove{DHCP4: true}}))
		if err := <-other; err == nil || err.Error() != "autoconf: lab/vde0: dhcp4: it was taken back" {
			t.Errorf("got %v, want that it was taken back", err)
		}
		go func() { (<-p.started).sink.Set(lease("10.0.0.5/24", "10.0.0.1")) }()
		testenv.Check(t, c.Change(t.Context(), Config{DHCP4: true}))
		closed := make(chan error)
		go func() { closed <- c.Renew(t.Context()) }()
		synctest.Wait()
		testenv.Check(t, c.Close())
		if err := <-closed; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Renew ends with %v, want net.ErrClosed", err)
		}
		for name, err := range map[string]error{"Renew": c.Renew(t.Context()), "Change": c.Change(t.Context(), Config{})} {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s after Close: %v, want net.ErrClosed", name, err)
			}
		}
		if l := c.Leases(); len(l) != 0 || c.ResolvConf() != "" {
			t.Errorf("after Close: leases %v, resolv.conf %q", l, c.ResolvConf())
		}
	})
}

// TestWatch follows a source.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFakeDevice()
		d.taken = []netip.Addr{addr("10.0.0.6")}
		c, p := startPuppet(t, d, &fakeDNS{}, Config{DHCP4: true})
		events := c.Watch(t.Context())
		failed := errors.New("no answer")
		p.sink.Failed(failed)
		conflict := p.sink.Set(lease("10.0.0.6/24", ""))
		if e, ok := errors.AsType[*source.ConflictError](conflict); !ok || !slices.Equal(e.Addrs, d.taken) {
			t.Errorf("an address of another host: %v", conflict)
		}
		p.sink.Set(lease("10.0.0.7/24", ""))
		p.sink.Set(source.Lease{})
		want := []Event{
			{DHCP4, Lease{Source: DHCP4, Addrs: []Addr{{Prefix: prefix("10.0.0.5/24")}}, DNS: []Server{{Addr: addr("10.0.0.1")}}}, failed},
			{DHCP4, Lease{Source: DHCP4}, conflict},
			{DHCP4, Lease{Source: DHCP4, Addrs: []Addr{{Prefix: prefix("10.0.0.7/24")}}}, nil},
			{DHCP4, Lease{Source: DHCP4}, nil},
		}
		next := func(e Event, err error) bool {
			t.Helper()
			if len(want) == 0 || err != nil {
				t.Errorf("got %+v, %v", e, err)
				return false
			}
			if !reflect.DeepEqual(e.Lease, want[0].Lease) || !errors.Is(e.Err, want[0].Err) && e.Err.Error() != want[0].Err.Error() || e.Source != want[0].Source {
				t.Errorf("got %+v\nwant %+v", e, want[0])
			}
			want = want[1:]
			return len(want) > 0
		}
		events(next)
		for _, err := range events {
			if err == nil || errors.Is(err, net.ErrClosed) {
				t.Errorf("ranging again: %v", err)
			}
		}
		// A loop that is too slow.
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		events = c.Watch(ctx)
		for range 2 * maxEvents {
			p.sink.Failed(failed)
		}
		n, lost := 0, 0
		for e, err := range events {
			if errors.Is(err, syscall.ENOBUFS) {
				lost++
			} else if err != nil || e.Err != failed {
				t.Errorf("got %+v, %v", e, err)
			} else if n++; n == maxEvents {
				cancel()
			}
		}
		if lost != 1 || n != maxEvents {
			t.Errorf("%d events, lost %d times", n, lost)
		}
		events = c.Watch(t.Context())
		testenv.Check(t, c.Close())
		for i, events := range []func(func(Event, error) bool){events, c.Watch(t.Context())} {
			n := 0
			for _, err := range events {
				if n++; n > 1 || !errors.Is(err, net.ErrClosed) {
					t.Errorf("%d: after Close: %v, want net.ErrClosed once", i, err)
				}
			}
			if n != 1 {
				t.Errorf("%d: %d elements, want net.ErrClosed", i, n)
			}
		}
	})
}

// TestRestart has a source that ends by itself and is started again when it is called, and later.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFakeDevice()
		c, p := startPuppet(t, d, &fakeDNS{}, Config{DHCP4: true})
		p.sink.Store(json.RawMessage(`{"a":1}`))
		p.end <- errors.New("the socket is gone")
		synctest.Wait()
		if l := c.Leases(); len(l) != 0 {
			t.Errorf("a source that has ended knows %v", l)
		}
		d.changes <- change{up: true}
		again := <-p.started
		again.sink.Set(lease("10.0.0.8/24", ""))
		if string(again.cfg.Stored) != `{"a":1}` {
			t.Errorf("without a store, the source finds %q again", again.cfg.Stored)
		}
		if l := c.Leases(); len(l) != 1 || l[0].Addrs[0].Prefix != prefix("10.0.0.8/24") {
			t.Errorf("it was started again, and knows %v", l)
		}
		for _, want := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute} {
			began := time.Now()
			p.end <- errors.New("too many open files")
			<-p.started
			if took := time.Since(began); took != want {
				t.Errorf("without a call it is started again after %v, want %v", took, want)
			}
		}
		testenv.Check(t, c.Close())
	})
}

// TestChange adds and takes back.
func TestChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFakeDevice()
		c, p := startPuppet(t, d, &fakeDNS{}, Config{DHCP4: true, FQDN: "host.example.org", Release: true})
		ended := 0
		p.onEnd = func() { ended++; time.Sleep(time.Second) }
		if !p.cfg.Release || p.cfg.FQDN != "host.example.org" || p.cfg.Hash == nil || p.cfg.AddrGen != source.AddrNone {
			t.Errorf("the source has %+v", p.cfg)
		}
		change := func(text string) error {
			t.Helper()
			d.log = nil
			cfg, err := Parse(text)
			testenv.Check(t, err)
			return c.Change(t.Context(), cfg)
		}
		known := func(want string) {
			t.Helper()
			var got []string
			for _, l := range c.Leases() {
				s := string(l.Source)
				for _, a := range l.Addrs {
					s += " " + a.Prefix.String()
				}
				for _, r := range l.Routes {
					s += " " + r.Gateway.String()
				}
				for _, d := range l.Search {
					s += " " + d.Name
				}
				got = append(got, s)
			}
			if strings.Join(got, "; ") != want {
				t.Errorf("known: %q, want %q", got, want)
			}
		}
		testenv.Check(t, change("ip=10.1.0.1,ip=fd00::1,gw=10.1.0.9,dns=10.1.0.3,domain=example.org,eth"))
		if !slices.Equal(d.log, []string{"eth ca:17:0a:62:29:2f", "apply static"}) {
			t.Errorf("done: %q", d.log)
		}
		known("static 10.1.0.1/24 fd00::1/64 10.1.0.9 example.org; dhcp4 10.0.0.5/24")
		testenv.Check(t, change("-ip=fd00::1,-domain=example.org,ip=10.1.0.2,ip=10.1.0.1"))
		known("static 10.1.0.1/24 10.1.0.2/24 10.1.0.9; dhcp4 10.0.0.5/24")
		testenv.Check(t, change("-static,-eth"))
		known("dhcp4 10.0.0.5/24")
		if !slices.Equal(d.log, []string{"down", "apply static"}) {
			t.Errorf("done: %q", d.log)
		}
		go func() { (<-p.started).sink.Set(lease("10.0.0.9/24", "")) }()
		testenv.Check(t, change("-dhcp,dhcp,fqdn=other.example.org"))
		known("dhcp4 10.0.0.9/24")
		if ended != 1 || p.cfg.FQDN != "other.example.org" {
			t.Errorf("the source has ended %d times, and has the name %q", ended, p.cfg.FQDN)
		}
		go func() {
			if call := <-p.cfg.Calls; !call.Renew {
				t.Errorf("the source is asked for %+v", call)
			}
			p.sink.Set(lease("10.0.0.10/24", ""))
		}()
		testenv.Check(t, change("dhcp"))
		known("dhcp4 10.0.0.10/24")
		if err := change("rd,slaac"); err == nil || !strings.Contains(err.Error(), "rd: no router") {
			t.Errorf("no router: %v", err)
		}
		testenv.Check(t, change("-all"))
		known("")
		if !slices.Equal(d.log, []string{"apply rd", "follow false", "apply dhcp4", "down", "apply static"}) {
			t.Errorf("done: %q", d.log)
		}
		for text, want := range map[string]string{
			"iface=vde1": "the interface vde1 is another one", "vnl='cmd://ssh SECRET'": "vnl=cmd://ssh …: the stack has its networks already", "ifindex=9": "the interface 9 is another one",
			"dhcp6": "this version does not have it",
		} {
			if err := change(text); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s", text, err, want)
			}
		}
		if err := c.Change(t.Context(), Config{RD: true, SLAAC: "EUI64"}); err == nil || !strings.Contains(err.Error(), `slaac: "EUI64" is not a way to make addresses`) {
			t.Errorf("SLAAC EUI64: %v", err)
		}
		testenv.Check(t, c.Close())
	})
}

// TestNames has the DNS of a stack follow its clients, and its user.
func TestNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &fakeDNS{dns: vdestack.DNS{Ndots: 2}}
		check := func(want string) {
			t.Helper()
			if got := fmt.Sprintf("%v %v", st.DNS().Servers, st.DNS().Search); got != want || st.DNS().Ndots != 2 {
				t.Errorf("got %s, ndots %d, want %s", got, st.DNS().Ndots, want)
			}
		}
		c1, p1 := startPuppet(t, newFakeDevice(), st, Config{DHCP4: true, Domains: []string{"static.example"}})
		check("[10.0.0.1:53] [static.example]")
		l := lease("10.0.0.5/24", "10.0.0.2")
		l.DNS = append(l.DNS, source.Server{Addr: addr("fe80::1")}, source.Server{Addr: addr("127.0.0.1")}, source.Server{Addr: addr("10.0.0.2")})
		l.Search = []source.Domain{{Name: "a.example"}, {Name: "not a name"}, {Name: "a.example"}}
		testenv.Check(t, p1.sink.Set(l))
		check("[10.0.0.2:53 [fe80::1%vde0]:53] [static.example a.example]")
		if got, want := c1.ResolvConf(), "search static.example a.example\nnameserver 10.0.0.2\nnameserver fe80::1%vde0\n"; got != want {
			t.Errorf("resolv.conf is %q, want %q", got, want)
		}
		c2, p2 := startPuppet(t, newFakeDevice(), st, Config{DHCP4: true})
		check("[10.0.0.2:53 [fe80::1%vde0]:53 10.0.0.1:53] [static.example a.example]")
		testenv.Check(t, p1.sink.Set(lease("10.0.0.5/24", "")))
		check("[10.0.0.1:53] [static.example]")
		// The user sets others, and has those for as long as there are some.
		user := vdestack.DNS{Servers: []netip.AddrPort{netip.MustParseAddrPort("10.9.9.9:5353")}, Ndots: 2}
		st.SetDNS(user)
		testenv.Check(t, p2.sink.Set(lease("10.0.0.5/24", "10.0.0.7")))
		check("[10.9.9.9:5353] []")
		st.SetDNS(vdestack.DNS{Search: []string{"user.example"}, Ndots: 2})
		testenv.Check(t, p2.sink.Set(lease("10.0.0.5/24", "10.0.0.8")))
		check("[10.0.0.8:53] [user.example]")
		testenv.Check(t, c2.Close())
		check("[] [user.example]")
		testenv.Check(t, c1.Close())
		check("[] [user.example]")
		if n := len(allNames.by); n != 0 {
			t.Errorf("%d stacks are remembered", n)
		}
	})
}

// TestNamesAtOnce has the user set the DNS at the moment when a lease changes it: it is
// what the user has set, from then on.
func TestNamesAtOnce(t *testing.T) {
	user := vdestack.DNS{Servers: []netip.AddrPort{netip.MustParseAddrPort("10.9.9.9:5353")}, Ndots: 2}
	for _, tt := range []struct {
		name string
		at   func(st *fakeDNS, set func())
	}{
		{"before", func(st *fakeDNS, set func()) { st.swapping = set }},
		{"after", func(st *fakeDNS, set func()) { st.swapped = set }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := &fakeDNS{}
				c, p := startPuppet(t, newFakeDevice(), st, Config{DHCP4: true})
				tt.at(st, func() { st.SetDNS(user) })
				for i := range 3 {
					testenv.Check(t, p.sink.Set(lease("10.0.0.5/24", fmt.Sprintf("10.0.0.%d", i+2))))
					if got := st.DNS(); !reflect.DeepEqual(got, user) {
						t.Errorf("after lease %d the stack has %+v, want %+v", i, got, user)
					}
				}
				testenv.Check(t, c.Close())
				if got := st.DNS(); !reflect.DeepEqual(got, user) {
					t.Errorf("after the end the stack has %+v, want %+v", got, user)
				}
			})
		})
	}
}

// TestStore keeps what sources store, and reports what is bad.
func TestStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "leases")
	cfg := Config{DHCP4: true, Store: DirStore(dir)}
	file := filepath.Join(dir, "lab%2Fvde0%2Fdhcp4.json")
	run := func(f func(c *Client, p *puppet)) {
		t.Helper()
		c, p := startPuppet(t, newFakeDevice(), &fakeDNS{}, cfg)
		f(c, p)
		testenv.Check(t, c.Close())
	}
	run(func(_ *Client, p *puppet) {
		if p.cfg.Stored != nil {
			t.Errorf("stored: %s", p.cfg.Stored)
		}
		p.sink.Store(json.RawMessage(`{"a":0}`))
		p.sink.Store(json.RawMessage(`{"a":1}`))
	})
	run(func(_ *Client, p *puppet) {
		if string(p.cfg.Stored) != `{"a":1}` {
			t.Errorf("stored: %s", p.cfg.Stored)
		}
	})
	i, err := os.Stat(file)
	testenv.Check(t, err)
	if i.Mode() != 0o600 {
		t.Errorf("the file has mode %v", i.Mode())
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
		t.Errorf("left in the directory: %v, %v", list, err)
	}
	for name, spoil := range map[string]func() error{
		"not JSON":        func() error { return os.WriteFile(file, []byte("{"), 0o600) },
		"more than 65536": func() error { return os.WriteFile(file, append([]byte("1"), make([]byte, maxStored)...), 0o600) },
		"is not a file":   func() error { return errors.Join(os.Remove(file), os.Mkdir(file, 0o700)) },
		"too many levels": func() error { return errors.Join(os.Rename(file, file+".else"), os.Symlink(file+".else", file)) },
		"by others":       func() error { return os.Chmod(file, 0o620) },
	} {
		testenv.Check(t, os.RemoveAll(file))
		testenv.Check(t, os.WriteFile(file, []byte("{}"), 0o600))
		testenv.Check(t, spoil())
		if data, err := load(cfg.Store, "lab/vde0/dhcp4"); data != nil || err == nil || !strings.Contains(err.Error(), strings.TrimSpace(name)) {
			t.Errorf("%s: %q, %v", name, data, err)
		}
		run(func(c *Client, p *puppet) {
			if p.cfg.Stored != nil {
				t.Errorf("%s: stored: %s", name, p.cfg.Stored)
			}
		})
	}
	testenv.Check(t, os.RemoveAll(dir))
	testenv.Check(t, os.WriteFile(dir, nil, 0o600))
	run(func(c *Client, p *puppet) {
		events := c.Watch(t.Context())
		p.sink.Store(json.RawMessage(`1`))
		for e, err := range events {
			if err != nil || !errors.Is(e.Err, syscall.ENOTDIR) && !errors.Is(e.Err, fs.ErrExist) {
				t.Errorf("no directory: %+v, %v", e, err)
			}
			break
		}
	})
}
