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
	asked    map[dnsmessage.Type]chan struct{} // closed with the first question for the type

	questions int       // that have not left; guarded by lookups.mu
	ended     time.Time // zero while it runs; guarded by lookups.mu
}

// Package net asks the two questions of a lookup from two goroutines. The first waits this
// long for the other where it matters, and a lookup that has ended is shared as long.
const sharedAfter = 100 * time.Millisecond

// find returns what do returns, which may be what it returned for another question. For a
// type whose records are not known while those of the other are, it returns the reason as
// error, or no records if there is a question for the other type.
func (s *lookups) find(ctx context.Context, key lookupKey, typ dnsmessage.Type, do func(context.Context) (answer, *net.DNSError)) (answer, *net.DNSError) {
	l := s.join(ctx, key, typ, do)
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
	other := dnsmessage.TypeA
	if typ == other {
		other = dnsmessage.TypeAAAA
	}
	timer := time.NewTimer(sharedAfter)
	defer timer.Stop()
	select {
	case <-l.asked[other]:
		return l.answer, nil
	case <-timer.C:
	case <-ctx.Done():
	}
	return answer{}, l.answer.lost
}

// join returns the lookup that runs for the key, or has just ended, if its deadline is about
// that of ctx; otherwise it begins one.
func (s *lookups) join(ctx context.Context, key lookupKey, typ dnsmessage.Type, do func(context.Context) (answer, *net.DNSError)) *lookup {
	deadline, _ := ctx.Deadline()
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.running[key]
	if l == nil || deadline.Sub(l.deadline).Abs() > time.Second || !l.ended.IsZero() && time.Since(l.ended) > sharedAfter {
		l = &lookup{
			deadline: deadline,
			done:     make(chan struct{}),
			asked:    map[dnsmessage.Type]chan struct{}{dnsmessage.TypeA: make(chan struct{}), dnsmessage.TypeAAAA: make(chan struct{})},
		}
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
	select {
	case <-l.asked[typ]:
	default:
		close(l.asked[typ])
	}
	return l
}

func (s *lookups) run(ctx context.Context, key lookupKey, l *lookup, do func(context.Context) (answer, *net.DNSError)) {
	l.answer, l.failed = do(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	l.ended = time.Now()
	if l.failed != nil && s.running[key] == l {
		delete(s.running, key) // package net repeats its questions
	}
	close(l.done)
}

// leave ends a lookup for which no question waits.
func (s *lookups) leave(key lookupKey, l *lookup) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.questions--; l.questions > 0 {
		return
	}
	l.cancel()
	if s.running[key] == l {
		delete(s.running, key)
	}
}
