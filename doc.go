// Package vdestack gives a process private TCP/IP stacks of its own.
//
// A [Stack] is a network namespace of the Linux kernel used as a library: the
// kernel's own TCP/IP, Ethernet interfaces, and plugs that carry their frames to
// Virtual Distributed Ethernet (VDE) networks. It needs no privilege, no cgo and no
// other program.
//
//	st, err := vdestack.Open("vxvde://234.0.0.1", "10.0.0.50/24", "fc00::1:50/64")
//
// A stack reaches what is on its networks, and nothing else: not the host, nor the
// Internet, unless one of the networks leads there (slirp://, tap://, macvtap://).
//
// # Sockets
//
// [Stack.Dial], [Stack.DialContext], [Stack.Listen] and [Stack.ListenPacket] work as
// in package net, and return its types: sockets of the kernel, with deadlines,
// keep-alives, multipath TCP, sendfile and all the rest. [Dialer] and [ListenConfig]
// add a stack to net.Dialer and net.ListenConfig. [Stack.ControlContext] and
// [Stack.Control] are hooks with which the dialers and listeners of any library join a
// stack. [Stack.Socket] makes sockets of any other kind.
//
// # Names
//
// [Config].DNS alone resolves names, from within the stack: the host's resolver, hosts
// file and search list are not used. A stack without DNS servers knows literal
// addresses, localhost and the names in DNS.Hosts. [Stack.LookupHost], [Stack.LookupTXT]
// and the others are the lookups of net.Resolver; [Stack.Resolver] is for libraries that
// take nothing but that type. Commands resolve names as the machine does, unless Cmd.Names
// gives them the stack's.
//
// # Configuration
//
// [Open] and [New] make interfaces with addresses and default routes.
// [Stack.AddInterface] and [Stack.RemoveInterface] change them while the stack is in
// use, [Stack.SetDNS] how names are resolved. [Stack.TUN] makes an interface whose network
// is the program itself, for VPNs and tunnels. Everything else is done by netlink
// ([Stack.RTNL], package rtnl), by programs that run in the stack ([Stack.Command],
// [Stack.Run]) and by [Stack.Sysctl]; [Stack.ReadSysctl] reads settings.
//
// [Stack.Netlink] is netlink of any other family: a connection of mdlayher/netlink, for
// mdlayher/genetlink, conntrack, packet filters and messages of one's own. Libraries that
// open netlink themselves and take a namespace at most, such as google/nftables and wgctrl,
// would need CAP_SYS_ADMIN for that. They work in a command, which can be the program itself:
//
//	if os.Getenv("APP_FILTER") != "" { // first thing in main: this is the child
//		c, err := nftables.New()
//		…
//		return
//	}
//
//	cmd := st.Command(ctx, "/proc/self/exe")
//	cmd.Env = append(os.Environ(), "APP_FILTER=1")
//	err := cmd.Run()
//
// Several types are those of package stack, which documents their fields and methods:
//
//	go doc github.com/vdestack/vdestack/stack Interface
//
// Module autoconf gets addresses, routes and DNS servers from the network, and keeps them;
// module wireguard adds tunnels.
//
// # Networks
//
// Package vdeplug has the networks: a switch in the process (mem://), switches of the
// host (vde://), distributed switches (vxvde://), cables (ptp://, udp://), TAP
// interfaces (tap://), commands (cmd://), more of them, and those that a program
// registers.
//
// # Counters
//
// [Stacks] lists the stacks of the process. [Stack.Stats] has the counters of interfaces,
// their networks and the peers of tunnels, [Stack.SocketStats] those of the kernel's TCP and
// UDP, [Forward.Stats] those of a forward, and vdeplug.Switches those of switches in the
// process. [Vars] has all of them for package expvar, and module metrics for Prometheus. No
// counter goes down while what it counts is in use.
//
// # Errors
//
// Errors say what is wrong and, where the user can do it, what to do. Those of dialing,
// listening and lookups have the form of package net, and those of netlink that of package
// rtnl; the others begin with the name of the stack. For [errors.Is] and [errors.As]:
//
//   - [net.ErrClosed]: the stack was closed, or the connection.
//   - [ErrNoStack]: the Stack is nil, because nobody looked at the error of Open.
//   - [*InterfaceError]: the interface that could not be made, and why.
//   - [fs.ErrExist] from New and AddInterface: the name of the interface is in use.
//   - [fs.ErrNotExist] from RemoveInterface and Emulator: there is no such interface.
//   - [*vdeplug.Error]: a network could not be opened or, in InterfaceStats.Err, is gone.
//   - [*RefusedError]: the machine, or what confines the program, does not allow it, such
//     as user namespaces that are switched off; it has the reason.
//   - [errors.ErrUnsupported]: not on this system, or an unknown scheme of networks.
//   - [*net.OpError], [*net.DNSError], [*os/exec.ExitError] and [*rtnl.Error], as
//     elsewhere.
//
// # Privileges
//
// A program changes its user before its first stack, or not at all.
//
// Stacks belong to the user who made the first one. A helper task makes their sockets
// with the rights that the program had then; everything else is done with the rights
// that the program has now. After a change of the user
//
//   - stacks keep their connections and make sockets of all kinds, and [Stack.Close]
//     works;
//   - refused, with the reason, are ports below 1024, [Stack.Sysctl], netlink, changes of
//     interfaces, commands, the first plug on a mem:// network of stacks, and new stacks.
//
// Giving up groups, capabilities or the root directory, and no_new_privs, take nothing
// from a stack. None of this protects from code that an attacker runs in the program: it
// shares its memory with the helper.
//
// After setuid a process is not dumpable, and the kernel does not let it set up a user
// namespace: [New] says so. Start the program as the user, or call
// prctl(PR_SET_DUMPABLE, 1) after setuid, which lets other processes of the user read its
// memory; the package never does that by itself.
//
// The stacks of a program are one trust domain for the commands in them. A program that
// runs other people's commands gives their stacks [Config].Isolated: the commands of one
// have no capabilities over the other and cannot trace what is in it. They can still do
// to each other what processes of one user can: send signals, change files and, for root,
// everything that root's files open.
//
// # From C
//
// vde_addstack is [Open] or [New], vde_delstack [Stack.Close], vde_msocket
// [Stack.Socket], vde_stackcmd [Stack.Run], vde_default_stack [SetDefault]. Package rtnl
// lists the methods that replace nlinline.
//
// # Limits
//
// Linux on amd64 and arm64; elsewhere [New] returns an error that wraps
// errors.ErrUnsupported. User namespaces must be allowed, or the program must have
// CAP_SYS_ADMIN and CAP_NET_ADMIN; [Check] says what works, and what to do about the rest.
// The kernel alone makes interfaces on mem:// and lan://; others are TAPs if the user has
// /dev/net/tun, and veth pairs if not.
package vdestack
