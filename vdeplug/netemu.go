package vdeplug

import (
	"context"
	"errors"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vdestack/vdestack/internal/packet"
)

func init() {
	Register("netemu", openNetemu)
	u := Usage{
		Form:    "netemu://[OPTIONS]{NETWORK}",
		About:   "another network, impaired",
		Options: []Option{{Name: "seed", Value: "NUMBER", About: "which frames are meant, in both directions; random"}},
	}
	for _, o := range []Option{
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
	Describe("netemu", u)
}

// openNetemu impairs a network:
//
//	netemu://option=value/option=value{network}
//
// The braces must be there: who has forgotten the network would be on another one.
//
// Options are for both directions; with "-out" or "-in" behind the name they are
// for the frames that the plug sends, or receives, and count more.
//
//   - loss, duplicate, corrupt and reorder are percentages of the frames, as 1% or
//     0.05%
//   - delay and jitter are durations, as 20ms or 1.5s, an hour at most
//   - rate is in bits a second: a number with bit, kbit, mbit or gbit
//   - queue is in bytes, or with k or m in 1024 or 1024² bytes, 64m at most
//   - seed, of both directions, is a number from 1 to 2⁶⁴-1
//
// The fields of [Impairment] and [Emulation] say what they do. [FindEmulator]
// gives what changes them while the plug is in use.
func openNetemu(ctx context.Context, l Locator, o *Options) (Conn, error) {
	e, vnl, err := parseNetemu(l)
	if err != nil {
		return nil, err
	}
	if !l.hasInner() { // a scheme of our own: nobody relies on what C makes of that
		return nil, fmt.Errorf("no inner network: write it between braces at the end, as %s{mem://lab}; {} is your default network", l)
	}
	inner, err := openInner(ctx, vnl, o)
	if err != nil {
		return nil, err
	}
	return newPlug(l.String(), newEmuConn(inner, e)), nil
}

// An Emulation says how a network is impaired. The zero Emulation changes nothing.
type Emulation struct {
	// Out is for the frames that the plug sends, In for those that it receives.
	Out, In Impairment
	// Seed decides which frames are lost, duplicated, changed or held back, and
	// how jitter is distributed: with the same seed it is the same frames of each
	// direction, counted from the first. 0 means a random seed.
	Seed uint64
}

// An Impairment is what is done to the frames of one direction. Frames keep their
// order but for Reorder: one that is delayed delays those behind it.
//
// What the kernel's TCP hands over as one packet is cut into frames first, unless
// there is nothing but a Delay.
type Impairment struct {
	// Loss is the part of the frames that is lost, from 0 to 1.
	Loss float64
	// Duplicate is the part that comes twice.
	Duplicate float64
	// Corrupt is the part in which one bit behind the Ethernet header is changed.
	Corrupt float64
	// Reorder is the part that is held back until the next frame has passed, for
	// 10 ms at most. No more than one is at any time.
	Reorder float64

	// Delay is how long each frame takes, an hour at most.
	Delay time.Duration
	// Jitter is how much longer it takes at most, an hour at most: a random time,
	// evenly distributed.
	Jitter time.Duration

	// Rate is how many bits of frames pass in a second. 0 means any number.
	Rate int64
	// Queue is how many bytes of frames wait for the Rate; what does not fit is
	// dropped. 0 means 256 KiB. It is at most 64 MiB, which is also how much of a
	// network with a Delay is on its way; more is dropped, too.
	Queue int
}

const (
	maxEmuDelay = time.Hour
	maxEmuRate  = 1e12 // bits a second
	// emuQueueBytes is the default queue: four packets of the kernel's TCP.
	emuQueueBytes = 256 << 10
	// emuMemory bounds what a direction holds.
	emuMemory = 64 << 20
)

// check names the field that is wrong of a direction.
func (i *Impairment) check(direction string) error {
	for _, p := range []struct {
		name  string
		value float64
	}{{"Loss", i.Loss}, {"Duplicate", i.Duplicate}, {"Corrupt", i.Corrupt}, {"Reorder", i.Reorder}} {
		if !(p.value >= 0 && p.value <= 1) { // nor NaN
			return fmt.Errorf("%s.%s %v: must be from 0 to 1", direction, p.name, p.value)
		}
	}
	switch {
	case i.Delay < 0 || i.Delay > maxEmuDelay:
		return fmt.Errorf("%s.Delay %v: must be from 0 to %v", direction, i.Delay, maxEmuDelay)
	case i.Jitter < 0 || i.Jitter > maxEmuDelay:
		return fmt.Errorf("%s.Jitter %v: must be from 0 to %v", direction, i.Jitter, maxEmuDelay)
	case i.Rate < 0 || i.Rate > maxEmuRate:
		return fmt.Errorf("%s.Rate %d: must be from 0 to %d bits a second", direction, i.Rate, int64(maxEmuRate))
	case i.Queue < 0 || i.Queue > emuMemory:
		return fmt.Errorf("%s.Queue %d: must be from 0 to %d bytes", direction, i.Queue, emuMemory)
	}
	return nil
}

// whole reports that there is nothing to do to single frames.
func (i *Impairment) whole() bool {
	j := *i
	j.Delay, j.Queue = 0, 0
	return j == Impairment{}
}

func (i *Impairment) none() bool { return i.whole() && i.Delay == 0 }

// An Emulator changes how a network of the scheme netemu is impaired, while it is
// in use. Its methods may be called from several goroutines at once.
type Emulator struct {
	start   time.Time
	out, in emuLine

	mu   sync.Mutex // guards what follows; held while a setting changes
	seed uint64
}

// FindEmulator returns the Emulator of a plug on a network of the scheme netemu,
// or of the first such network that it is nested on. It returns nil if there is
// none.
func FindEmulator(c Conn) *Emulator {
	if e, ok := packet.Find[*emuConn](transportOf(c)); ok {
		return e.emu
	}
	return nil
}

// Emulation returns how the network is impaired, with the seed that is in use.
func (e *Emulator) Emulation() Emulation {
	e.mu.Lock()
	defer e.mu.Unlock()
	return Emulation{Out: e.out.impairment(), In: e.in.impairment(), Seed: e.seed}
}

// SetEmulation impairs the network as it is told from now on. Frames that are on
// their way get the new times, and keep their order. A seed that is not the one in
// use begins anew; 0 goes on with that. An error names the field that is wrong, and
// changes nothing.
func (e *Emulator) SetEmulation(to Emulation) error {
	if err := to.check(); err != nil {
		return fmt.Errorf("netemu: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	anew := to.Seed != 0 && to.Seed != e.seed
	if anew {
		e.seed = to.Seed
	}
	e.out.set(to.Out, anew, e.seed, 1)
	e.in.set(to.In, anew, e.seed, 2)
	return nil
}

func (e *Emulation) check() error {
	if err := e.Out.check("Out"); err != nil {
		return err
	}
	return e.In.check("In")
}

// EmulationCounts are what was done to the frames of one direction.
type EmulationCounts struct {
	Frames     uint64 // that came, while there was an impairment
	Lost       uint64
	Duplicated uint64
	Corrupted  uint64
	Reordered  uint64 // held back
	Dropped    uint64 // did not fit in the queue; these are among the plug's Drops too
}

// Counts returns what was done to the frames that were sent and received.
func (e *Emulator) Counts() (out, in EmulationCounts) {
	return e.out.count(), e.in.count()
}

// parseNetemu reads a locator.
func parseNetemu(l Locator) (e Emulation, inner string, err error) {
	t, err := l.Slashed()
	if err != nil {
		return e, "", err
	}
	inner, t.HasInner = t.Inner, false
	if t.Addr != "" { // there is no address, but options only
		var p Param
		if p.Name, p.Value, p.HasValue = strings.Cut(t.Addr, "="); p.Name == "" {
			return e, "", fmt.Errorf(`netemu option %q: no name before "="`, t.Addr)
		}
		t.Params = slices.Insert(t.Params, 0, p)
	}
	allowed := map[string]func(string, bool) error{
		"seed": func(v string, _ bool) (err error) {
			if e.Seed, err = strconv.ParseUint(v, 10, 64); err != nil || e.Seed == 0 {
				return fmt.Errorf("must be a number from 1 to %d", uint64(math.MaxUint64))
			}
			return nil
		},
	}
	for name, set := range netemuOptions {
		allowed[name] = func(v string, _ bool) error {
			if err := set(&e.Out, v); err != nil {
				return err
			}
			return set(&e.In, v)
		}
		allowed[name+"-out"] = func(v string, _ bool) error { return set(&e.Out, v) }
		allowed[name+"-in"] = func(v string, _ bool) error { return set(&e.In, v) }
	}
	// Those of one direction count more, wherever they are.
	slices.SortStableFunc(t.Params, func(a, b Param) int {
		return strings.Count(a.Name, "-") - strings.Count(b.Name, "-")
	})
	return e, inner, t.Options(allowed)
}

// netemuOptions are what can be said of each direction.
var netemuOptions = map[string]func(*Impairment, string) error{
	"loss":      percentOption(func(i *Impairment) *float64 { return &i.Loss }),
	"duplicate": percentOption(func(i *Impairment) *float64 { return &i.Duplicate }),
	"corrupt":   percentOption(func(i *Impairment) *float64 { return &i.Corrupt }),
	"reorder":   percentOption(func(i *Impairment) *float64 { return &i.Reorder }),
	"delay":     delayOption(func(i *Impairment) *time.Duration { return &i.Delay }),
	"jitter":    delayOption(func(i *Impairment) *time.Duration { return &i.Jitter }),
	"rate": func(i *Impairment, v string) error {
		number, unit := splitUnit(v)
		bits, ok := map[string]float64{"bit": 1, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9}[unit]
		n, err := parseDecimal(number)
		if n = math.Round(n * bits); !ok || err != nil || n < 1 || n > maxEmuRate {
			return errors.New("must be a number with bit, kbit, mbit or gbit, from 1bit to 1000gbit a second")
		}
		i.Rate = int64(n)
		return nil
	},
	"queue": func(i *Impairment, v string) error {
		number, unit := splitUnit(v)
		bytes, ok := map[string]int{"": 1, "k": 1 << 10, "m": 1 << 20}[unit]
		n, err := strconv.ParseUint(number, 10, 32)
		if !ok || err != nil || n < 1 || n > uint64(emuMemory/bytes) {
			return fmt.Errorf("must be a number of bytes, or one with k or m, from 1 to %dm", emuMemory>>20)
		}
		i.Queue = int(n) * bytes
		return nil
	},
}

// splitUnit cuts a value behind its number.
func splitUnit(v string) (number, unit string) {
	unit = strings.TrimLeft(v, "0123456789.")
	return v[:len(v)-len(unit)], unit
}

// parseDecimal reads digits, with a point or without.
func parseDecimal(s string) (float64, error) {
	if s == "" || strings.Trim(s, "0123456789.") != "" {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseFloat(s, 64)
}

func percentOption(field func(*Impairment) *float64) func(*Impairment, string) error {
	return func(i *Impairment, v string) error {
		number, ok := strings.CutSuffix(v, "%")
		n, err := parseDecimal(number)
		if !ok || err != nil || n > 100 {
			return errors.New("must be a percentage from 0% to 100%, as 1% or 0.05%")
		}
		*field(i) = n / 100
		return nil
	}
}

func delayOption(field func(*Impairment) *time.Duration) func(*Impairment, string) error {
	return func(i *Impairment, v string) error {
		d, err := time.ParseDuration(v)
		if err != nil || d < 0 || d > maxEmuDelay {
			return errors.New("must be a duration from 0s to 1h, as 20ms or 1.5s")
		}
		*field(i) = d
		return nil
	}
}

// newEmulator returns an Emulator that has not begun.
func newEmulator(e Emulation) *Emulator {
	m := &Emulator{start: time.Now(), seed: e.Seed}
	for m.seed == 0 {
		m.seed = mathrand.Uint64()
	}
	m.out.init(m.start)
	m.in.init(m.start)
	m.out.set(e.Out, true, m.seed, 1)
	m.in.set(e.In, true, m.seed, 2)
	return m
}
