package vdeplug

import (
	"context"
	"sync"
)

func init() { Register("mem", openMem) }

// memNets are the switches of the process by name. A switch is there as long
// as it has ports.
var memNets = struct {
	mu       sync.Mutex // guards switches, and which switch has ports
	switches map[string]*fabric
}{switches: make(map[string]*fabric)}

// openMem connects to a learning switch inside the process. All of the body is
// its name, which may be empty.
func openMem(_ context.Context, l Locator, _ *Options) (Conn, error) {
	memNets.mu.Lock()
	defer memNets.mu.Unlock()
	name := l.Body()
	f := memNets.switches[name]
	if f == nil {
		f = newFabric(kindSwitch, fabricStations, fabricExpire)
		memNets.switches[name] = f
	}
	p := newMemPort(f)
	p.leave = func() error {
		memNets.mu.Lock()
		defer memNets.mu.Unlock()
		if f.leave(&p.port) == 0 {
			delete(memNets.switches, name)
		}
		return nil
	}
	return p, nil
}
