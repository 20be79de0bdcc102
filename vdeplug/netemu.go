package vdeplug

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vdestack/vdestack/internal/netem"
	"github.com/vdestack/vdestack/internal/packet"
)

func init() {
	u := Usage{
		Form:    "netemu://[OPTIONS]{NETWORK}",
		About:   "another network, impaired: delay, jitter, loss, rate, duplicates, disorder and errors, each way",
		Options: []OptionUsage{{Name: "seed", Value: "NUMBER", About: "which frames are meant, in both directions; random"}},
	}
	for _, o := range []OptionUsage{
		{Name: "loss", Value: "PERCENT", Default: "0%", About: "frames that are lost"},
		{Name: "duplicate", Value: "PERCENT", Default: "0%", About: "frames that come twice"},
		{Name: "corrupt", Value: "PERCENT", Default: "0%", About: "frames in which a bit is changed"},
		{Name: "reorder", Value: "PERCENT", Default: "0%", About: "frames that come after the next"},
		{Name: "delay", Value: "TIME", Default: "0s", About: "how long each takes"},
		{Name: "jitter", Value: "TIME", Default: "0s", About: "how much longer at most"},
		{Name: "rate", Value: "RATE", About: "bits a second, with bit, kbit, mbit or gbit"},
		{Name: "queue", Value: "BYTES", Default: "256k", About: "what waits for the rate, also with k or m"},
	} {
		o.Aliases = []string{o.Name + "-out", o.Name + "-in"}
		u.Options = append(u.Options, o)
	}
	Register(Scheme{
		Name:  "netemu",
		Open:  plugsOn(openNetemu),
		Usage: u,
	})
}

// openNetemu impairs a network. Braces are required, so that a forgotten network is an
// error and not the default network.
func openNetemu(ctx context.Context, l Locator, o *Options) (packet.Transport, error) {
	e, vnl, err := parseNetemu(l)
	if err != nil {
		return nil, err
	}
	if p, _, _ := l.cutInner(); !p.HasInner { // no C program has this scheme, and relies on a default
		return nil, fmt.Errorf("no inner network: write it between braces at the end, as %s{mem://lab}; {} is your default network", l)
	}
	inner, err := openInner(ctx, vnl, o)
	if err != nil {
		return nil, err
	}
	return netem.New(inner, e.settings()), nil
}

// An Emulation says how a network of the scheme netemu is impaired. The zero Emulation
// changes nothing.
type Emulation struct {
	// Out is for frames that the plug sends, In for frames that it receives.
	Out, In Impairment
	// Seed decides which frames are lost, duplicated, changed or held back, and the
	// jitter of each. The same seed means the same frames of each direction, counted
	// from the first. 0 means a random seed.
	Seed uint64
}

// An Impairment says what happens to the frames of one direction. Frames keep their
// order, except for Reorder: a frame that is delayed delays those behind it.
//
// Packets of the kernel's TCP are cut into frames first, unless there is only a Delay.
type Impairment struct {
	// Loss is the fraction of the frames that is lost, from 0 to 1.
	Loss float64
	// Duplicate is the fraction that arrives twice.
	Duplicate float64
	// Corrupt is the fraction in which one bit after the Ethernet header is changed.
	Corrupt float64
	// Reorder is the fraction that is held back until the next frame has passed, for
	// 10 ms at most. One frame at a time is held back.
	Reorder float64

	// Delay is how long each frame takes, an hour at most.
	Delay time.Duration
	// Jitter is the longest additional delay, an hour at most. The delay of each
	// frame is random, evenly distributed.
	Jitter time.Duration

	// Rate is how many bits of frames pass in a second. 0 means no limit.
	Rate int64
	// Queue is how many bytes of frames wait for the Rate. Frames that do not fit are
	// dropped. 0 means 256 KiB. It is at most 64 MiB, which also limits the frames in
	// flight on a network with a Delay.
	Queue int
}

// An Emulator controls a network of the scheme netemu while it is in use. Its methods
// may be called from several goroutines at once.
type Emulator struct{ net *netem.Transport }

// FindEmulator returns the Emulator of the outermost network of the scheme netemu that the
// plug is on. It returns nil if there is none.
func FindEmulator(c Conn) *Emulator {
	if net, ok := packet.Find[*netem.Transport](transportOf(c)); ok {
		return &Emulator{net}
	}
	return nil
}

// Emulation returns how the network is impaired, with the seed that is in use.
func (e *Emulator) Emulation() Emulation {
	s := e.net.Settings()
	return Emulation{Out: Impairment(s.Out), In: Impairment(s.In), Seed: s.Seed}
}

// SetEmulation changes how the network is impaired. Frames in flight get the new times, and
// keep their order. A Seed that is not the one in use starts again; 0 keeps the one in use.
// An error names the wrong field, and changes nothing.
func (e *Emulator) SetEmulation(to Emulation) error {
	if err := e.net.Set(to.settings()); err != nil {
		return fmt.Errorf("netemu: %w", err)
	}
	return nil
}

