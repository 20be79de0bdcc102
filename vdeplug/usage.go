package vdeplug

import (
	"fmt"
	"strings"
)

// A Usage says how the locators of a scheme are written, for people who write them.
type Usage struct {
	// Form is the locator with its parts in capitals, and what may be missing between
	// brackets that are no part of it.
	Form string
	// About says which network it is.
	About string
	// Options are all that the scheme has.
	Options []OptionUsage
}

// String returns several lines: the form, what it is, and each option.
func (u Usage) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n    %s\n", u.Form, u.About)
	width := 0
	for _, o := range u.Options {
		width = max(width, len(o.String()))
	}
	for _, o := range u.Options {
		fmt.Fprintf(&b, "      %-*s  %s", width, o, o.About)
		if o.Default != "" {
			fmt.Fprintf(&b, "; %s by default", o.Default)
		}
		if len(o.Aliases) > 0 {
			fmt.Fprintf(&b, " (also %s)", strings.Join(o.Aliases, ", "))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// An OptionUsage describes an option that a scheme has.
type OptionUsage struct {
	// Name is what is written; empty for a word that is a value by itself.
	Name string
	// Aliases are other names of it.
	Aliases []string
	// Value is what follows "=", in capitals; empty if the option takes no value.
	Value string
	// Default is the value without the option, as it is written; empty if there is none.
	Default string
	// About says what the option is for.
	About string
	// Secret says that the value may hold secrets, as the arguments of a command may:
	// [Redact] leaves it out.
	Secret bool
}

// String returns how the option is written.
func (o OptionUsage) String() string {
	if o.Value == "" || o.Name == "" {
		return o.Name + o.Value
	}
	return o.Name + "=" + o.Value
}
