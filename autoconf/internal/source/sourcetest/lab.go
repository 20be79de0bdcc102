package sourcetest

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack/autoconf/internal/source"
)

// A Lab is a source on a link, in a bubble of testing/synctest. The test is its network and
// its client.
type Lab struct {
	*testing.T
	Link   *Link
	Sink   *Sink
	Calls  chan source.Call
	Start  time.Time // of the source
	Cancel context.CancelFunc
	Done   chan error // gets the error of the source

	run source.Run
}

// NewLab returns a lab whose source does not run yet.
func NewLab(t *testing.T, run source.Run) *Lab {
	return &Lab{T: t, Link: NewLink(), Sink: NewSink(), Calls: make(chan source.Call), Done: make(chan error, 1), run: run}
}

// Begin runs the source.
func (l *Lab) Begin(cfg source.Config) {
	ctx, cancel := context.WithCancel(l.Context())
	l.Start, l.Cancel = time.Now(), cancel
	cfg.Calls = l.Calls
	go func() { l.Done <- l.run(ctx, cfg, l.Link, l.Sink) }()
}

// End ends the source, and checks that it leaves nothing behind.
func (l *Lab) End() {
	l.Helper()
	l.Cancel()
	began := time.Now()
	if err := <-l.Done; err != nil {
		l.Errorf("Run: %v", err)
	}
	if d := time.Since(began); d > source.ReleaseTime {
		l.Errorf("Run has ended %v after its context", d)
	}
	if open := l.Link.Open(); len(open) > 0 {
		l.Errorf("ports are open: %q", open)
	}
}

// Sent returns the next packet.
func (l *Lab) Sent() Sent {
	l.Helper()
	select {
	case s := <-l.Link.Sent:
		return s
	case <-time.After(1000 * time.Hour):
		l.Fatal("nothing is sent")
	}
	panic("unreachable")
}

// Quiet checks that nothing is sent or said for a time.
func (l *Lab) Quiet(d time.Duration) {
	l.Helper()
	select {
	case s := <-l.Link.Sent:
		l.Fatalf("%s sends %x", s.Port, s.Data)
	case s := <-l.Sink.Said:
		l.Fatalf("the sink is told %+v", s)
	case <-time.After(d):
	}
}

// At checks the time since the start.
func (l *Lab) At(want, tolerance time.Duration) {
	l.Helper()
	if got := time.Since(l.Start); (got - want).Abs() > tolerance {
		l.Errorf("it is %v after the start, want %v ± %v", got, want, tolerance)
	}
}

// said returns what the sink is told next, besides Store.
func (l *Lab) said() any {
	l.Helper()
	for {
		select {
		case said := <-l.Sink.Said:
			if _, ok := said.(json.RawMessage); !ok {
				return said
			}
		case <-time.After(1000 * time.Hour):
			l.Fatal("the sink is told nothing")
		}
	}
}

// Set returns the next lease that the sink is told.
func (l *Lab) Set() source.Lease {
	l.Helper()
	said := l.said()
	lease, ok := said.(source.Lease)
	if !ok {
		l.Fatalf("the sink is told %v, want a lease", said)
	}
	return lease
}

// Lost checks that the sink is told that there is no lease.
func (l *Lab) Lost() {
	l.Helper()
	if lease := l.Set(); !lease.IsZero() {
		l.Fatalf("the sink is told %+v, want the zero lease", lease)
	}
}

// FailedWith checks the next error that the sink is told.
func (l *Lab) FailedWith(want string) {
	l.Helper()
	said := l.said()
	if err, ok := said.(error); !ok || !strings.Contains(err.Error(), want) {
		l.Fatalf("the sink is told %+v, want the error %q", said, want)
	}
}

// Stored returns what the sink was told last, which is to be stored.
func (l *Lab) Stored() json.RawMessage {
	l.Helper()
	b, ok := (<-l.Sink.Said).(json.RawMessage)
	if !ok {
		l.Fatal("nothing is stored")
	}
	return b
}
