package vdeplug

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vdestack/vdestack/internal/limit"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/regular"
	"github.com/vdestack/vdestack/internal/teardown"
	"github.com/vdestack/vdestack/internal/vxlan"
)

// A RemotesFunc is a source of the other hosts of a vxlan:// network with the option
// remotes=NAME:ARG. The sequence yields the set of hosts, and the whole set again each time
// that it has changed. Port 0 means that of the option port.
//
//   - Open takes the first set, and fails if there is an error instead. The set may be empty.
//   - After that, errors and sets that are not valid go to [Options].Logger, and the last
//     good set stays. It also stays when the sequence ends. The logger gets changes too: of
//     all these lines 100 at once, and then one a second.
//   - ctx ends with the plug. The sequence must end soon after: Close waits half a second.
type RemotesFunc func(ctx context.Context, arg string) iter.Seq2[[]netip.AddrPort, error]

var remoteSources = struct {
	mu    sync.RWMutex // guards funcs
	funcs map[string]RemotesFunc
}{funcs: map[string]RemotesFunc{"file": fileRemotes}}

// RegisterRemotes makes a source of hosts known to vxlan://, beside "file"; call it in an
// init function, or before the locator is opened. docs/RECIPES.md has examples. It panics if
// name is not valid as the name of a [Scheme], if hosts is nil, or if the name is registered
// already.
func RegisterRemotes(name string, hosts RemotesFunc) {
	remoteSources.mu.Lock()
	defer remoteSources.mu.Unlock()
	if !validScheme(name) || hosts == nil {
		panic(fmt.Sprintf("vdeplug: RegisterRemotes of %q needs a valid name and a function", name))
	}
	if _, ok := remoteSources.funcs[name]; ok {
		panic(fmt.Sprintf("vdeplug: the source of remotes %q is registered twice", name))
	}
	remoteSources.funcs[name] = hosts
}

// sourceOption reads the option remotes.
func (o *vxlanOptions) sourceOption(value string, _ bool) error {
	name, arg, ok := strings.Cut(value, ":")
	remoteSources.mu.RLock()
	defer remoteSources.mu.RUnlock()
	source := remoteSources.funcs[name]
	switch {
	case !ok || name == "file" && arg == "":
		return errors.New("must be file:PATH, in quotes if the path has a \"/\", as remotes='file:/run/hosts', or a registered NAME:ARG")
	case source == nil:
		return fmt.Errorf("no source %q is registered (RegisterRemotes); file:PATH is always there", name)
	}
	o.source, o.sourceName, o.sourceArg = source, value, arg
	return nil
}

// A follower is an endpoint of vxlan whose remotes are those of a source.
type follower struct {
	*vxlan.Endpoint
	cancel context.CancelFunc
	done   chan struct{} // closed when the source has ended
}

// follow opens the network with the first set of the source, and keeps to the later ones.
func (o *vxlanOptions) follow(ctx context.Context, log *slog.Logger) (_ packet.Transport, err error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	log = limit.Log(log.With("remotes", o.sourceName))
	live, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &follower{cancel: cancel, done: make(chan struct{})}
	defer func() {
		if err != nil {
			f.end()
		}
	}()
	type result struct {
		hosts []netip.AddrPort
		err   error
	}
	first, opened := make(chan result, 1), make(chan *vxlan.Endpoint, 1)
	go func() {
		defer close(f.done)
		var e *vxlan.Endpoint
		sets := o.source(live, o.sourceArg)
		if sets == nil {
			first <- result{err: errors.New("the source has returned nil in place of a sequence")}
			return
		}
		for hosts, err := range sets {
			switch {
			case live.Err() != nil:
				return
			case e != nil:
				o.change(e, hosts, err, log)
				continue
			}
			first <- result{slices.Clone(hosts), err}
			select {
			case e = <-opened:
			case <-live.Done():
				return
			}
		}
		if e == nil {
			first <- result{err: errors.New("the source has ended without a set of hosts")}
		}
	}()
	var r result
	select {
	case r = <-first:
	case <-ctx.Done():
		r.err = context.Cause(ctx)
	}
	if r.err == nil {
		r.err = o.begin(r.hosts)
	}
	if r.err != nil {
		return nil, fmt.Errorf("option \"remotes=%s\": %w", o.sourceName, r.err)
	}
	if f.Endpoint, err = vxlan.Open(o.Config); err != nil {
		return nil, err
	}
	opened <- f.Endpoint
	return f, nil
}

// begin completes the configuration with the first set.
func (o *vxlanOptions) begin(hosts []netip.AddrPort) error {
	if !o.v4 && !o.v6 || o.v4 && o.v6 {
		o.v4 = true
		switch {
		case o.Bind.IsValid():
			o.v4 = o.Bind.Is4()
		case len(hosts) > 0:
			o.v4 = hosts[0].Addr().Unmap().Is4()
		}
		o.v6 = !o.v4
	}
	var err error
	if o.Bind, err = o.takeZone(o.Bind, "bind"); err != nil {
		return err
	}
	if o.Remotes, err = o.checkRemotes(hosts); err != nil {
		return err
	}
	family := netip.IPv4Unspecified()
	if o.v6 {
		family = netip.IPv6Unspecified()
	}
	return o.setFamily(family)
}

