package vdeplug

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// A Locator is a parsed Virtual Network Locator.
type Locator struct {
	scheme, body string
}

// Parse splits a locator at the first "://"; text without it is the path of a
// switch, scheme "vde".
func Parse(vnl string) (Locator, error) {
	scheme, body, ok := strings.Cut(vnl, "://")
	if !ok {
		scheme, body = "vde", vnl
	}
	if scheme == "" {
		return Locator{}, fmt.Errorf("locator %q: no scheme before \"://\"", vnl)
	}
	return Locator{scheme, body}, nil
}

// Scheme returns the part before "://".
func (l Locator) Scheme() string { return l.scheme }

// Body returns the part after "://", as it was written.
func (l Locator) Body() string { return l.body }

// String returns the locator in the form that Parse reads.
func (l Locator) String() string { return l.scheme + "://" + l.body }

// OpenContext is [Open], given up when ctx ends.
func OpenContext(ctx context.Context, vnl string, o *Options) (Conn, error) {
	l, err := Parse(vnl)
	if err != nil {
		return nil, &Error{"open", vnl, err}
	}
	open := lookupScheme(l.scheme)
	if open == nil {
		return nil, &Error{"open", vnl, fmt.Errorf("unknown scheme %q (have %s): %w",
			l.scheme, strings.Join(Schemes(), ", "), errors.ErrUnsupported)}
	}
	if o == nil {
		o = &Options{}
	}
	c, err := open(ctx, l, o)
	if err != nil {
		return nil, &Error{"open", vnl, err}
	}
	return c, nil
}
