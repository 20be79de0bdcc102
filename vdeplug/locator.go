package vdeplug

import (
	"fmt"
	"strings"
)

// A Locator is a parsed Virtual Network Locator (VNL): a scheme and a body,
// whose meaning the scheme decides. Locators can be compared with ==. The zero
// Locator is the empty VNL, the user's default network.
type Locator struct {
	scheme string // empty: the body was written without a scheme
	body   string
}

// Parse splits a locator at the first "://". Text without it is the path of a switch,
// scheme "vde"; text that begins with "=" is a command line, scheme "cmd".
//
// Parse looks only at the text. [Open] finds out whether the scheme is known, what the
// body means, and whether a path is a file with a locator in it.
//
// Errors are of type [*Error].
func Parse(vnl string) (Locator, error) {
	l, err := parse(vnl)
	if err != nil {
		return Locator{}, &Error{"parse", vnl, err}
	}
	return l, nil
}

func parse(vnl string) (Locator, error) {
	if i := strings.IndexByte(vnl, 0); i >= 0 {
		return Locator{}, fmt.Errorf("NUL at byte %d", i)
	}
	if command, ok := strings.CutPrefix(vnl, "="); ok {
		return Locator{"cmd", command}, nil
	}
	scheme, body, ok := strings.Cut(vnl, "://")
	if !ok {
		return Locator{body: vnl}, nil
	}
	if !validScheme(scheme) {
		return Locator{}, fmt.Errorf("%q before \"://\" is no scheme (a path with \"://\" in it is written vde://PATH)", scheme)
	}
	return Locator{scheme, body}, nil
}

// validScheme reports whether a scheme consists of letters, digits and the marks + - . _,
// so that no path with "/" is mistaken for one.
func validScheme(scheme string) bool {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-._"
	return scheme != "" && strings.Trim(scheme, allowed) == ""
}

// Scheme returns the part before "://"; "vde" if the locator has none.
func (l Locator) Scheme() string {
	if l.scheme == "" {
		return "vde"
	}
	return l.scheme
}

// Body returns the part after "://", as it was written.
func (l Locator) Body() string { return l.body }

// String returns the locator in a form that [Parse] reads as the same Locator.
func (l Locator) String() string {
	if l.scheme == "" {
		return l.body
	}
	return l.scheme + "://" + l.body
}
