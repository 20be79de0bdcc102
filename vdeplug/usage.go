package vdeplug

import (
	"fmt"
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
	schemes map[string]Usage
}{schemes: make(map[string]Usage)}

// Describe makes the usage of a scheme known to [UsageOf]. It panics if the scheme is
// described twice.
func Describe(scheme string, u Usage) {
	usages.mu.Lock()
	defer usages.mu.Unlock()
	if _, ok := usages.schemes[scheme]; ok {
		panic(fmt.Sprintf("vdeplug: scheme %q is described twice", scheme))
	}
	usages.schemes[scheme] = u
}

// UsageOf returns the usage of a scheme, and whether it is described.
func UsageOf(scheme string) (Usage, bool) {
	usages.mu.RLock()
	defer usages.mu.RUnlock()
	u, ok := usages.schemes[scheme]
	u.Options = slices.Clone(u.Options)
	return u, ok
}
