// Package vdestack gives a process extra, private TCP/IP stacks.
//
// A [Stack] is a network namespace of the Linux kernel used as a library: the
// kernel's own TCP/IP, Ethernet interfaces in it, and plugs that carry their
// frames to Virtual Distributed Ethernet (VDE) networks. It needs no privilege,
// no cgo and no other program.
//
//	st, err := vdestack.Open("vxvde://234.0.0.1", "10.0.0.50/24")
//
// # Sockets
//
// [Stack.Dial], [Stack.DialContext], [Stack.Listen] and [Stack.ListenPacket] are
// those of package net, and return its types: sockets of the kernel, with
// deadlines, keep-alives, multipath TCP, sendfile and all the rest. [Dialer] and
// [ListenConfig] add a stack to net.Dialer and net.ListenConfig.
// [Stack.ControlContext] and [Stack.Control] are hooks with which the dialers
// and listeners of any library join a stack. [Stack.Socket] makes sockets of any
// other kind.
//
// # Names
//
// Names are resolved by [Config].DNS alone, from within the stack: nothing of
// the host's resolver, hosts file or search list is used. A stack without DNS
// servers knows literal addresses, localhost and the names in DNS.Hosts. Commands
// resolve names as the machine does, unless Cmd.Names gives them the stack's.
//
// # Configuration
//
// [Open] and [New] make interfaces with addresses and default routes.
// [Stack.AddInterface] and [Stack.RemoveInterface] change them while the stack is in
// use, [Stack.SetDNS] how names are resolved. The rest is done by netlink
// ([Stack.RTNL], package rtnl), by programs that run in the stack ([Stack.Command],
// [Stack.Run]) and by [Stack.Sysctl]; [Stack.ReadSysctl] reads settings.
//
// # Networks
//
// Package vdeplug has the networks: a switch in the process (mem://), switches
// of the host (vde://), distributed switches (vxvde://), cables (ptp://,
// udp://), TAP interfaces (tap://), commands (cmd://), and those that a program
// registers.
//
// # Privileges
//
// A program changes its user before its first stack, or not at all.
//
// Stacks belong to the user who made the first. Their sockets are made by a helper
// task that keeps what the program was then; all else is done with the rights that
// the program has now. When it has become another user, stacks keep their
// connections and make sockets of all kinds, raw ones too. Refused, with the reason,
// are ports below 1024, [Stack.Sysctl], changes of interfaces and by netlink, commands, plugs that are
// the first on a mem:// network of stacks, and new stacks; [Stack.Close] works. This
// is no protection from code that an attacker runs in the program: it shares its
// memory with the helper. Another group, fewer capabilities, no_new_privs and another
// root directory take nothing from a stack.
//
// The stacks of a program are one trust domain for the commands in them. A program
// that runs commands of others gives their stacks [Config].Isolated: the commands of
// one have no capabilities over the other and cannot trace what is in it. What
// remains is what one user's processes may do to each other: signals, files and, for
// root, all that root's files open.
//
// After setuid a process is not dumpable, and the kernel does not let it set up a
// user namespace: [New] says so. Start the program as the user, or call
// prctl(PR_SET_DUMPABLE, 1) after setuid, which lets other processes of the user read
// its memory; the package never does that by itself.
//
// # From C
//
// vde_addstack is [Open] or [New], vde_delstack [Stack.Close], vde_msocket
// [Stack.Socket], vde_stackcmd [Stack.Run], vde_default_stack [SetDefault].
// Package rtnl lists what its methods replace of nlinline.
//
// # Limits
//
// Linux on amd64 and arm64; elsewhere [New] returns an error that wraps
// errors.ErrUnsupported. Either user namespaces are allowed or the program has
// CAP_SYS_ADMIN. Interfaces on mem:// and lan:// are made by the kernel alone; others
// are TAPs where the user has /dev/net/tun, and veth pairs elsewhere.
package vdestack
