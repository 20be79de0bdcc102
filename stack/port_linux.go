//go:build amd64 || arm64

package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/vdestack/vdestack/internal/bridge"
	"github.com/vdestack/vdestack/internal/memnet"
	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/nic"
	"github.com/vdestack/vdestack/rtnl"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

// The schemes of networks that the kernel switches. mem://NAME also takes plugs of
// package vdeplug, by an uplink; lan://NAME takes none, and fails where the kernel has
// no bridges. Other processes of the user have lan:///PATH too, and plugs.
const (
	lanScheme = "lan"
	memScheme = "mem"
)

// scheme returns the scheme of the network; "" if the locator is not valid.
func (cfg Interface) scheme() string {
	l, err := vdeplug.Parse(cfg.VNL)
	if err != nil {
		return ""
	}
	return l.Scheme()
}

// plugged reports whether the interface is joined to its network by a plug, not in the
// kernel.
func (cfg Interface) plugged() bool {
	scheme := cfg.scheme()
	return scheme != lanScheme && (scheme != memScheme || memnet.UserSpace.Load())
}

// A portLink is an end of a veth pair whose other end is a port of a bridge.
type portLink struct {
	i    *iface
	port *bridge.Port
	last lastCounters
}

// makePort makes the interface on a network that the kernel switches.
func (i *iface) makePort(ctx context.Context, nl *rtnl.Conn) error {
	l, err := vdeplug.Parse(i.cfg.VNL)
	if err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return &vdeplug.Error{Op: "open", VNL: i.cfg.VNL, Err: err}
	}
	var attach func(memnet.Uplink) (func(), error)
	if l.Scheme() == memScheme {
		attach = func(u memnet.Uplink) (func(), error) { return memnet.Attach(l.Body(), u) }
	}
	var p *bridge.Port
	var index int
	if shared(l) {
		p, index, err = bridge.PlugShared(ctx, bridge.SharedPath(l.Body()), i.end(nl))
	} else {
		p, index, err = bridge.Plug(ctx, l.String(), attach, i.end(nl), i.loose())
	}
	if err != nil {
		if errors.Is(err, unix.EEXIST) {
			err = explainTaken(err)
		}
		return err
	}
	if i.up = p.Awake(); !i.up && i.loose() != nil {
		miss() // the network ended meanwhile, or got plugs
	}
	i.link, i.index = &portLink{i: i, port: p}, index
	return nil
}

// shared reports whether other processes have the network too.
func shared(l vdeplug.Locator) bool {
	return l.Scheme() == lanScheme && bridge.SharedPath(l.Body()) != ""
}

// start implements [link].
func (p *portLink) start(ctx context.Context) error {
	p.port.Announce(p.i.s.neighbors.Load(), p.i.index, p.i.cfg.Addrs)
	if p.i.up && !p.port.InCrowd() {
		p.i.ready.solicitRouters(p.i.index)
	}
	if p.i.cfg.Down {
		return nil
	}
	return p.port.Await(ctx)
}

// monitor implements [link].
func (p *portLink) monitor() (*nic.Monitor, error) {
	ns := p.i.s.ns
	fd, err := ns.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return nil, err
	}
	m, err := nic.NewMonitor(fd, p.i.index)
	if err != nil {
		return nil, err
	}
	if fd, err = ns.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0); err == nil {
		err = nic.AwaitTimes(fd)
	}
	if err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// leave implements [link].
func (p *portLink) leave(stays bool) error {
	return errors.Join(p.i.recording.close(), p.port.Leave(stays))
}

// remove implements [link]. leave has removed the interface, or left it to the kernel.
func (p *portLink) remove(int) error { return nil }

// stats implements [link] with the counters of the kernel; after Close, the last ones.
func (p *portLink) stats(st *InterfaceStats) { p.last.read(p.i, st) }

// lastCounters are those of the kernel that were read last.
type lastCounters struct{ atomic.Pointer[InterfaceStats] }

// read reads the name and the counters of the interface; after Close, it returns the last
// ones.
func (l *lastCounters) read(i *iface, st *InterfaceStats) {
	now := *st
	err := i.readCounters(&now)
	switch {
	case err == nil:
		l.Store(&now)
	case !errors.Is(err, net.ErrClosed):
		now.Err = err
	default:
		if last := l.Load(); last != nil {
			now = *last
		}
	}
	*st = now
}

// readCounters reads the name and the counters of the interface, without netlink, which
// waits when the kernel is busy with interfaces.
func (i *iface) readCounters(st *InterfaceStats) error {
	socket, err := i.s.ns.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	fd, err := i.s.ns.Open("/proc/net/dev", unix.O_RDONLY)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "/proc/net/dev")
	defer f.Close()
	for range renames {
		name, err := netns.IfName(socket, i.index)
		if errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("interface %s: %w", i.cfg.Name, nic.ErrRemoved)
		}
		var text []byte
		if err == nil {
			_, err = f.Seek(0, io.SeekStart)
		}
		if err == nil {
			text, err = io.ReadAll(f)
		}
		if err != nil {
			return err
		}
		// The file has names, which must not have changed meanwhile.
		if after, err := netns.IfName(socket, i.index); err != nil || after != name || !st.decode(string(text), name) {
			continue
		}
		st.Name = name
		return nil
	}
	return fmt.Errorf("interface %s gets new names all the time", i.cfg.Name)
}

// renames bounds how often the counters are read while the interface is renamed.
const renames = 10

// decode reads the counters of the named interface in /proc/net/dev; false if it is
// missing.
func (st *InterfaceStats) decode(text, name string) bool {
	for line := range strings.Lines(text) {
		key, counters, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok || key != name {
			continue
		}
		// Received and sent: bytes, packets, errs, drop, fifo, frame, compressed,
		// multicast; the second with its own words for the last four.
		var k [12]uint64
		for at, field := range strings.Fields(counters) {
			if at < len(k) {
				k[at], _ = strconv.ParseUint(field, 10, 64)
			}
		}
		st.RxBytes, st.RxFrames, st.RxDropped = k[0], k[1], k[3]
		st.TxBytes, st.TxFrames, st.TxDropped = k[8], k[9], k[11]
		return true
	}
	return false
}
