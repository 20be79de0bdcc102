// Package limit bounds the rates of what others can cause, such as lines of a log.
package limit

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Log returns a logger that passes 100 lines on at once, and then one a second, where others
// cause them: whoever is on a network, with each packet. The next line after some that were
// left out says how many.
func Log(l *slog.Logger) *slog.Logger {
	return slog.New(limited{l.Handler(), &lines{bucket: NewBucket(100)}})
}

// lines are those of a logger, with all its attributes and groups.
type lines struct {
	mu      sync.Mutex // guards the rest
	bucket  Bucket
	leftOut int
}

// take reports whether a line may be passed on, and how many were left out before.
func (l *lines) take() (leftOut int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.bucket.Take(time.Now()) {
		l.leftOut++
		return 0, false
	}
	leftOut, l.leftOut = l.leftOut, 0
	return leftOut, true
}

type limited struct {
	slog.Handler
	lines *lines
}

func (h limited) Handle(ctx context.Context, r slog.Record) error {
	leftOut, ok := h.lines.take()
	if !ok {
		return nil
	}
	if leftOut > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("left_out", leftOut))
	}
	return h.Handler.Handle(ctx, r)
}

func (h limited) WithAttrs(a []slog.Attr) slog.Handler {
	return limited{h.Handler.WithAttrs(a), h.lines}
}
func (h limited) WithGroup(name string) slog.Handler {
	return limited{h.Handler.WithGroup(name), h.lines}
}

// A Bucket limits a rate: size at once, and then one a second.
type Bucket struct {
	size, tokens float64
	at           time.Time
}

// NewBucket returns a bucket that is full.
func NewBucket(size float64) Bucket { return Bucket{size, size, time.Now()} }

// Take reports whether there is room for one more.
func (b *Bucket) Take(now time.Time) bool {
	b.tokens = min(b.size, b.tokens+max(0, now.Sub(b.at).Seconds()))
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// Slept corrects the bucket after the clock has stood still.
func (b *Bucket) Slept(d time.Duration) { b.at = b.at.Add(-d) }
