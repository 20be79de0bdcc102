// Package vdeplug connects to Virtual Distributed Ethernet networks. A plug (type
// [Conn]) sends and receives whole Ethernet frames; a Virtual Network Locator such as
// "vxvde://234.0.0.1", "vde:///run/switch[3]" or "mem://lab" says which network it is
// on, and how the frames travel.
//
// # Locators
//
// A locator is SCHEME://BODY; the scheme ends at the first "://" and is matched
// exactly. There are three other forms:
//
//   - a path is the switch there, scheme "vde". If a file is there, its first line is the
//     locator (a ".vnl" file); it may not name another file.
//   - "=COMMAND" is "cmd://COMMAND".
//   - the empty locator is the default network of the user:
//     $HOME/.vdeplug/default or else $HOME/.vde2/default.switch, each a switch or a
//     file, or else "vde://", the switch in /var/run/vde.ctl or else in /tmp/vde.ctl.
//
// The scheme reads the body. [UsageOf] has the form and the options of each, and
// "vdens --list" prints them. Bodies with options are written in one of two styles, and a
// network inside them comes last, between braces:
//
//	path[option/option=value]{inner}
//	address/option/option=value{inner}
//
// How they are read:
//
//   - The inner network is a locator too, nested up to 32 deep. {} is the default network
//     of the user, and so are missing braces, except for netemu, which needs them.
//   - Parts of such a body can be quoted, '…' or "…", without escapes inside; outside
//     quotes a backslash protects the next byte, and %XY is the byte with that hexadecimal
//     code. The text inside the braces is not decoded before the inner network is opened.
//   - The bodies of mem, tap, pcap, macvtap, udp and seqpacket, and of ptp unless it ends
//     with "]", are taken as they are written, and %XY means nothing there. The body of
//     cmd is split into words, with quotes and backslashes as in a shell, but no shell
//     sees it.
//   - In a shell a locator with > [ { or * needs quotes: 'udp://7000->10.0.0.2:7000'
//     without them writes to a file.
//
// Names of options are exact. An option that is unknown, given twice or has a wrong value
// is an error that quotes it and says what is allowed.
//
// # Recording
//
// [Capture] records the frames of any plug in the format pcapng, which Wireshark reads.
//
// # Networks
//
// Capitals are yours to fill in, and parts in [ ] may be left out. The module
// github.com/vdestack/vdestack/slirp, which programs import, adds slirp://, what the host
// can reach; [Register] adds others.
//
//	agno://[KEYFILE][[OPTIONS]]{NETWORK}
//	    another network, encrypted with a key that all have; by default in ~/.vde_agno_key
//	bonding://[PATH][[OPTIONS]]
//	    multi:// that sends each frame to one client, in turn
//	cmd://COMMAND [ARGUMENT...]
//	    a program that speaks the VDE stream format; =COMMAND means the same
//	hub://[PATH][[OPTIONS]]
//	    a hub of this program for others of the host: every frame goes to all
//	lan://[NAME]
//	    a switch of the kernel for the stacks of this process, and no other plugs
//	macvtap://NAME
//	    the network of an interface of the host, by a macvtap interface
//	mem://[NAME]
//	    a switch inside the process
//	multi://[PATH][[OPTIONS]]
//	    a switch of this program whose clients reach the program only
//	netemu://[OPTIONS]{NETWORK}
//	    another network, impaired: delay, jitter, loss, rate, duplicates, disorder and errors, each way
//	null://
//	    no network: all frames are dropped
//	pcap://NAME
//	    the network of an interface of the host, beside the host
//	ptp://PATH[[OPTIONS]]
//	    a cable between two programs of this host
//	seqpacket://FD
//	    a connected SEQPACKET socket that the process has
//	switch://[PATH][[OPTIONS]]
//	    a switch of this program for others of the host
//	tap://[NAME]
//	    the host, by a TAP interface
//	udp://[ADDRESS:]PORT->HOST:PORT
//	    a cable over UDP, a frame in each packet
//	vde://[DIRECTORY][[OPTIONS]]
//	    a switch of this host; by default that in /var/run/vde.ctl or /tmp/vde.ctl
//	vdesl://DEVICE[[OPTIONS]]
//	    the VDE stream format on a serial line
//	vlan://[NUMBER][/OPTIONS]{NETWORK}
//	    a VLAN of another network, or several
//	vxlan://[GROUP][/OPTIONS]
//	    VXLAN, RFC 7348; group 239.0.0.1, or ff05:56de::1 with v6
//	vxvde://[GROUP][/OPTIONS]
//	    a distributed switch over IP multicast; group 239.0.0.1, or ff05:56de::1 with v6
//
// # Networks that go away
//
// A switch may be restarted, and a command may end. With [Options.Reconnect] a plug opens
// its network again as soon as that is possible, and reports its state by
// [Options.Notify] and [Linker]. Relative paths are looked up from the working directory
// of that moment.
//
// # Switches
//
// A plug on switch://PATH is the switch that other programs of the host connect to as
// vde://PATH: programs in C (vde_plug, vdens, libvdestack), and this package. The plug
// itself is one of its ports, and so is every other plug of the program that opens the
// same directory with the same options, or with none.
//
//   - switch:// sends a frame to where its station was seen last, within its VLAN, or to
//     all; tags stay as they are.
//   - hub:// sends every frame to all.
//   - multi:// sends the frames of the program to all clients, and those of clients to the
//     program only.
//   - bonding:// is multi:// that sends each frame to one client, in turn.
//
// All four have the same options:
//
//   - mode=M: the permissions of the sockets in octal, by default 0600: who may write to
//     them may connect
//   - dirmode=M: the permissions of the directory, by default those of mode, with x for
//     all who have r or w
//   - grp=G: the group that the directory and the sockets belong to, a name or a number
//   - hashsize=N: how many stations a switch remembers at most, by default 4096
//   - expiretime=S: how many seconds it remembers a silent station, by default 120
//   - hashseed=N is accepted, as by libvdeplug, and changes nothing
//
// Without PATH the directory is /tmp/vdenode_USER. The first plug makes it, and the last
// one removes it when it is closed. What a killed switch has left is taken over; a
// directory with a running switch, or with anything else in it, is an error.
//
// A client that does not read loses frames, and delays nobody. A client must say what it
// wants within three seconds. There are 1024 clients at most. Clients of this package get
// whole packets of the kernel's TCP, which is several times as fast as frames.
package vdeplug
