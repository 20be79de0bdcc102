package main

// Names of contestants.
const (
	ours   = "vdestack"
	rival  = "libvdestack" // is compared with on the same network
	kernel = "kernel"      // is compared with wherever it takes part
	gvisor = "gvisor"

	// Mixed pairs: the first sends to the second.
	oursToRival = ours + "→" + rival
	rivalToOurs = rival + "→" + ours
)

// Names of networks that are more than a scheme of vdeplug.
const (
	loop  = "loopback"
	veth  = "veth"
	plain = "veth-plain" // without offloads
)
