package vdeplug

import (
	"fmt"
	"io"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/netem"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

func TestParseNetemu(t *testing.T) {
	ms := time.Millisecond
	testParses(t, parseNetemu, Emulation{}, []parseTest[Emulation]{
		{in: "netemu://"},
		{in: "netemu://{vde:///run/sw}", inner: "vde:///run/sw"},
		{in: "netemu://loss=1%/delay=20ms{vlan://3{mem://}}", inner: "vlan://3{mem://}",
			set: is(Emulation{Out: Impairment{Loss: .01, Delay: 20 * ms}, In: Impairment{Loss: .01, Delay: 20 * ms}})},
		{in: "netemu:///loss-out=12.5%/delay-in=1.5s/seed=7", set: is(Emulation{Out: Impairment{Loss: .125}, In: Impairment{Delay: 1500 * ms}, Seed: 7})},
		{in: "netemu://jitter-in=3ms/jitter=5ms/jitter-out=0s", set: is(Emulation{In: Impairment{Jitter: 3 * ms}})},
		{in: "netemu://rate=10mbit/queue=64k/rate-in=9600bit/queue-in=1", set: is(Emulation{Out: Impairment{Rate: 10e6, Queue: 64 << 10}, In: Impairment{Rate: 9600, Queue: 1}})},
		{in: "netemu://rate=1.5gbit/queue=64m/rate-out=0.5kbit", set: is(Emulation{Out: Impairment{Rate: 500, Queue: 64 << 20}, In: Impairment{Rate: 15e8, Queue: 64 << 20}})},
		{in: "netemu://duplicate=1%/corrupt=2%/reorder=100%", set: is(Emulation{
			Out: Impairment{Duplicate: .01, Corrupt: .02, Reorder: 1}, In: Impairment{Duplicate: .01, Corrupt: .02, Reorder: 1}})},
		{in: "netemu://loss=50%25", set: is(Emulation{Out: Impairment{Loss: .5}, In: Impairment{Loss: .5}})},

		{in: "netemu://los=1%", err: `netemu option "los=1%": unknown (have corrupt, corrupt-in, corrupt-out, delay, `},
		{in: "netemu://lab/loss=1%", err: `netemu option "lab": unknown`},
		{in: "netemu://=1%", err: `netemu option "=1%": no name before "="`},
		{in: "netemu://loss-both=1%", err: `netemu option "loss-both=1%": unknown`},
		{in: "netemu://loss", err: `netemu option "loss": must be a percentage from 0% to 100%`},
		{in: "netemu://loss=1", err: `netemu option "loss=1": must be a percentage`},
		{in: "netemu://loss=101%", err: `netemu option "loss=101%": must be a percentage`},
		{in: "netemu://loss-in=1e1%", err: `netemu option "loss-in=1e1%": must be a percentage`},
		{in: "netemu://loss=-1%", err: `must be a percentage`},
		{in: "netemu://loss=1.2.3%", err: `must be a percentage`},
		{in: "netemu://loss=1%/loss=2%", err: `netemu option "loss=2%": already set by "loss=1%"`},
		{in: "netemu://delay=20", err: `netemu option "delay=20": must be a duration from 0s to 1h, as 20ms or 1.5s`},
		{in: "netemu://delay=-1ms", err: `must be a duration`},
		{in: "netemu://jitter-out=61m", err: `netemu option "jitter-out=61m": must be a duration`},
		{in: "netemu://rate=10", err: `netemu option "rate=10": must be a number with bit, kbit, mbit or gbit, from 1bit to 1000gbit a second`},
		{in: "netemu://rate=10Mbit", err: `must be a number with bit`},
		{in: "netemu://rate=0bit", err: `must be a number with bit`},
		{in: "netemu://rate=1001gbit", err: `must be a number with bit`},
		{in: "netemu://queue=0", err: `netemu option "queue=0": must be a number of bytes, or one with k or m, from 1 to 64m`},
		{in: "netemu://queue=65m", err: `must be a number of bytes`},
		{in: "netemu://queue=1.5k", err: `must be a number of bytes`},
		{in: "netemu://queue=4294967297k", err: `must be a number of bytes`},
		{in: "netemu://seed=0", err: `netemu option "seed=0": must be a number from 1 to 18446744073709551615`},
		{in: "netemu://seed=-1", err: `must be a number from 1`},
		{in: "netemu://{a}b", err: `text after "}"`},
	})
}

func TestSetEmulation(t *testing.T) {
	c := openPlug(t, "netemu://loss=1%/seed=7{null://}")
	defer c.Close()
	e := FindEmulator(c)
	before := e.Emulation()
	if before.Seed != 7 || before.Out.Loss != .01 || before.In.Loss != .01 {
		t.Errorf("got %+v", before)
	}
	for text, bad := range map[string]Emulation{
		"netemu: Out.Loss 1.5: must be from 0 to 1":                          {Out: Impairment{Loss: 1.5}},
		"netemu: In.Corrupt NaN: must be from 0 to 1":                        {In: Impairment{Corrupt: math.NaN()}},
		"netemu: Out.Duplicate -1: must be from 0 to 1":                      {Out: Impairment{Duplicate: -1}},
		"netemu: In.Reorder +Inf: must be from 0 to 1":                       {In: Impairment{Reorder: math.Inf(1)}},
		"netemu: In.Delay -1ns: must be from 0 to 1h0m0s":                    {In: Impairment{Delay: -1}},
		"netemu: In.Jitter 1h0m0.000000001s: must be from 0 to 1h0m0s":       {In: Impairment{Jitter: time.Hour + 1}},
		"netemu: Out.Rate -1: must be from 0 to 1000000000000 bits a second": {Out: Impairment{Rate: -1}},
		"netemu: Out.Queue 67108865: must be from 0 to 67108864 bytes":       {Out: Impairment{Queue: netem.MaxQueue + 1}},
	} {
		plugtest.WantError(t, e.SetEmulation(bad), text)
	}
	if got := e.Emulation(); got != before {
		t.Errorf("an error changed %+v to %+v", before, got)
	}
	testenv.Check(t, e.SetEmulation(Emulation{}))
	if got := e.Emulation(); got != (Emulation{Seed: 7}) {
		t.Errorf("got %+v, want the seed that it had", got)
	}
}

func TestFindEmulator(t *testing.T) {
	for vnl, want := range map[string]time.Duration{
		"netemu://delay=1ms{mem://f}":                               time.Millisecond,
		"vlan://4{vlan://5{netemu://delay=2ms{mem://f}}}":           2 * time.Millisecond,
		"netemu://delay=3ms{netemu://delay=4ms{vlan://4{mem://f}}}": 3 * time.Millisecond,
		"vlan://4{mem://f}":                                         0,
		"mem://f":                                                   0,
	} {
		c := openPlug(t, vnl)
		if e := FindEmulator(c); (e != nil) != (want != 0) || e != nil && e.Emulation().In.Delay != want {
			t.Errorf("%s: got %v", vnl, e)
		}
		c.Close()
	}
	if FindEmulator(nil) != nil {
		t.Error("nil has an emulator")
	}
	// The seed is random, so each plug has another one.
	a, b := openPlug(t, "netemu://{null://}"), openPlug(t, "netemu://{null://}")
	defer a.Close()
	defer b.Close()
	if s, r := FindEmulator(a).Emulation().Seed, FindEmulator(b).Emulation().Seed; s == 0 || r == 0 || s == r {
		t.Errorf("seeds %d and %d", s, r)
	}
}

// TestNetemuErrors ends the network inside: the plug reports it.
func TestNetemuErrors(t *testing.T) {
	for _, options := range []string{"", "delay=1h", "delay=5ms", "loss=100%"} {
		t.Run(options, func(t *testing.T) {
			testenv.NoLeaks(t)
			peer := registerStream(t)
			vnl := "netemu://" + options + "{nestedtest://}"
			in := openInbox(t, vnl)
			peer.Close()
			err := in.WantEnd(t)
			plugtest.WantError(t, err, fmt.Sprintf("vdeplug: recv %q: the peer has ended the stream", vnl), io.EOF)
		})
	}
	// A sender gets an error too, but later.
	peer := registerStream(t)
	c := openPlug(t, "netemu://delay=1ms{nestedtest://}")
	defer c.Close()
	peer.Close()
	var err error
	testenv.Eventually(t, "an error", func() bool {
		err = c.Send(plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 60))
		return err != nil
	})
	plugtest.WantError(t, err, `vdeplug: send "netemu://delay=1ms{nestedtest://}": `)
}

