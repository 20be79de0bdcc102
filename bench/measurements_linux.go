package main

import "slices"

// A measurement is what workers are asked to do.
type measurement struct {
	name   string
	suffix string // added to the path of the network
	once   bool   // takes long: in the first round only
	pinned bool   // keeps everything on one processor
	// isolated gives the worker a user namespace of its own, in which it is
	// privileged.
	isolated bool
	cells    []cell
	run      func(t *trial) error
}

// pairs are all pairs of stacks.
var pairs = []cell{
	{kernel, veth},
	{kernel, plain},
	{kernelApart, apart},
	{ours, "lan"},
	{oursApart, paths},
	{ours, "mem"},
	{gvisor, "pipe"},
	{gvisor, "gso"},
	{gvisor, "unix"},
	{ours, "ptp"},
	{rival, "ptp"},
	{oursToRival, "ptp"},
	{rivalToOurs, "ptp"},
	{ours, "vxvde"},
	{rival, "vxvde"},
	{oursToRival, "vxvde"},
	{rivalToOurs, "vxvde"},
	{ours, "udp"},
	{rival, "udp"},
	{ours, "vde"},
	{rival, "vde"},
	{ours, "switch"},
	{rival, "switch"},
	{ours, "cmd"},
	{rival, "cmd"},
	{ours, loop},
	{rival, loop},
	{kernelApart, loop},
	{oursApart, port},
	{oursApart, kept},
	{oursTUN, wg},
	{netstack, wg},
}

// likePairs returns the pairs of one contestant, except on the networks given.
func likePairs(but ...string) (cells []cell) {
	for _, c := range pairs {
		if c.contestant != oursToRival && c.contestant != rivalToOurs && !slices.Contains(but, c.network) {
			cells = append(cells, c)
		}
	}
	return cells
}

// measurements are those of a round, in order.
var measurements = []measurement{
	{name: "traffic", cells: pairs, run: (*trial).traffic},
	// vde_switch drops frames of this size.
	{name: "jumbo", cells: likePairs("vde", "cmd", loop, port, kept, wg), run: (*trial).jumbo},
	{name: "rtt", pinned: true, cells: likePairs(plain), run: (*trial).roundTrips},
	{name: "packets", cells: []cell{
		{kernelApart, loop},
		{oursApart, port},
		{oursApart, kept},
	}, run: (*trial).packets},
	{name: "open", suffix: "%d", cells: []cell{
		{ours, loop},
		{ours, "lan"},
		{ours, "mem"},
		{ours, "ptp"},
		{rival, loop},
		{rival, "ptp"},
		{gvisor, "pipe"},
		{oursTUN, wg},
		{netstack, wg},
	}, run: (*trial).open},
	{name: "sockets", cells: []cell{
		{kernel, loop},
		{ours, loop},
		{rival, loop},
		{gvisor, loop},
	}, run: (*trial).sockets},
	{name: "crowd", isolated: true, cells: []cell{
		{inC, "mem"},
		{ours, "lan"},
		{ours, "mem"},
	}, run: (*trial).crowd},
	{name: "scale", once: true, isolated: true, cells: []cell{
		{ours, "lan"},
		{ours, "mem"},
		{rival, loop},
		{gvisor, "pipe"},
	}, run: (*trial).scale},
	{name: "tunnels", once: true, cells: []cell{
		{oursTUN, wg},
		{netstack, wg},
	}, run: (*trial).tunnels},
}
