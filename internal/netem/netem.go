// Package netem impairs a network: it loses, duplicates, changes, reorders and delays
// frames, and limits their rate. What happens to a frame depends only on the seed and on
// the number of the frame.
package netem

import (
	"fmt"
	"time"
)

// Limits of the settings.
const (
	MaxDelay = time.Hour
	MaxRate  = 1e12 // bits a second
	// MaxQueue is the number of bytes that a direction holds at most.
	MaxQueue = 64 << 20

	// defaultQueue is four packets of the kernel's TCP.
	defaultQueue = 256 << 10
)

// Settings are those of a network: see vdeplug.Emulation.
type Settings struct {
	Out, In Impairment
	Seed    uint64
}

// An Impairment has the settings of one direction: see vdeplug.Impairment.
type Impairment struct {
	Loss, Duplicate, Corrupt, Reorder float64 // fractions of the frames, from 0 to 1
	Delay, Jitter                     time.Duration
	Rate                              int64 // bits a second; 0: no limit
	Queue                             int   // bytes waiting for the rate; 0: defaultQueue
}

// Counts has the counters of one direction: see vdeplug.EmulationCounts.
type Counts struct {
	Frames, Lost, Duplicated, Corrupted, Reordered, Dropped uint64
}

// Check returns an error that names an invalid field.
func (s *Settings) Check() error {
	if err := s.Out.check("Out"); err != nil {
		return err
	}
	return s.In.check("In")
}

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
	case i.Delay < 0 || i.Delay > MaxDelay:
		return fmt.Errorf("%s.Delay %v: must be from 0 to %v", direction, i.Delay, MaxDelay)
	case i.Jitter < 0 || i.Jitter > MaxDelay:
		return fmt.Errorf("%s.Jitter %v: must be from 0 to %v", direction, i.Jitter, MaxDelay)
	case i.Rate < 0 || i.Rate > MaxRate:
		return fmt.Errorf("%s.Rate %d: must be from 0 to %d bits a second", direction, i.Rate, int64(MaxRate))
	case i.Queue < 0 || i.Queue > MaxQueue:
		return fmt.Errorf("%s.Queue %d: must be from 0 to %d bytes", direction, i.Queue, MaxQueue)
	}
	return nil
}

// delayOnly reports whether at most a delay is set, so that packets need not be cut into
// frames.
func (i *Impairment) delayOnly() bool {
	j := *i
	j.Delay, j.Queue = 0, 0
	return j == Impairment{}
}

// isZero reports whether nothing is impaired.
func (i *Impairment) isZero() bool { return i.delayOnly() && i.Delay == 0 }
