package main

// Names of contestants.
const (
	ours   = "vdestack"
	rival  = "libvdestack" // others are compared with it on the same network
	kernel = "kernel"      // others are compared with it wherever it takes part
	gvisor = "gvisor"
	inC    = "objects in C" // only what the kernel needs for stacks

	// Ways to a WireGuard tunnel.
	oursTUN  = ours + ", TUN" // of module wireguard
	netstack = "netstack"     // of wireguard-go, with gVisor's stack

	// Mixed pairs: the first sends to the second.
	oursToRival = ours + "→" + rival
	rivalToOurs = rival + "→" + ours

	// Pairs of the same kind in two processes.
	oursApart   = ours + ", 2 processes"
	kernelApart = kernel + ", 2 processes"
)

// Names of networks that are more than a scheme of vdeplug.
const (
	loop  = "loopback"
	veth  = "veth"
	plain = "veth-plain" // without offloads
	apart = "veth-apart" // between two processes
	paths = "lan-path"   // lan:///PATH
	port  = "forward"    // ForwardIn
	kept  = "keepsource" // with KeepSource
	wg    = "wireguard"  // a tunnel on the host's loopback
)
