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
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

// A Pair is a veth pair with one end in a stack and the other in a hub, where a packet
// socket reads and writes it.
type Pair struct {
	hub *hub
	far int
}

// pairs has the hub of all pairs.
var pairs struct {
	mu    sync.Mutex // guards the fields below; held while the hub is made or ended
	hub   *hub
	users int
}

func joinPairs() (*hub, error) {
	pairs.mu.Lock()
	defer pairs.mu.Unlock()
	if pairs.hub == nil {
		h := &hub{}
		if err := h.open("pairs"); err != nil {
			return nil, err
		}
		pairs.hub = h
	}
	pairs.users++
	return pairs.hub, nil
}

func leavePairs() error {
	pairs.mu.Lock()
	defer pairs.mu.Unlock()
	if pairs.users--; pairs.users > 0 {
		return nil
	}
	h := pairs.hub
	pairs.hub = nil
	return h.close()
}

// OpenPair makes an interface of a stack, down, and opens its other end. It also returns
// the index of the interface; 0 if unknown.
func OpenPair(ctx context.Context, end End, o nic.Offload) (_ *Pair, _ *nic.Device, index int, err error) {
	h, err := joinPairs()
	if err != nil {
		return nil, nil, 0, err
	}
	p := &Pair{hub: h}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Remove())
		}
	}()
	number := h.next()
	if _, index, err = h.addEnd(ctx, rtnl.LinkSpec{Name: fmt.Sprintf("far%d", number), Index: number}, end); err != nil {
		return nil, nil, 0, Explain(err, "veth")
	}
	p.far = number
	if err := limitOffload(end.NS, end.Name, o); err != nil {
		return nil, nil, 0, err
	}
	d, err := h.openFar(p.far, o)
	return p, d, index, err
}

// Await waits until the far end receives what the interface, which is up, sends.
func (p *Pair) Await(ctx context.Context) error {
	_, err := AwaitCarrier(ctx, p.hub.nl, p.far)
	return err
}

// Remove removes both ends, which takes the kernel some ten milliseconds. Call either
// Remove or Abandon, once.
func (p *Pair) Remove() error {
	var err error
	if p.far != 0 {
		err = p.hub.delete(p.far)
	}
	return errors.Join(err, leavePairs())
}

// Abandon leaves the pair to the kernel, which removes it with the namespace of its
// stack. If something keeps the namespace, the pair is removed later.
func (p *Pair) Abandon() error {
	far, nl := p.far, p.hub.nl
	time.AfterFunc(reapDelay, func() {
		reaping.Lock()
		defer reaping.Unlock()
		nl.LinkDel(far) // it fails if the pair is gone
	})
	return leavePairs()
}

// limitOffload has the kernel do the work of an interface that is not left to the
// reader of its other end.
func limitOffload(ns *netns.NS, name string, o nic.Offload) error {
	const tso = nic.TSO4 | nic.TSO6
	if o&(nic.Header|nic.Checksum|tso) == nic.Header|nic.Checksum|tso {
		return nil
	}
	fd, err := ns.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := sockio.SwitchOff(fd, name, unix.ETHTOOL_STSO); err != nil {
		return err
	}
	if o&nic.Checksum == 0 {
		return sockio.SwitchOff(fd, name, unix.ETHTOOL_STXCSUM)
	}
	return nil
}
