// Package memnet has the networks mem://NAME of the process. Such a network has two
// halves: a switch in user space for plugs, and a switch of the kernel, which package
// stack makes for the interfaces of stacks. An uplink joins the two, but only while
// there are plugs: a network of stacks alone costs nothing in user space.
package memnet

import (
	"sync"
	"sync/atomic"

	"github.com/vdestack/vdestack/internal/fabric"
	"github.com/vdestack/vdestack/internal/packet"
)

// UserSpace makes package stack do without a switch of the kernel for mem://: interfaces
// are plugs then. It is set where the kernel has no switch, and by tests.
var UserSpace atomic.Bool

// An Uplink is the kernel's half of a network. Its methods are called one at a time.
type Uplink interface {
	// Connect is called when the network has plugs. It takes over the uplink's port of
	// the switch in user space, and returns when frames pass between the halves. If it
	// returns an error, it leaves the port alone, and opening the plug fails. After
	// Close, RecvPackets of the port returns the packets sent before, and then
	// [net.ErrClosed].
	Connect(port packet.Transport) error
	// Disconnect is called when the last plug has left, or the uplink is detached. It
	// returns when all packets that plugs sent before are delivered.
	Disconnect()
}

// networks has the networks of the process by name. A network exists as long as it
// has plugs or an uplink.
var networks = struct {
	mu     sync.Mutex // guards byName, and the plugs and uplink of each
	byName map[string]*network
}{byName: make(map[string]*network)}

// A network is the half in user space, a learning switch. Its uplink is another port.
type network struct {
	name   string
	fabric *fabric.Fabric

	plugs  int    // guarded by networks.mu
	uplink Uplink // guarded by networks.mu; nil: none

	connecting sync.Mutex // held while the uplink is connected or disconnected
	connected  Uplink     // guarded by connecting; nil: none
}

// Open returns a new plug on the network of a name, which may be empty. Close leaves
// it, and must be called once.
func Open(name string) (*fabric.LocalPort, error) {
	networks.mu.Lock()
	n := get(name)
	n.plugs++
	networks.mu.Unlock()
	p := fabric.NewLocalPort(n.fabric, func() {
		networks.mu.Lock()
		n.plugs--
		n.release()
		networks.mu.Unlock()
		n.connect()
	})
	if err := n.connect(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Attach gives the network of a name its uplink, until detach is called. A
// network has one uplink at most.
func Attach(name string, u Uplink) (detach func(), err error) {
	networks.mu.Lock()
	n := get(name)
	n.uplink = u
	networks.mu.Unlock()
	n.fabric.SetUplink(true)
	detach = func() {
		n.fabric.SetUplink(false)
		networks.mu.Lock()
		n.uplink = nil
		n.release()
		networks.mu.Unlock()
		n.connect()
	}
	if err := n.connect(); err != nil {
		detach()
		return nil, err
	}
	return detach, nil
}

// Stats returns the counters of the networks that have plugs by their locators.
func Stats() map[string]fabric.Stats {
	networks.mu.Lock()
	defer networks.mu.Unlock()
	all := make(map[string]fabric.Stats)
	for name, n := range networks.byName {
		if n.plugs > 0 {
			s := n.fabric.Stats()
			s.Locals = n.plugs // without the uplink
			all["mem://"+name] = s
		}
	}
	return all
}

// get returns the network of a name. networks.mu is held.
func get(name string) *network {
	n := networks.byName[name]
	if n == nil {
		n = &network{name: name, fabric: fabric.New(fabric.Switch, fabric.DefaultStations, fabric.DefaultExpire)}
		networks.byName[name] = n
	}
	return n
}

// release forgets a network that nobody uses. networks.mu is held.
func (n *network) release() {
	if n.plugs == 0 && n.uplink == nil && networks.byName[n.name] == n {
		delete(networks.byName, n.name)
	}
}

// connect connects the uplink if there are plugs, and disconnects it if there are none. When
// it returns that is done, by this call or another.
func (n *network) connect() error {
	n.connecting.Lock()
	defer n.connecting.Unlock()
	networks.mu.Lock()
	u := n.uplink
	if n.plugs == 0 {
		u = nil
	}
	networks.mu.Unlock()
	if n.connected != nil && n.connected != u {
		n.connected.Disconnect()
		n.connected = nil
	}
	if u == nil || n.connected == u {
		return nil
	}
	p := fabric.NewDrainingPort(n.fabric)
	if err := u.Connect(p); err != nil {
		p.Close()
		return err
	}
	n.connected = u
	return nil
}
