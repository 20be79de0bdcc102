package vdeplug

import (
	"time"

	"github.com/vdestack/vdestack/internal/fabric"
)

// vdeConfig says to which port of which switch a client connects.
type vdeConfig struct {
	dir         string // of the switch; empty: the defaults of Dial
	port        int    // or anyPort
	portgroup   string // name of a socket in dir
	group       string // of users, owner of the client's socket; empty: unset
	mode        int    // permissions of the client's socket; -1: unset
	description string // shown by the switch; empty: vdestack
}

const (
	// anyPort lets the switch choose.
	anyPort = -1
	// maxPort is the largest number that a request has room for.
	maxPort = 1<<24 - 1
)

// switchConfig describes a switch.
type switchConfig struct {
	kind     fabric.Kind
	dir      string // empty: the default directory of the user
	mode     int    // permissions of its sockets
	dirMode  int    // permissions of the directory
	group    string // of users, owner of directory and sockets; empty: unset
	stations int
	expire   time.Duration
	plain    bool // only kind and dir were asked for: any switch of these will do
}
