//go:build amd64 || arm64

package bridge

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/nic"
	"github.com/vdestack/vdestack/internal/rendezvous"
	"github.com/vdestack/vdestack/internal/teardown"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

// A shared switch is a bridge in a namespace that processes of one user have in common:
// all of them have a descriptor of it, and none of them is needed by the others. It has
// a user namespace of its own, in which no command runs. The indexes of ports are random,
// for the processes do not know each other's.

// theBridge is the name of its bridge.
const theBridge = "bridge0"

// A share is the process's part of a shared switch.
type share struct {
	users int           // guarded by shares.mu; those that wait for turn included
	turn  chan struct{} // full while sw is made; guards the rest
	sw    *Switch
	// What the last attempt to join has failed with, and when.
	err    error
	failed time.Time
}

// shares are the shared switches of the process by path.
var shares = struct {
	mu  sync.Mutex // guards all; not held while a switch is made
	all map[string]*share
}{all: make(map[string]*share)}

// joinShared returns the switch that processes share at an absolute path. The caller
// leaves it.
func joinShared(ctx context.Context, path string) (_ *Switch, err error) {
	since := time.Now()
	shares.mu.Lock()
	h := shares.all[path]
	if h == nil {
		h = &share{turn: make(chan struct{}, 1)}
		shares.all[path] = h
	}
	h.users++
	shares.mu.Unlock()
	select {
	case h.turn <- struct{}{}:
		switch {
		case h.sw != nil:
		case h.failed.After(since): // one after the other, they would wait for long
			err = h.err
		default:
			if h.sw, err = newShared(ctx, path); err != nil && ctx.Err() == nil {
				h.err, h.failed = err, time.Now()
			}
		}
		<-h.turn
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		err = errors.Join(err, h.release(path))
		return nil, fmt.Errorf("joining the network lan://%s: %w", path, err)
	}
	return h.sw, nil
}

// release ends a use. The last one closes the switch.
func (h *share) release(path string) error {
	shares.mu.Lock()
	h.users--
	last := h.users == 0
	if last {
		delete(shares.all, path)
	}
	shares.mu.Unlock()
	if last && h.sw != nil {
		return h.sw.closeShared()
	}
	return nil
}

func (s *Switch) leaveShared() error {
	shares.mu.Lock()
	h := shares.all[s.path]
	shares.mu.Unlock()
	return h.release(s.path)
}

func newShared(ctx context.Context, path string) (_ *Switch, err error) {
	s := &Switch{hub: &hub{}, path: path}
	s.name, s.common = "lan://"+path, true
	s.member, err = rendezvous.Join(ctx, path, s.begin, s.enter)
	if err != nil {
		if s.ns != nil {
			err = errors.Join(err, s.hub.close())
		}
		return nil, err
	}
	return s, nil
}

// begin makes the switch, and returns a descriptor for the others.
func (s *Switch) begin() (fd int, err error) {
	ns, err := netns.CreateIsolated(netns.TAP{}, nil)
	if err != nil {
		// Without user namespaces, it takes privileges, which all members must have.
		var perr error
		if ns, perr = netns.NewAside(); perr != nil {
			return -1, err
		}
	}
	if err := s.openIn(s.name, ns); err != nil {
		s.ns = nil
		return -1, err
	}
	s.mu.Lock()
	_, err = s.addBridge()
	s.mu.Unlock()
	if err != nil {
		return -1, Explain(err, "bridge")
	}
	err = s.ns.With(func(ns int) error {
		fd, err = unix.FcntlInt(uintptr(ns), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	return fd, err
}

// enter takes the namespace of a switch that another process has made.
func (s *Switch) enter(fd int) (err error) {
	if s.ns, err = netns.JoinShared(fd); err != nil {
		return err
	}
	if err := s.dial(); err != nil {
		return err
	}
	if s.root, err = s.nl.IfNameToIndex(theBridge); errors.Is(err, unix.ENODEV) {
		err = fmt.Errorf("it is not a namespace with a bridge, which lan:// makes: %w", err)
	}
	return err
}

// plugShared is plug. More than one bridge would take an agreement of all processes.
func (s *Switch) plugShared(ctx context.Context, end End) (_ *Port, index int, err error) {
	p := &Port{sw: s, ns: end.NS}
	number := s.next()
	p.index, index, err = s.addEnd(ctx, rtnl.LinkSpec{Name: fmt.Sprintf("port%d", number), Index: number, Master: s.root}, end)
	if errors.Is(err, unix.EXFULL) {
		err = fmt.Errorf("the network has as many interfaces as a bridge of the kernel takes, 1023, and lan:// between processes has one bridge: %w", err)
	}
	if err != nil {
		return nil, 0, Explain(err, "veth")
	}
	return p, index, nil
}

// reapers bounds how many switches that the process has left wait for the kernel, each with
// two descriptors.
var reapers = make(chan struct{}, 8)

// closeShared leaves the switch. What remains of the process's interfaces is removed, if
// there are others: for them, the namespace stays.
func (s *Switch) closeShared() error {
	s.ending.Store(true)
	last := s.member.Leave()
	s.mu.Lock()
	if s.reaper != nil {
		s.reaper.Stop()
	}
	left := len(s.loud) + len(s.leaving)
	s.mu.Unlock()
	if left == 0 || last {
		return s.hub.close()
	}
	reapers <- struct{}{}
	teardown.Go(func() {
		s.reap()
		s.hub.close()
		<-reapers
	})
	return nil
}

// PlugShared is [Plug] on the network that processes share at an absolute path.
func PlugShared(ctx context.Context, path string, end End) (_ *Port, index int, err error) {
	s, err := joinShared(ctx, path)
	if err != nil {
		return nil, 0, err
	}
	return s.plug(ctx, end, nil)
}

// A Tap is a port of a shared switch with a packet socket at its other end, which is in a
// namespace of this process, so that it ends with the process.
type Tap struct {
	*nic.Device
	port *Port
}

// OpenTap opens one on the network that processes share at an absolute path.
func OpenTap(ctx context.Context, path string) (_ *Tap, err error) {
	h, err := joinPairs()
	if err != nil {
		return nil, err
	}
	t := &Tap{}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.leave())
		}
	}()
	number := h.next()
	if t.port, _, err = PlugShared(ctx, path, End{NS: h.ns, Netlink: h.nl, Name: fmt.Sprintf("plug%d", number), Index: number, MTU: portMTU}); err != nil {
		return nil, err
	}
	if err = h.nl.LinkSetUp(number); err == nil {
		err = t.port.Await(ctx)
	}
	if err != nil {
		return nil, err
	}
	t.Device, err = h.openFar(number, nic.All)
	return t, err
}

func (t *Tap) leave() error {
	var err error
	if t.port != nil {
		err = t.port.Leave(true)
	}
	return errors.Join(err, leavePairs())
}

// Close removes both ends.
func (t *Tap) Close() error {
	return errors.Join(t.Device.Close(), t.leave())
}