// TestNetemuAllocs sends and receives without allocating.
func TestNetemuAllocs(t *testing.T) {
	for _, options := range []string{"", "loss=1%/duplicate=1%/corrupt=1%/reorder=1%", "delay=1us", "rate=100gbit"} {
		for _, name := range []string{"out", "in"} {
			from, to := openPlug(t, "netemu://"+options+"{mem://"+t.Name()+"}"), openPlug(t, "mem://"+t.Name())
			if name == "in" {
				from, to = to, from
			}
			frame := plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 1000)
			var all sync.WaitGroup
			all.Go(func() { plugtest.Drain(to) })
			allocs := testing.AllocsPerRun(2000, func() { from.Send(frame) })
			if allocs > 0 && !testenv.Race { // which empties pools
				t.Errorf("%q, %s: %.1f allocations a frame", options, name, allocs)
			}
			from.Close()
			to.Close()
			all.Wait()
		}
	}
}

// FuzzNetemu checks that the options of accepted locators are valid settings.
func FuzzNetemu(f *testing.F) {
	for _, vnl := range []string{
		"netemu://loss=1%/delay=20ms{mem://}", "netemu:///loss-in=0.05%/jitter-out=1h/duplicate=100%", "netemu://rate=1.5gbit/queue=64m/seed=18446744073709551615",
		"netemu://corrupt=1%25/reorder='1%'", "netemu://rate=.bit", "netemu://loss=NaN%", "netemu://delay=9e9h",
	} {
		f.Add(vnl)
	}
	f.Fuzz(func(t *testing.T, vnl string) {
		l, err := parse(vnl)
		if err != nil {
			return
		}
		e, _, err := parseNetemu(l)
		if err == nil {
			settings := e.settings()
			if err := settings.Check(); err != nil {
				t.Errorf("%q: %v", vnl, err)
			}
		}
	})
}
