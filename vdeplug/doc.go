// Package vdeplug connects to Virtual Distributed Ethernet networks. A plug
// (type [Conn]) sends and receives whole Ethernet frames; which network it is
// on, and how the frames travel, is said by a Virtual Network Locator such as
// "vxvde://234.0.0.1", "vde:///run/switch[3]" or "mem://lab".
//
// # Locators
//
// A locator is SCHEME://BODY; the scheme ends at the first "://" and is matched
// exactly. There are three other forms:
//
//   - a path is the switch there, scheme "vde"; or, if a file is there, what the
//     file's first line says (a ".vnl" file; its line may not name another file)
//   - "=COMMAND" is "cmd://COMMAND"
//   - the empty locator is the default network of the user:
//     $HOME/.vdeplug/default or else $HOME/.vde2/default.switch, each a switch or a
//     file, or else "vde://", the switch in /var/run/vde.ctl or else in /tmp/vde.ctl
//
// The body is for the scheme to read. [UsageOf] has the form and the options of each, and
// "vdens --list" prints them. Those that have options are written in one of two
// styles, and a network inside them comes last, between braces:
//
//	path[option/option=value]{inner}
//	address/option/option=value{inner}
//
// The inner network is a locator too, nested as deep as is wanted. {} is the
// default network of the user, and so are missing braces, but for netemu, which
// needs them. Parts of such a body can be quoted, '…' or "…", without escapes inside;
// outside quotes a backslash protects the next byte, and %XY is the byte with that
// hexadecimal code. What is inside the braces is not decoded before the inner
// network is opened.
//
// The bodies of other schemes are taken as they are written, and %XY means nothing
// there: mem, tap, pcap, macvtap, udp, seqpacket, and ptp unless it ends with "]".
// That of cmd is split into words, with quotes and backslashes as in a shell, and
// is given to no shell. In a shell a locator with > [ { or * needs quotes:
// 'udp://7000->10.0.0.2:7000' without them writes to a file.
//
// OptionUsage names are exact. An option that is unknown, twice there or has a wrong
// value is an error that quotes it and says what is allowed.
//
// # Recording
//
// [Capture] records the frames of any plug in the format pcapng, which Wireshark
// reads.
//
// # Networks
//
// With the peer each is tested with:
//
//	mem://NAME                      a switch inside the process
//	vde://PATH[PORT/OPTIONS]        a switch of the host, without PATH that in
//	                                /var/run/vde.ctl or /tmp/vde.ctl: vde_switch, vde_plug
//	vxvde://GROUP/OPTIONS           a distributed switch over IP multicast: vde_plug
//	vxlan://GROUP/OPTIONS           VXLAN, RFC 7348: the kernel, vde_plug
//	ptp://PATH                      a cable between two programs: vde_plug
//	ptp://PATH[seqpacket]           the same for later versions of vdeplug
//	switch://PATH[OPTIONS]          a switch of this program for others of the host
//	hub://, multi://, bonding://    the same, with other rules: see below
//	seqpacket://FD                  a socket that the process has: vde_plug
//	udp://[ADDR:]PORT->HOST:PORT    a cable over UDP: vde_plug
//	tap://NAME                      a TAP interface of the host: the kernel
//	pcap://NAME                     the network of an interface of the host: vde_plug
//	macvtap://NAME                  the same by a macvtap interface: the kernel
//	cmd://COMMAND                   a program that speaks the stream format: vde_plug
//	vdesl://DEVICE[speed=N]         the stream format on a serial line: vdens, vde_plug
//	vlan://NUMBER/OPTIONS{NETWORK}  VLANs of another network: vde_plug
//	agno://KEYFILE[OPTIONS]{NETWORK} another network, encrypted: vdens, OpenSSL
//	netemu://OPTIONS{NETWORK}       another network, impaired: the kernel's TCP
//	null://                         no network
//
// # Networks that go away
//
// A switch may be restarted, and a command end. With [Options.Reconnect] a plug
// opens its network again when that can be done, and tells by [Options.Notify] and
// [Linker] what has become of it. Paths that are not absolute are looked up from
// where the process is then.
//
// # Switches
//
// A plug on switch://PATH is the switch that others of the host connect to as
// vde://PATH: programs in C (vde_plug, vdens, libvdestack), and this package.
// The plug itself is one of its ports, and so is every other plug of the program
// that opens the same directory with the same options, or none.
//
//   - switch:// sends a frame where its station was seen last, within its VLAN, or
//     to all; tags stay as they are.
//   - hub:// sends every frame to all.
//   - multi:// sends the frames of the program to all clients, and those of clients
//     to the program only.
//   - bonding:// is multi:// that sends each frame to one client, to the next one with
//     each frame.
//
// The options of all four:
//
//   - mode=M: the permissions of the sockets in octal, by default 0600: who may
//     write to them may connect
//   - dirmode=M: those of the directory, by default as mode says
//   - grp=G: the group that the directory and the sockets belong to, a name or a
//     number
//   - hashsize=N: how many stations a switch remembers at most, by default 4096
//   - expiretime=S: how many seconds it remembers a silent one, by default 120
//   - hashseed=N is taken, as libvdeplug has it, and changes nothing
//
// Without PATH the directory is /tmp/vdenode_USER. It is made when the first plug
// opens it, and removed when the last is closed. What a switch has left that was
// killed is taken over; a directory with a switch that runs, or with anything
// else in it, is an error.
//
// A client that does not read loses frames, and delays nobody. One that connects
// must say what it wants within three seconds. There are 1024 clients at most.
// Clients that are of this package get whole packets of the kernel's TCP, which
// is several times as fast as frames.
//
// The module github.com/vdestack/vdestack/slirp has another, which programs import:
//
//	slirp:///OPTIONS                what the host can reach, by NAT: libvdeplug_slirp
package vdeplug
