package vdeplug

import (
	"context"
	"sync"

	"github.com/vdestack/vdestack/internal/memnet"
)

func init() {
	Register("mem", openMem)
	Describe("mem", Usage{Form: "mem://[NAME]", About: "a switch inside the process"})
	memnet.Attach = attachMem
}

// memNets are the switches of the process by name. A switch is there as long
// as it has plugs or an uplink.
var memNets = struct {
	mu       sync.Mutex // guards switches, and the plugs and uplink of each
	switches map[string]*memSwitch
}{switches: make(map[string]*memSwitch)}

// openMem connects to a learning switch inside the process. All of the body is
// its name, which may be empty.
func openMem(_ context.Context, l Locator, _ *Options) (Conn, error) {
	memNets.mu.Lock()
	sw := memSwitchOf(l.Body())
	sw.plugs++
	memNets.mu.Unlock()
	p := newMemPort(sw.fabric)
	p.leave = func() error {
		sw.fabric.leave(&p.port)
		memNets.mu.Lock()
		sw.plugs--
		sw.release()
		memNets.mu.Unlock()
		sw.link()
		return nil
	}
	if err := sw.link(); err != nil {
		p.Close()
		return nil, err
	}
	return newPlug(l.String(), p), nil
}

// memSwitchOf returns the switch of a name. memNets.mu is held.
func memSwitchOf(name string) *memSwitch {
	sw := memNets.switches[name]
	if sw == nil {
		sw = &memSwitch{name: name, fabric: newFabric(kindSwitch, fabricStations, fabricExpire)}
		memNets.switches[name] = sw
	}
	return sw
}

// attachMem gives the switch of a name its uplink.
func attachMem(name string, u memnet.Uplink) (detach func(), err error) {
	memNets.mu.Lock()
	sw := memSwitchOf(name)
	sw.uplink = u
	memNets.mu.Unlock()
	sw.fabric.uplink.Store(true)
	fabrics.uplinks.Add(1)
	detach = func() {
		fabrics.uplinks.Add(-1)
		sw.fabric.uplink.Store(false)
		memNets.mu.Lock()
		sw.uplink = nil
		sw.release()
		memNets.mu.Unlock()
		sw.link()
	}
	if err := sw.link(); err != nil {
		detach()
		return nil, err
	}
	return detach, nil
}

// A memSwitch is a switch of the process without a directory. Its uplink is one
// more port.
type memSwitch struct {
	name   string
	fabric *fabric

	plugs  int           // guarded by memNets.mu
	uplink memnet.Uplink // guarded by memNets.mu; nil: there is none

	linking sync.Mutex    // held while linked comes and goes
	linked  memnet.Uplink // the uplink that is connected; nil: none
}

// release forgets a switch that nobody uses. memNets.mu is held.
func (sw *memSwitch) release() {
	if sw.plugs == 0 && sw.uplink == nil && memNets.switches[sw.name] == sw {
		delete(memNets.switches, sw.name)
	}
}

// link connects the uplink if there are plugs, and disconnects it if there are
// none any more. When it returns that is done, whoever did it.
func (sw *memSwitch) link() error {
	sw.linking.Lock()
	defer sw.linking.Unlock()
	memNets.mu.Lock()
	u := sw.uplink
	if sw.plugs == 0 {
		u = nil
	}
	memNets.mu.Unlock()
	if sw.linked != nil && sw.linked != u {
		sw.linked.Disconnect()
		sw.linked = nil
	}
	if u == nil || sw.linked == u {
		return nil
	}
	p := newMemPort(sw.fabric)
	p.drains = true
	p.leave = func() error {
		sw.fabric.leave(&p.port)
		return nil
	}
	if err := u.Connect(p); err != nil {
		p.Close()
		return err
	}
	sw.linked = u
	return nil
}
