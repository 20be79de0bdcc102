// Package vdeproto implements the control protocol of VDE switches: clients ask a switch
// for a port over a local stream socket, and exchange frames with it over a pair of
// connected datagram sockets. [Dial] connects to a switch of vde_switch, libvdeplug or
// this package; [OpenSwitch] makes one. Between clients and switches of this package, GSO
// packets go through a pair of sockets instead.
package vdeproto

import (
	"time"

	"github.com/vdestack/vdestack/internal/fabric"
)

// A Config selects a switch and a port of it.
type Config struct {
	Dir         string // of the switch; empty: the defaults of Dial
	Port        int    // or AnyPort
	PortGroup   string // name of a socket in Dir; empty: none
	Group       string // of users, owner of the client's socket; empty: unset
	Mode        int    // permissions of the client's socket; -1: unset
	Description string // shown by the switch; empty: vdestack
}

const (
	// AnyPort lets the switch choose.
	AnyPort = -1
	// MaxPort is the largest number that a request has room for.
	MaxPort = 1<<24 - 1
)

// A SwitchConfig describes a switch.
type SwitchConfig struct {
	Kind     fabric.Kind
	Dir      string        // empty: the default directory of the user
	Mode     int           // permissions of its sockets
	DirMode  int           // permissions of the directory
	Group    string        // of users, owner of directory and sockets; empty: unset
	Stations int           // how many are remembered
	Expire   time.Duration // how long a silent one is remembered
	Plain    bool          // only Kind and Dir matter, if there is a switch already
}
