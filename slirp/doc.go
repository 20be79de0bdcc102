// Package slirp gives a stack access to everything that the host can reach, without
// privilege: user-mode NAT. Importing it registers the scheme "slirp" with package
// vdeplug:
//
//	import _ "github.com/vdestack/vdestack/slirp"
//
//	st, err := vdestack.New(ctx, vdestack.Config{
//		Interfaces: []vdestack.Interface{{
//			VNL:      "slirp://",
//			Addrs:    []netip.Prefix{netip.MustParsePrefix("10.0.2.15/24")},
//			Gateways: []netip.Addr{netip.MustParseAddr("10.0.2.2")},
//		}},
//		DNS: vdestack.DNS{Servers: []netip.AddrPort{netip.MustParseAddrPort("10.0.2.3:53")}},
//	})
//
// A guest is a host on this network: the stack that opens it or, if the plug is joined
// to a switch, everything on that switch. A guest's connections end in gVisor's TCP/IP
// stack. They go on from ordinary sockets of the program, with the host's addresses,
// routes and firewall rules.
//
// Each plug is a network of its own, which ends when the plug or its stack is closed,
// with all connections, forwards and commands. Several stacks share one if it is joined
// to a switch: vdens plug slirp:// SWITCH.
//
// The package is a module of its own, so that only its users depend on gVisor. Programs
// without it can run slirp_plug, in this module too, or vdens.
//
// # The network
//
// Addresses and options are those of the C library, libvdeplug_slirp:
//
//	10.0.2.0/24   10.0.2.2 host and router, 10.0.2.3 name server, guests from 10.0.2.15 on
//	fd00::/64     fd00::2 host, fd00::3 name server, fe80::2 router
//
// Guests get IPv4 addresses by DHCP or BOOTP, and IPv6 addresses from router
// advertisements; there is no DHCPv6. [FirstGuest] returns the same configuration to
// programs. What they reach:
//
//   - The host's address leads to the host's loopback: 10.0.2.2 to 127.0.0.1,
//     fd00::2 to ::1. No other address does.
//   - The name server passes questions on to the first one in the host's
//     /etc/resolv.conf, over either family, and a question that is repeated from the
//     same port to the next. A server that has not answered for 0.8 seconds is passed
//     over until it answers again; to find out, it also gets the next question and
//     then one every ten seconds. UDP and TCP are judged separately. Other ports of
//     the name server are closed.
//   - All other addresses are those of the world. TCP, UDP and ping go there; ping
//     only if the kernel allows it to the program (sysctl net.ipv4.ping_group_range).
//
// For UDP a port of a guest has one socket of the host, for all destinations. Everybody
// who sends to that socket reaches the guest. It closes after 240 seconds without
// packets, or after 10 if it was used for names only.
//
// # Options
//
// Options are written slirp:///option/option=value. A "/" in a value is written %2f or
// quoted. Errors of Open quote the option.
//
//   - v4, v6: only this family. The default is both.
//   - addr or host=ADDRESS%2fBITS: the IPv4 address of the host, with its network. The
//     other addresses move to that network, with the same last bits.
//   - addr6 or host6=ADDRESS%2fBITS: the same for IPv6. Guests make addresses
//     themselves only in a network of 64 bits.
//   - dhcp=ADDRESS: the first address for guests, of 256 at most.
//   - vnameserver, vnameserver6=ADDRESS: the address of the name server.
//   - hostname, vdomainname=NAME, vdnssearch=DOMAIN,DOMAIN…: the guest's name
//     (default "slirp"), domain and search list in DHCP.
//   - tftp_path=DIRECTORY: TFTP at the host's address reads files in this directory.
//     It does not follow links out of it.
//   - bootfile=PATH, tftp_server_name=NAME: what DHCP tells guests that boot.
//   - mtu, mru=BYTES: the largest packet to a guest. The smaller one counts; the
//     default is 1500. Guests may send larger packets.
//   - disable_host_loopback: the host's address leads nowhere.
//   - metadata: guests reach the addresses where clouds give a machine its
//     credentials, which are refused by default: 169.254.0.0/16, 168.63.129.16,
//     100.100.100.200, 192.0.0.192, fd00:ec2::/32, fd20:ce::254, fd00:c1::a9fe:a9fe,
//     fd00:42::42, fd00:a9fe:a9fe::1 and fd00:100::100:200, and the IPv4 ones within
//     64:ff9b::/96 and 2002::/16.
//   - restricted: guests reach only DHCP, TFTP, unixfwd and cmdfwd, and get no router
//     and no name server. Forwards to guests work.
//   - tcpfwd, udpfwd=[HOSTIP:]HOSTPORT:GUESTIP:GUESTPORT,…: ports of the host that
//     lead to guests, on all IPv4 addresses of the host or on HOSTIP. IPv6 addresses
//     are in brackets. The guest sees the client's address, or the host's for
//     clients on loopback.
//   - unixfwd=[IP:]PORT:PATH,…: ports of the network that lead to unix sockets of the
//     host. IP is 10.0.2.4 by default.
//   - cmdfwd=[IP:]PORT:COMMAND,…: ports of the network where each connection starts a
//     command and is its standard input and output. The command is quoted as in a
//     shell, but runs without one. It gets SIGTERM when the connection ends, and
//     SIGKILL a second later.
//   - verbose: prints the configuration to standard error.
//
// # Limits
//
//   - A plug has at most 1024 TCP connections, and 512 sockets for UDP and ping; and at
//     most a quarter and an eighth of the descriptors that the program may have.
//   - A connection beyond the limit is refused. A new socket replaces the one that
//     would close first. Connections that are not established yet are at most a
//     quarter of all; a new one replaces the oldest.
//   - The buffers of a connection take at most half a MiB.
//   - To the host, the connections of guests are the program's. Guests reach whatever
//     the program may reach, including services on the host's other addresses.
//   - A guest gets ICMP errors for hosts and networks that the host cannot reach, and
//     for what it may not reach. If a host does not answer, the guest hears nothing. Other
//     errors of connecting become "connection refused".
//   - There is no ICMP other than these errors and ping, no protocol other than TCP and
//     UDP, and no multicast beyond the network.
//   - DHCP does not know addresses that were set by hand.
//   - On systems other than Linux there is neither ping nor cmdfwd, and nothing has been
//     tested.
//
// Log messages of gVisor are discarded, unless the program directs them elsewhere
// (SetTarget of gvisor.dev/gvisor/pkg/log).
package slirp
