package vdeplug

// A Usage says how the locators of a scheme are written, for people who write
// them.
type Usage struct {
	// Form is the locator with its parts in capitals, and what may be missing
	// between brackets that are no part of it.
	Form string
	// About says which network it is.
	About string
	// Options are all that the scheme has.
	Options []OptionUsage
}

// An OptionUsage describes an option that a scheme has.
type OptionUsage struct {
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