func (e Emulation) settings() netem.Settings {
	return netem.Settings{Out: netem.Impairment(e.Out), In: netem.Impairment(e.In), Seed: e.Seed}
}

// EmulationCounts counts frames of one direction.
type EmulationCounts struct {
	Frames     uint64 // all, while there was an impairment
	Lost       uint64
	Duplicated uint64
	Corrupted  uint64
	Reordered  uint64 // held back
	Dropped    uint64 // did not fit into the queue; the plug's Drops include them
}

// Counts returns the counts of frames that were sent and received.
func (e *Emulator) Counts() (out, in EmulationCounts) {
	o, i := e.net.Counts()
	return EmulationCounts(o), EmulationCounts(i)
}

// parseNetemu reads a locator.
func parseNetemu(l Locator) (e Emulation, inner string, err error) {
	t, err := l.ParseSlashed()
	if err != nil {
		return e, "", err
	}
	inner, t.HasInner = t.Inner, false
	if t.Addr != "" { // the first option
		var p Option
		if p.Name, p.Value, p.HasValue = strings.Cut(t.Addr, "="); p.Name == "" {
			return e, "", fmt.Errorf(`netemu option %q: no name before "="`, t.Addr)
		}
		t.Options = slices.Insert(t.Options, 0, p)
	}
	allowed := map[string]func(string, bool) error{
		"seed": func(v string, _ bool) (err error) {
			if e.Seed, err = strconv.ParseUint(v, 10, 64); err != nil || e.Seed == 0 {
				return fmt.Errorf("must be a number from 1 to %d", uint64(math.MaxUint64))
			}
			return nil
		},
	}
	in := e.In.options()
	for name, setOut := range e.Out.options() {
		setIn := in[name]
		allowed[name] = func(v string, has bool) error { return cmp.Or(setOut(v, has), setIn(v, has)) }
		allowed[name+"-out"], allowed[name+"-in"] = setOut, setIn
	}
	// Options of one direction take precedence, wherever they are.
	slices.SortStableFunc(t.Options, func(a, b Option) int {
		return strings.Count(a.Name, "-") - strings.Count(b.Name, "-")
	})
	return e, inner, t.Apply(allowed)
}

// options returns what sets the fields of a direction.
func (i *Impairment) options() map[string]func(string, bool) error {
	return map[string]func(string, bool) error{
		"loss":      percentOption(&i.Loss),
		"duplicate": percentOption(&i.Duplicate),
		"corrupt":   percentOption(&i.Corrupt),
		"reorder":   percentOption(&i.Reorder),
		"delay":     delayOption(&i.Delay),
		"jitter":    delayOption(&i.Jitter),
		"rate": func(v string, _ bool) error {
			number, unit := splitUnit(v)
			bits, ok := map[string]float64{"bit": 1, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9}[unit]
			n, err := parseDecimal(number)
			if n = math.Round(n * bits); !ok || err != nil || n < 1 || n > netem.MaxRate {
				return errors.New("must be a number with bit, kbit, mbit or gbit, from 1bit to 1000gbit a second")
			}
			i.Rate = int64(n)
			return nil
		},
		"queue": func(v string, _ bool) error {
			number, unit := splitUnit(v)
			bytes, ok := map[string]int{"": 1, "k": 1 << 10, "m": 1 << 20}[unit]
			n, err := strconv.ParseUint(number, 10, 32)
			if !ok || err != nil || n < 1 || n > uint64(netem.MaxQueue/bytes) {
				return fmt.Errorf("must be a number of bytes, or one with k or m, from 1 to %dm", netem.MaxQueue>>20)
			}
			i.Queue = int(n) * bytes
			return nil
		},
	}
}

// splitUnit cuts a value after its number.
func splitUnit(v string) (number, unit string) {
	unit = strings.TrimLeft(v, "0123456789.")
	return v[:len(v)-len(unit)], unit
}

// parseDecimal reads digits, with or without a point.
func parseDecimal(s string) (float64, error) {
	if s == "" || strings.Trim(s, "0123456789.") != "" {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseFloat(s, 64)
}

func percentOption(p *float64) func(string, bool) error {
	return func(v string, _ bool) error {
		number, ok := strings.CutSuffix(v, "%")
		n, err := parseDecimal(number)
		if !ok || err != nil || n > 100 {
			return errors.New("must be a percentage from 0% to 100%, as 1% or 0.05%")
		}
		*p = n / 100
		return nil
	}
}

func delayOption(p *time.Duration) func(string, bool) error {
	return func(v string, _ bool) error {
		d, err := time.ParseDuration(v)
		if err != nil || d < 0 || d > netem.MaxDelay {
			return errors.New("must be a duration from 0s to 1h, as 20ms or 1.5s")
		}
		*p = d
		return nil
	}
}
