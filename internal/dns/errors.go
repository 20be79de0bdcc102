package dns

import (
	"context"
	"errors"
	"net"
)

// The texts are those of package net, which programs know.
var (
	errNoSuchHost = errors.New("no such host") // the name does not exist
	errNoData     = errors.New("no such host") // it exists, but has no such record
	errNoSuitable = errors.New("no suitable address found")
	errNoServers  = errors.New("the stack has no DNS servers (set Config.DNS, or call SetDNS)")
)

// A serverError is a fault of a server that has answered; the next one may be better.
type serverError struct {
	text      string
	detail    string // in the unwrapped error only
	temporary bool
}

func (e *serverError) Error() string { return e.text + " (" + e.detail + ")" }

// malformed and misbehaving return errors about the form and the content of a message.
func malformed(err error) error {
	return &serverError{text: "cannot unmarshal DNS message", detail: err.Error()}
}
func misbehaving(detail string) error {
	return &serverError{text: "server misbehaving", detail: detail}
}

func isServerError(err error) bool {
	_, ok := errors.AsType[*serverError](err)
	return ok
}

// dnsError makes the error of a lookup from its cause. LookupNetIP adds the name.
func dnsError(cause error, server string) *net.DNSError {
	e := &net.DNSError{Err: cause.Error(), Server: server, UnwrapErr: cause}
	fault, isFault := errors.AsType[*serverError](cause)
	timeout, isNet := errors.AsType[net.Error](cause)
	switch {
	case errors.Is(cause, errNoSuchHost), errors.Is(cause, errNoData), errors.Is(cause, errNoSuitable):
		e.IsNotFound = true
	case errors.Is(cause, errNoServers):
	case isFault:
		e.Err, e.IsTemporary = fault.text, fault.temporary
	case errors.Is(cause, context.Canceled):
		e.Err = "operation was canceled"
	case isNet && timeout.Timeout():
		e.Err, e.IsTimeout, e.IsTemporary = "i/o timeout", true, true
		e.UnwrapErr = context.DeadlineExceeded
	default:
		// An error of the network, such as "connection refused", may be temporary; that
		// of a closed stack is not.
		e.IsTemporary = !errors.Is(cause, net.ErrClosed)
	}
	return e
}
