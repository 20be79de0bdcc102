package vdeplug

import (
	"fmt"
	"maps"
	"slices"
	"sync"
)

// A Usage says how the locators of a scheme are written, for people who write
// them.
type Usage struct {
	// Form is the locator with its parts in capitals, and what may be missing
	// between brackets that are no part of it.
	Form string
	// About says which network it is.
	About string
	// Options are all that the scheme has.
	Options []Option
}

// An Option is one of a scheme.
type Option struct {
	// Name is what is written; empty for a word that is a value by itself.
	Name string
	// Aliases are other names of it.
	Aliases []string
	// Value is what follows "=", in capitals; empty if there is nothing to follow.
	Value string
	// Default is the value without the option, as it is written; empty if that
	// cannot be.
	Default string
	// About says what the option is for.
	About string
}

var usages = struct {
	mu      sync.RWMutex // guards schemes
	schemes map[string]*described
}{schemes: make(map[string]*described)}

type described struct {
	Usage
	names []string // of all options, in order
}

// Describe makes the usage of a scheme known to [UsageOf]. From then on
// [Target.Options] holds the scheme's plug to it: the options that the plug reads
// are those that are described. Describe panics if the scheme is described twice.
func Describe(scheme string, u Usage) {
	d := &described{Usage: u}
	for _, o := range u.Options {
		d.names = append(append(d.names, o.Name), o.Aliases...)
	}
	slices.Sort(d.names)
	usages.mu.Lock()
	defer usages.mu.Unlock()
	if _, ok := usages.schemes[scheme]; ok {
		panic(fmt.Sprintf("vdeplug: scheme %q is described twice", scheme))
	}
	usages.schemes[scheme] = d
}

// UsageOf returns the usage of a scheme, and whether it is described.
func UsageOf(scheme string) (Usage, bool) {
	usages.mu.RLock()
	defer usages.mu.RUnlock()
	d, ok := usages.schemes[scheme]
	if !ok {
		return Usage{}, false
	}
	u := d.Usage
	u.Options = slices.Clone(u.Options)
	return u, true
}

// checkUsage refuses to read options that are others than those described: it is
// a mistake of the plug.
func checkUsage(scheme string, allowed map[string]func(string, bool) error) error {
	usages.mu.RLock()
	d := usages.schemes[scheme]
	usages.mu.RUnlock()
	if d == nil {
		return nil
	}
	if names := slices.Sorted(maps.Keys(allowed)); !slices.Equal(names, d.names) {
		return fmt.Errorf("%s: the plug has the options %q and describes %q", scheme, names, d.names)
	}
	return nil
}
