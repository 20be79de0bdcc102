package autoconf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/vdestack/vdestack/autoconf/internal/source"
)

// A runner runs one source, and is its [source.Sink].
type runner struct {
	c      *Client
	by     Source
	run    source.Run
	cfg    source.Config
	store  Store
	ctx    context.Context // ends with the source
	cancel context.CancelFunc
	done   chan struct{} // closed when it has ended
	calls  chan source.Call
	kept   json.RawMessage // what the source has stored last, for the next Run without a store

	// Guarded by c.mu. A result ends the attempts of which the source knew before: what
	// was asked for meanwhile waits for the next one.
	lease    source.Lease
	attempts []chan<- error
	asked    []chan<- error // whose call is in calls, or was taken since
}

var _ source.Sink = (*runner)(nil)

// startSource starts a source, or has it renew if it runs. The channel gets the result of
// the first attempt.
func (c *Client) startSource(by Source, cfg Config) <-chan error {
	c.mu.Lock()
	r := c.sources[by]
	if r != nil {
		defer c.mu.Unlock()
		return r.renew()
	}
	c.mu.Unlock()
	if c.runs[by] == nil {
		return failed(errors.New("this version does not have it"))
	}
	if by == RD {
		if err := c.dev.follow(true); err != nil {
			return failed(errors.Join(err, c.dev.follow(false)))
		}
	}
	r = &runner{c: c, by: by, run: c.runs[by], store: cfg.Store, done: make(chan struct{}), calls: make(chan source.Call, 1)}
	r.ctx, r.cancel = context.WithCancel(c.ctx)
	r.cfg = source.Config{
		FQDN: cfg.FQDN, Release: cfg.Release, Calls: r.calls, Log: c.log.With("source", string(by)),
		AddrGen: cfg.addrGen(), Temporary: cfg.Temporary,
	}
	if cfg.FQDN != "" {
		r.cfg.Hash = Hash{Name: cfg.FQDN}.Addr
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	attempt := make(chan error, 1)
	r.attempts = append(r.attempts, attempt)
	c.sources[by] = r
	go r.loop()
	return attempt
}

// failed returns a channel with the result of an attempt.
func failed(err error) <-chan error {
	c := make(chan error, 1)
	c <- err
	return c
}

func (c *Config) addrGen() source.AddrGen {
	switch c.SLAAC {
	case SLAACNone:
		return source.AddrNone
	case SLAACHash:
		return source.AddrHash
	case SLAACStable:
		return source.AddrStable
	case SLAACDefault:
		if c.FQDN != "" {
			return source.AddrHash
		}
	}
	return source.AddrEUI64
}

// stop ends a source, and removes what it has configured.
func (c *Client) stop(by Source) error {
	c.mu.Lock()
	r := c.sources[by]
	c.mu.Unlock()
	if r == nil {
		return nil
	}
	r.cancel()
	<-r.done
	c.mu.Lock()
	delete(c.sources, by)
	r.taken()
	c.mu.Unlock()
	r.result(errors.New("it was taken back")) // for those who renew
	err := c.dev.apply(c.ctx, by, source.Lease{})
	if by == RD {
		err = errors.Join(err, c.dev.follow(false))
	}
	err = errors.Join(err, c.updateNames())
	c.publish(Event{Source: by})
	return err
}

// A source that cannot go on is started again after restartWait, and ever later until
// maxRestartWait: perhaps there were no descriptors left.
const (
	restartWait    = time.Minute
	maxRestartWait = time.Hour
)

// loop runs the source. One that cannot go on is started again when it is called, or after a
// time.
func (r *runner) loop() {
	defer close(r.done)
	defer r.cancel()
	for wait := restartWait; ; wait = min(2*wait, maxRestartWait) {
		var err error
		r.cfg.Stored = r.kept
		if r.store != nil {
			if r.cfg.Stored, err = load(r.store, r.key()); err != nil {
				r.c.log.Warn("stored lease", "source", r.by, "error", err)
				r.report(err)
			}
		}
		if err = r.run(r.ctx, r.cfg, r.c.dev.link(), r); r.ctx.Err() != nil {
			break
		}
		if err == nil {
			err = errors.New("it has ended by itself")
		}
		r.c.mu.Lock()
		known := !r.lease.IsZero()
		r.c.mu.Unlock()
		if known {
			wait = restartWait
			r.Set(source.Lease{})
		}
		r.Failed(err)
		again := time.NewTimer(wait)
		select {
		case <-r.calls:
		case <-again.C:
		case <-r.ctx.Done():
			again.Stop()
			return
		}
		again.Stop()
	}
}

// key is that of the source in a store.
func (r *runner) key() string { return r.c.name + "/" + string(r.by) }

// renew asks for an attempt, and returns a channel for its result. c.mu is held.
func (r *runner) renew() <-chan error {
	c := make(chan error, 1)
	r.call(source.Call{Renew: true})
	r.asked = append(r.asked, c)
	return c
}

// taken says that the source knows of what was asked for. c.mu is held.
func (r *runner) taken() {
	r.attempts = append(r.attempts, r.asked...)
	r.asked = nil
}

// begin is called first when the source has a result.
func (r *runner) begin() {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	if len(r.calls) == 0 {
		r.taken()
	}
}

// result ends the attempts.
func (r *runner) result(err error) {
	r.c.mu.Lock()
	attempts := r.attempts
	r.attempts = nil
	r.c.mu.Unlock()
	for _, c := range attempts {
		c <- err
	}
}

// call asks something of the source, and does not wait until it has taken it. c.mu is held,
// so that it is the only sender.
func (r *runner) call(call source.Call) {
	select {
	case r.calls <- call:
		r.taken() // what was there before
	case earlier := <-r.calls:
		r.calls <- source.Call{
			Renew: call.Renew || earlier.Renew, Confirm: call.Confirm || earlier.Confirm, Slept: call.Slept + earlier.Slept,
		}
	}
}

// Set applies what the source knows.
func (r *runner) Set(l source.Lease) error {
	r.begin()
	l, left := usable(l)
	if len(left) > 0 {
		r.c.log.Warn("not used, for it makes no sense or is too much", "source", r.by, "missing", left)
	}
	err := r.c.dev.apply(r.ctx, r.by, l)
	conflict, _ := errors.AsType[*source.ConflictError](err)
	if conflict != nil {
		l.Addrs = slices.DeleteFunc(slices.Clone(l.Addrs), func(a source.Addr) bool { return slices.Contains(conflict.Addrs, a.Prefix.Addr()) })
	}
	r.c.mu.Lock()
	before := prefixes(r.lease)
	r.lease = l
	r.c.mu.Unlock()
	err = errors.Join(err, r.c.updateNames())
	level := slog.LevelDebug // of a renewal
	if now := prefixes(l); !slices.Equal(now, before) {
		level = slog.LevelInfo
	}
	r.c.log.Log(r.ctx, level, "configured", "source", r.by, "addresses", prefixes(l), "server", l.Server)
	r.c.publish(Event{Source: r.by, Lease: publicLease(r.by, l), Err: err})
	if conflict == nil && (err != nil || !l.IsZero()) {
		result := err
		if _, ok := errors.AsType[*partialError](err); ok {
			r.c.log.Warn("not all could be configured", "source", r.by, "error", err)
			result = nil // there is something to work with
		}
		r.result(result)
	}
	return err
}

func prefixes(l source.Lease) (all []netip.Prefix) {
	for _, a := range l.Addrs {
		all = append(all, a.Prefix)
	}
	return all
}

// Failed reports an attempt without a result.
func (r *runner) Failed(err error) {
	if r.ctx.Err() != nil {
		return
	}
	r.begin()
	r.report(err)
	r.result(err)
}

func (r *runner) report(err error) {
	r.c.mu.Lock()
	l := r.lease
	r.c.mu.Unlock()
	r.c.publish(Event{Source: r.by, Lease: publicLease(r.by, l), Err: err})
}

// Store stores data for a later run.
func (r *runner) Store(data json.RawMessage) {
	if r.kept = slices.Clone(data); r.store == nil {
		return
	}
	if err := r.store.Save(r.key(), slices.Clone(data)); err != nil {
		err = fmt.Errorf("it is not stored: %w", err)
		r.c.log.Warn("stored lease", "source", r.by, "error", err)
		r.report(err)
	}
}