// change gives a new set to the endpoint, or logs why not.
func (o *vxlanOptions) change(e *vxlan.Endpoint, hosts []netip.AddrPort, err error, log *slog.Logger) {
	if err == nil {
		hosts, err = o.checkRemotes(hosts)
	}
	if err != nil {
		if text := err.Error(); text != o.logged {
			o.logged = text
			log.Warn("no new set of hosts, the last one stays", "hosts", len(o.Remotes), "error", err)
		}
		return
	}
	o.logged = ""
	if slices.Equal(hosts, o.Remotes) {
		return
	}
	e.SetRemotes(hosts)
	o.Remotes = hosts
	log.Info("the hosts have changed", "hosts", len(hosts))
}

// checkRemotes returns a set of hosts in order, each once and with its port.
func (o *vxlanOptions) checkRemotes(hosts []netip.AddrPort) ([]netip.AddrPort, error) {
	set := make([]netip.AddrPort, 0, len(hosts))
	for _, h := range hosts {
		a := h.Addr().Unmap()
		if !a.IsValid() {
			return nil, errors.New("a host has no address")
		}
		if err := checkUnicast(o.network(), a.String(), a); err != nil {
			return nil, err
		}
		// The interface is that of the socket, and cannot change.
		if err := o.checkScope(a); err != nil {
			return nil, err
		}
		if zone := a.Zone(); zone != "" && zone != o.Interface {
			return nil, fmt.Errorf("%s is on another interface than if=NAME says", a)
		}
		port := h.Port()
		if port == 0 {
			port = o.port
		}
		set = append(set, netip.AddrPortFrom(a.WithZone(""), port))
	}
	slices.SortFunc(set, netip.AddrPort.Compare)
	set = slices.Compact(set)
	if len(set) > maxRemotes {
		return nil, fmt.Errorf("more than %d remotes", maxRemotes)
	}
	return set, nil
}

// end ends the source.
func (f *follower) end() {
	f.cancel()
	teardown.Within(func() { <-f.done })
}

// Close leaves the network.
func (f *follower) Close() error {
	f.end()
	return f.Endpoint.Close()
}

const (
	// filePoll is how often a file of remotes is read. What it has is taken when two
	// readings agree, so that nobody sees a file that is half written.
	filePoll = 400 * time.Millisecond
	// maxRemotesFile has room for maxRemotes lines of 256 bytes.
	maxRemotesFile = 256 << 10
)

// fileRemotes is the source "file". It reads the whole file each time: no other sign of a
// change is right for editors, network file systems and links that are switched.
func fileRemotes(ctx context.Context, path string) iter.Seq2[[]netip.AddrPort, error] {
	return func(yield func([]netip.AddrPort, error) bool) {
		path, err := filepath.Abs(path)
		if err != nil {
			yield(nil, err)
			return
		}
		tick := time.NewTicker(filePoll)
		defer tick.Stop()
		last, ok := readRemotes(path), true
		for before := last; ; {
			if ok && !yield(last.remotes()) {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			now := readRemotes(path)
			if ok = now.same(before) && !now.same(last); ok {
				last = now
			}
			before = now
		}
	}
}

// A remotesFile is what was read.
type remotesFile struct {
	text string
	err  error
}

func (f remotesFile) same(g remotesFile) bool {
	return f.text == g.text && (f.err == nil) == (g.err == nil) && (f.err == nil || f.err.Error() == g.err.Error())
}

func readRemotes(path string) remotesFile {
	f, err := regular.Open(path)
	if err != nil {
		return remotesFile{err: err}
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRemotesFile+1))
	if err == nil && len(text) > maxRemotesFile {
		return remotesFile{err: fmt.Errorf("%s is larger than %d KiB", path, maxRemotesFile>>10)}
	}
	return remotesFile{string(text), err}
}

func (f remotesFile) remotes() ([]netip.AddrPort, error) {
	if f.err != nil {
		return nil, f.err
	}
	return parseRemotes(f.text)
}

// parseRemotes reads a list of hosts, with one ADDRESS or ADDRESS:PORT in a line. A "#"
// begins a comment.
func parseRemotes(text string) (hosts []netip.AddrPort, err error) {
	number := 0
	for line := range strings.Lines(text) {
		number++
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		var host netip.AddrPort
		if a, err := netip.ParseAddr(line); err == nil {
			host = netip.AddrPortFrom(a, 0)
		} else if host, err = netip.ParseAddrPort(line); err != nil || host.Port() == 0 {
			return nil, fmt.Errorf("line %d: %.60q is not ADDRESS or ADDRESS:PORT, such as 10.0.0.2, 10.0.0.2:4789 or [fd00::2]:4789", number, line)
		}
		hosts = append(hosts, host)
	}
	return hosts, nil
}
