// Package vdeplug connects to Virtual Distributed Ethernet networks.
//
// A plug, type [Conn], sends and receives Ethernet frames. A Virtual Network Locator, such
// as "vxvde://234.0.0.1", "vde:///run/switch[3]" or "mem://lab", says on which network:
//
//	c, err := vdeplug.Open("mem://lab", nil)
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//	buf := make([]byte, vdeplug.MaxFrame)
//	for {
//		n, err := c.Recv(buf) // until Close, in another goroutine, or the end of the network
//		if err != nil {
//			return err
//		}
//		fmt.Printf("%d bytes from %x\n", n, buf[6:12])
//	}
//
// Package stack of this module puts plugs and sockets together; this package needs no
// namespaces, and no privileges beyond those of the networks below.
//
// # Locators
//
// A locator is SCHEME://BODY. The scheme ends at the first "://" and is matched exactly.
// There are three other forms:
//
//   - A path is the switch there, scheme "vde". If a file is there (".vnl"), its first
//     line is the locator, and may not name another file.
//   - "=COMMAND" is "cmd://COMMAND".
//   - The empty locator is the default network of the user: $HOME/.vdeplug/default, or
//     $HOME/.vde2/default.switch, each a switch or a file, or otherwise "vde://", the
//     switch in /var/run/vde.ctl or in /tmp/vde.ctl.
//
// Each scheme reads its body. Those with options are written in one of two styles, and
// a network inside them comes last, between braces:
//
//	path[option/option=value]{inner}
//	address/option/option=value{inner}
//
// How such a body is read:
//
//   - The inner network is a locator too, nested up to 32 deep. {} is the default network
//     of the user, and so are missing braces; netemu and restart require braces.
//   - Parts can be quoted, '…' or "…", without escapes inside. Outside quotes a backslash
//     protects the next byte, and %XY is the byte with that hexadecimal code. What is inside
//     the braces is decoded when the inner network is opened.
//   - Names of options are exact. An option that is unknown, given twice or has a wrong
//     value is an error that quotes it and says what is allowed.
//
// The bodies of other schemes are taken as they are written, and %XY means nothing there:
// mem, lan, tap, pcap, macvtap, udp, seqpacket, and ptp unless it ends with "]". The body of
// cmd is split into words, with quotes and backslashes as in a shell, but no shell sees it.
//
// In a shell a locator with > [ { or * needs quotes: 'udp://7000->10.0.0.2:7000' without
// them writes to a file.
//
// # Networks
//
// Fill in what is in capitals; what is between [ ] may be left out, and where OPTIONS are
// in [[ ]], one pair of brackets is written. Options are separated by "/". [UsageOf]
// returns the same, and "vdens --list" prints it. Package slirp, a module of its own, adds
// slirp://, what the host can reach, by NAT.
//
//	agno://[KEYFILE][[OPTIONS]]{NETWORK}
//	    another network, encrypted with a key that all have; by default in ~/.vde_agno_key
//	      ethtype=TYPE  type of the frames: a number, ipv4, ipv6, copy or rand; 0xa6de by default
//	bonding://[PATH][[OPTIONS]]
//	    multi:// that sends each frame to one client, in turn
//	      mode=MODE           permissions of the sockets; 0600 by default
//	      dirmode=MODE        those of the directory, as mode says
//	      grp=GROUP           group of users that owns them
//	      hashsize=N          stations that are remembered; 4096 by default
//	      expiretime=SECONDS  for how long; 120 by default
//	      hashseed=N          changes nothing; libvdeplug has it
//	cmd://COMMAND [ARGUMENT...]
//	    a program that speaks the VDE stream format; =COMMAND means the same
//	hub://[PATH][[OPTIONS]]
//	    a hub of this program for others of the host: every frame goes to all; the options of bonding
//	lan://[NAME], lan:///PATH
//	    a switch of the kernel for the stacks of this process; at a path, of this user
//	macvtap://NAME
//	    the network of an interface of the host, by a macvtap interface
//	mem://[NAME]
//	    a switch inside the process
//	multi://[PATH][[OPTIONS]]
//	    a switch of this program whose clients reach the program only; the options of bonding
//	netemu://[OPTIONS]{NETWORK}
//	    another network, impaired: delay, jitter, loss, rate, duplicates, disorder and errors, each way
//	      seed=NUMBER        which frames are meant, in both directions; random
//	      loss=PERCENT       frames that are lost; 0% by default (also loss-out, loss-in)
//	      duplicate=PERCENT  frames that come twice; 0% by default (also duplicate-out, duplicate-in)
//	      corrupt=PERCENT    frames in which a bit is changed; 0% by default (also corrupt-out, corrupt-in)
//	      reorder=PERCENT    frames that come after the next; 0% by default (also reorder-out, reorder-in)
//	      delay=TIME         how long each takes; 0s by default (also delay-out, delay-in)
//	      jitter=TIME        how much longer at most; 0s by default (also jitter-out, jitter-in)
//	      rate=RATE          bits a second, with bit, kbit, mbit or gbit (also rate-out, rate-in)
//	      queue=BYTES        what waits for the rate, also with k or m; 256k by default (also queue-out, queue-in)
//	null://
//	    no network: all frames are dropped
//	pcap://NAME
//	    the network of an interface of the host, alongside the host
//	ptp://PATH[[OPTIONS]]
//	    a cable between two programs of this host
//	      seqpacket  the other end is of a version of vdeplug after 4.0.1
//	restart://[SECONDS]{NETWORK}
//	    another network, which is opened again every 20 seconds, or SECONDS, while it is gone
//	seqpacket://FD
//	    a connected SEQPACKET socket that the process has
//	switch://[PATH][[OPTIONS]]
//	    a switch of this program for others of the host; the options of bonding
//	tap://[NAME]
//	    the host, by a TAP interface
//	udp://[ADDRESS:]PORT->HOST:PORT
//	    a cable over UDP, a frame in each packet
//	vde://[DIRECTORY][[OPTIONS]]
//	    a switch of this host; by default that in /var/run/vde.ctl or /tmp/vde.ctl
//	      N               the same as port=N, and any other word as portgroup=NAME
//	      port=N          number of the port; any free one by default
//	      portgroup=NAME  a group of ports
//	      group=GROUP     users that get access to the socket of the connection
//	      mode=OCTAL      permissions of that socket; 700 by default
//	vdesl://DEVICE[[OPTIONS]]
//	    the VDE stream format on a serial line
//	      speed=N  bits a second; 38400 by default
//	vlan://[NUMBER][/OPTIONS]{NETWORK}
//	    a VLAN of another network, or several
//	      untag=N   VLAN without a tag in the network, tagged at the plug (also u)
//	      tag=LIST  VLANs tagged on both sides: N, or N-M for M in the network, with : between (also t)
//	      trunk     all other VLANs pass (also x)
//	      qinq      tags of 802.1ad (also ad, q)
//	vxlan://[GROUP][/OPTIONS]
//	    VXLAN, RFC 7348; group 239.0.0.1, or ff05:56de::1 with v6
//	      port=PORT            UDP port of all endpoints; 4789 by default
//	      vni=N                number of the network; 1 by default
//	      remote=HOST,HOST...  other endpoints, in place of a group
//	      remotes=file:PATH    the same from a file, which may change
//	      ttl=N                time to live of packets to the group; 1 by default
//	      v4                   names stand for IPv4 addresses
//	      v6                   names stand for IPv6 addresses
//	      if=NAME              interface of the group; by default the routing table decides
//	      bind=ADDRESS         local address
//	      rcvbuf=BYTES         receive buffer, with k, M or G for more
//	      hashsize=N           stations that are remembered; 0 sends everything to all; 1024 by default
//	      expiretime=SECONDS   for how long; 128 by default
//	vxvde://[GROUP][/OPTIONS]
//	    a distributed switch over IP multicast; group 239.0.0.1, or ff05:56de::1 with v6
//	      port=PORT           UDP port of the group; 14789 by default
//	      vni=N               number of the network, or a group of users; 1 by default
//	      grp=GROUP           group of users with a network of its own
//	      ttl=N               time to live of packets to the group; 1 by default
//	      v4                  names stand for IPv4 addresses
//	      v6                  names stand for IPv6 addresses
//	      if=NAME             interface of the group; by default the routing table decides
//	      bind=ADDRESS        local address
//	      rcvbuf=BYTES        receive buffer, with k, M or G for more
//	      hashsize=N          stations that are remembered; 0 sends everything to all; 1024 by default
//	      expiretime=SECONDS  for how long; 128 by default
//
// # What to know of them
//
// Which peers each network was tested with is in docs/INTEROP.md of the module.
//
//   - agno: all stations have the same key file, of 2 to 32 hexadecimal digits; missing
//     digits are 0, and all other bytes are ignored. Write them in lower case: the C program
//     reads an upper-case A as another digit. Stations may use different ethtypes. Addresses
//     are sent in clear, the rest with AES-128. It keeps networks apart and curious readers
//     out, but is no VPN: a payload can be changed, and a frame replayed for three seconds,
//     which is also how much clocks may differ.
//   - cmd: the command is in a session of its own, so it cannot ask for a password at the
//     terminal. Close ends it and what it has started. Its standard error is the program's.
//   - lan: at an absolute path the network is one for all processes of the user, with
//     stacks and plugs. There is a socket at the path, and PATH.lock beside it, as long as
//     any of them is there. A name is for stacks of this process only.
//   - macvtap: the interface exists (ip link add link ETH name NAME type macvtap) and is up,
//     and the user has access to its device /dev/tapN. IPv6 finds neighbours if the
//     interface takes all multicast (ip link set NAME allmulticast on).
//   - netemu: options without "-out" or "-in" are for both directions; those with it take
//     precedence. Percentages are written 1% or 0.05%, times 20ms or 1.5s, an hour at most.
//     [Impairment] explains them, and [FindEmulator] changes them while the plug is in use.
//   - pcap: takes CAP_NET_RAW. The plug gets all that the interface receives, and sends
//     through it; the host does not get what the plug sends, nor the plug what the host
//     sends. A wireless network carries frames from the interface's own address only.
//   - ptp: both ends open the same path, and one end may go and come back.
//   - restart: what [Options].Reconnect does, for this network and at this interval. Opening
//     it fails at once if the network is not there.
//   - seqpacket: the plug owns the descriptor and closes it.
//   - tap: makes the interface if there is none, which takes CAP_NET_ADMIN; it then lives as
//     long as the plug. It must be brought up by other means.
//   - udp: without a port before "->" it is any. The port is what follows the last colon, so
//     IPv6 addresses need no brackets.
//   - vde: where no directory is named, a switch that is neither root's nor the user's is
//     refused. Port 0 of vde_switch is for management. The switches of Debian have no
//     groups of ports.
//   - vdesl: 8 bits, no parity, no flow control. A line loses bytes: a frame that stops for
//     a tenth of a second, or whose length cannot be one, is dropped.
//   - vlan: untagged frames of the plug are tagged with NUMBER in the network; without it,
//     or with 0, they stay untagged. VLANs that are not named are dropped; trunk passes
//     them, except 0, 1 and 4095. With qinq, frames with other tags count as untagged, so
//     that a VLAN can carry VLANs. Priorities are not kept. vde_switch drops tagged frames
//     unless its ports are in the VLAN (vlan/create, vlan/addport).
//   - vxlan, vxvde: nothing is encrypted, and whoever can send to the port or the group can
//     send frames. A host has one endpoint of vxlan for each port and address; frames from
//     endpoints that are not on the list of remotes are accepted. The plug of vdeplug 4.0.1
//     loses frames for known stations in vxlan: give it hashsize=0.
//   - vxlan: for remotes, see below, "Hosts that come and go".
//   - vxvde: grp gives a group of users a network of its own: the last three bytes of the
//     group's address, and the VNI, become the gid. vni can be a group of users too. Without
//     a value both mean the effective group. IPv6 unicast has the system's hop limit, not ttl.
//
// # Hosts that come and go
//
// A network of several machines without multicast is vxlan:// with a set of hosts that
// each machine has:
//
//	vxlan:///vni=42/remotes='file:/run/lab/hosts'
//
// The file has one ADDRESS or ADDRESS:PORT in a line; "#" begins a comment. A change is seen
// within a second, once two readings agree; write the file in one go, or rename another one
// to it, as Kubernetes does with a ConfigMap. A file without addresses says that there is
// nobody else. Open fails if the file is bad; later [Options.Logger] hears of that, and the
// last good set stays.
//
//   - A host that comes gets frames for all from then on. A host that leaves gets no frames
//     any more: what was learned of it is forgotten. A frame that is being sent meanwhile
//     goes to the set before or to the one after, once to each host.
//   - Frames of hosts that are not in the set are accepted, but teach nothing: no frame goes
//     to such a host. So a new host is answered as soon as the others have it in their sets.
//   - A host is known by the address in the set: one that has several sends from that
//     address (bind=ADDRESS). This host may be in its own set.
//   - A set has 1024 hosts at most, of one family: that of the first set or, if that is
//     empty, IPv4, unless there is v6 or bind. A frame for all is one packet for each host,
//     64 in a system call. How much is learned is bounded by hashsize.
//
// [RegisterRemotes] adds other sources of sets. docs/RECIPES.md has two: SRV records of DNS,
// by the resolver of a stack, and etcd, where each host has put its address and port.
//
// # Sizes
//
// Every plug carries frames of up to [MaxFrame] bytes, but the networks below may not:
//
//   - vde_switch cuts frames of more than 1518 bytes silently: the MTU of an interface
//     on it is 1500 at most.
//   - A tag of vlan takes 4 bytes, agno 16 to 31: on a network with an MTU of 1500, use 1496
//     and 1469.
//   - vxvde and vxlan take 50 bytes, 70 with IPv6: with an MTU of 1450 (1430) nothing is
//     fragmented on Ethernet. Hardware endpoints of vxlan often reject fragments.
//
// # Recording
//
// [Capture] records the frames of any plug in the format pcapng, which Wireshark reads.
//
// # Networks that go away
//
// A switch may be restarted, and a command may end. With [Options.Reconnect] a plug opens
// its network again as soon as that is possible, and reports what has become of it by
// [Options.Notify] and [Linker]. Relative paths are looked up from the directory that the
// process is in then.
//
// # Switches
//
// A plug on switch://PATH, hub://PATH, multi://PATH or bonding://PATH is the switch that
// others of the host connect to as vde://PATH: programs in C (vde_plug, vdens,
// libvdestack), and this package. The plug itself is one of its ports. So is every other
// plug of the program that opens the same directory, with the same options or without any.
//
//   - switch:// sends a frame to the port where its station was seen last, within its VLAN,
//     or to all; tags stay as they are.
//   - hub:// sends every frame to all.
//   - multi:// sends frames of the program to all clients, and frames of clients to the
//     program only.
//   - bonding:// is multi:// that sends each frame to one client, in turn.
//
// Without PATH the directory is /tmp/vdenode_USER. The first plug makes it, and the last
// removes it. The leftovers of a killed switch are taken over; a directory with a running
// switch, or with anything else in it, is an error. The permissions of the sockets say who
// may connect: whoever may write to them.
//
// A client that does not read loses frames, and delays nobody. A client must send its
// request within three seconds, and there are 1024 clients at most. Clients of this package
// get packets as large as the kernel's TCP makes them, which is several times as fast.
//
// # Between processes
//
// lan:///PATH is one switch of the kernel for all processes of a user that open the path,
// absolute and at most 107 bytes long: stacks of package vdestack, and plugs. (lan://NAME is
// one of this process alone.)
//
//   - At PATH is a socket, and beside it the file PATH.lock. The first process makes them, in
//     a directory that exists, of this user or with the sticky bit, as /tmp; the last removes
//     them, and leftovers of killed ones are taken over. Others leave both alone: who removes
//     the lock file splits the network.
//   - No process is needed by the others. One of them, which serves the socket, lets
//     newcomers in; another does when it has left or was killed. While it is stopped (SIGSTOP,
//     a debugger) nobody can join, and Open says after ten seconds which process it is. Those
//     who have joined do not notice.
//   - All are in one user namespace: a program in a container of another one is refused.
//     /proc is needed.
//
// # Adding a network
//
// [Register] adds a scheme, whose Open returns any [Conn]. [Locator.ParseBracketed],
// [Locator.ParseSlashed] and [ParsedLocator.Apply] read its body. Implement [Dropper] if
// the network can drop frames, and [Linker] if it knows whether it is there; errors need
// not name the locator. Options that may hold secrets are marked, [OptionUsage.Secret]. Open
// does not have to heed [Options.Reconnect]: when Recv or Send of the plug has returned an
// error, the plug is closed and Open is called again.
package vdeplug
