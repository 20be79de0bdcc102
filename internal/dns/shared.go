package dns

import (
	"context"
	"net"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Lookups are those of addresses that run for questions of package net. Questions about one
// name share one, so that those for A and AAAA records have parts of the same answer:
// otherwise, on a network that loses packets, one could lack IPv4 and the other IPv6, and
// package net would say that the name does not exist.
type lookups struct {
	mu      sync.Mutex // guards running, and the fields of lookup that say so
	running map[lookupKey]*lookup
}

type lookupKey struct {
	client *Client
	name   string // folded
}

// A lookup finds addresses of both families.
type lookup struct {
	deadline time.Time // that of the first question; zero if it has none
	cancel   context.CancelFunc
	done     chan struct{} // closed after answer and failed are set
	answer   answer
	failed   *net.DNSError

	// Guarded by lookups.mu:
	questions int       // that have not left
	ended     time.Time // zero while it runs
	// alone has the questions without one of the same user for the other type; each channel is
	// closed when that comes.
	alone map[dnsmessage.Type][]chan struct{}
}

// otherType has the other type of addresses.
var otherType = map[dnsmessage.Type]dnsmessage.Type{dnsmessage.TypeA: dnsmessage.TypeAAAA, dnsmessage.TypeAAAA: dnsmessage.TypeA}

// Package net asks the two questions of a lookup from two goroutines, or one after the other if
// the host's resolv.conf has the option single-request. The first waits this long for the other
// where it matters, and a lookup that has ended waits as long for the other.
const sharedAfter = 100 * time.Millisecond

// find returns what do returns, which may be what it returned for another question. For a
// type whose records are not known while those of the other are, it returns the reason as
// error, or no records if the same user asks for the other type, as far as can be told.
func (s *lookups) find(ctx context.Context, key lookupKey, typ dnsmessage.Type, do func(context.Context) (answer, *net.DNSError)) (answer, *net.DNSError) {
	l, both := s.join(ctx, key, typ, do)
	defer s.leave(key, l)
	select {
	case <-l.done:
	case <-ctx.Done():
		deadline, ok := ctx.Deadline()
		if !ok || l.deadline.IsZero() || l.deadline.After(deadline) || ctx.Err() != context.DeadlineExceeded {
			return answer{}, dnsError(ctx.Err(), "")
		}
		<-l.done // ends now; its error names the server
	}
	if l.failed != nil || l.answer.lost == nil || len(ofType(typ, l.answer.addrs)) > 0 {
		return l.answer, l.failed
	}
	timer := time.NewTimer(sharedAfter)
	defer timer.Stop()
	select {
	case <-both:
		return l.answer, nil
	case <-timer.C:
	case <-ctx.Done():
	}
	return answer{}, l.answer.lost
}

// join returns the lookup that runs for the key, if its deadline is about that of ctx, or has just
// ended for a question to which this one belongs; otherwise it begins one. both is closed when there
// is a question for the other type.
func (s *lookups) join(ctx context.Context, key lookupKey, typ dnsmessage.Type, do func(context.Context) (answer, *net.DNSError)) (_ *lookup, both chan struct{}) {
	deadline, _ := ctx.Deadline()
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.running[key]
	if l == nil || !l.takes(typ, deadline) {
		l = &lookup{deadline: deadline, done: make(chan struct{}), alone: make(map[dnsmessage.Type][]chan struct{})}
		if s.running == nil {
			s.running = make(map[lookupKey]*lookup)
		}
		s.running[key] = l
		ctx = context.WithoutCancel(ctx)
		if deadline.IsZero() {
			ctx, l.cancel = context.WithCancel(ctx)
		} else {
			ctx, l.cancel = context.WithDeadline(ctx, deadline)
		}
		go s.run(ctx, key, l, do)
	}
	l.questions++
	both = make(chan struct{})
	// The last one is most likely of the same user: others may ask for one type only.
	if others := l.alone[otherType[typ]]; len(others) > 0 {
		last := len(others) - 1
		close(others[last])
		close(both)
		l.alone[otherType[typ]] = others[:last]
	} else {
		l.alone[typ] = append(l.alone[typ], both)
	}
	return l, both
}

// takes reports whether a question may join the lookup. lookups.mu is held.
func (l *lookup) takes(typ dnsmessage.Type, deadline time.Time) bool {
	if l.ended.IsZero() {
		return deadline.Sub(l.deadline).Abs() <= time.Second
	}
	return time.Since(l.ended) <= sharedAfter && len(l.alone[otherType[typ]]) > 0
}

func (s *lookups) run(ctx context.Context, key lookupKey, l *lookup, do func(context.Context) (answer, *net.DNSError)) {
	l.answer, l.failed = do(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	l.ended = time.Now()
	if l.failed != nil {
		s.drop(key, l) // package net repeats its questions
	}
	close(l.done)
}

// leave ends a lookup for which no question waits. If it has found addresses of one family only,
// a question for the other may still come.
func (s *lookups) leave(key lookupKey, l *lookup) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.questions--; l.questions > 0 {
		return
	}
	l.cancel()
	if l.ended.IsZero() || l.answer.lost == nil {
		s.drop(key, l)
		return
	}
	time.AfterFunc(sharedAfter, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.drop(key, l)
	})
}

// drop has no more questions join a lookup. s.mu is held.
func (s *lookups) drop(key lookupKey, l *lookup) {
	if s.running[key] == l {
		delete(s.running, key)
	}
}
