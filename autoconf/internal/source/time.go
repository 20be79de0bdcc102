package source

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"
)

// ErrGone is the error of Run when a port has ended by itself.
var ErrGone = errors.New("its socket has ended: the interface or the stack is gone")

// First returns the earliest of some instants. The zero Time is never.
func First(all ...time.Time) (first time.Time) {
	for _, at := range all {
		if !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}

// Due reports whether an instant has come. The zero Time never does.
func Due(at, now time.Time) bool { return !at.IsZero() && !now.Before(at) }

// Hosts returns the addresses of a list that are those of hosts, each once, and at most
// MaxItems.
func Hosts(all []net.IP, isHost func(netip.Addr) bool) (list []netip.Addr) {
	for _, ip := range all {
		a, _ := netip.AddrFromSlice(ip)
		if isHost(a) && !slices.Contains(list, a) && len(list) < MaxItems {
			list = append(list, a)
		}
	}
	return list
}

// An Alarm wakes a source at an instant, which changes.
type Alarm struct{ timer *time.Timer }

// NewAlarm returns an alarm that the caller stops.
func NewAlarm() Alarm { return Alarm{time.NewTimer(0)} }

// At returns a channel that tells when the instant has come, instead of one before. For the
// zero Time it is nil.
func (a Alarm) At(at time.Time) <-chan time.Time {
	if at.IsZero() {
		return nil
	}
	a.timer.Reset(time.Until(at))
	return a.timer.C
}

// Stop ends the alarm.
func (a Alarm) Stop() { a.timer.Stop() }
