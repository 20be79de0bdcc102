package vdeplug

import (
	"cmp"
	"slices"

	"github.com/vdestack/vdestack/internal/fabric"
	"github.com/vdestack/vdestack/internal/memnet"
	"github.com/vdestack/vdestack/internal/vdeproto"
)

// SwitchStats are the counters of a switch in this process, and what it has now. They begin
// when the switch is made, and none of them goes down.
type SwitchStats struct {
	VNL     string // its locator, without options
	Plugs   int    // of this process
	Clients int    // of other processes, and of this one by vde://
	// Stations are addresses that it remembers.
	Stations int

	Frames, Bytes uint64 // that came from plugs and clients, and from the kernel's half of mem://
	// Dropped counts frames that were not valid, or found no room in a plug or client.
	Dropped uint64
}

// Switches returns the switches in user space that this process has, in the order of their
// locators: of switch://, hub://, multi:// and bonding://, and of those networks of mem:// that
// have plugs. Interfaces on mem:// and lan:// are on a switch of the kernel, which is not here.
func Switches() []SwitchStats {
	var all []SwitchStats
	for _, of := range []map[string]fabric.Stats{memnet.Stats(), vdeproto.Stats()} {
		for vnl, s := range of {
			all = append(all, SwitchStats{
				VNL: vnl, Plugs: s.Locals, Clients: s.Remotes, Stations: s.Stations,
				Frames: s.Frames, Bytes: s.Bytes, Dropped: s.Dropped,
			})
		}
	}
	slices.SortFunc(all, func(a, b SwitchStats) int { return cmp.Compare(a.VNL, b.VNL) })
	return all
}
