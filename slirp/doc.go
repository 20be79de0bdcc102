// Package slirp gives a stack access to all that the host can reach, without
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
// A guest is whoever is on the plug's side: a stack, or all that is on a switch
// to which the plug is joined. What it sends ends in gVisor's TCP/IP stack, and
// goes on from ordinary sockets of the program, so it leaves with the host's
// addresses, and by the host's routes and rules. The package is a module of its
// own, so that nobody else depends on gVisor.
//
// # The network
//
// Addresses and options are those of the C library, libvdeplug_slirp:
//
//		10.0.2.0/24   10.0.2.2 host and router, 10.0.2.3 name server, guests from 10.0.2.15 on
//		fd00::/64     fd00::2 host, fd00::3 name server, fe80::2 router
//
//	  - The host's address leads to the host's loopback: 10.0.2.2 to 127.0.0.1,
//	    fd00::2 to ::1. No other address does.
//	  - The name server hands questions to the one that /etc/resolv.conf of the host
//	    names first, whatever its family, and those that are asked again from the same
//	    port to the next. A server that has answered nothing for 0.8 seconds after a
//	    question is passed over until it answers again; the next question, and one in
//	    every ten seconds, goes to it too. UDP and TCP count separately. There is no other port than 53.
//	  - Guests get IPv4 addresses by DHCP (or BOOTP), and make IPv6 addresses of
//	    what the router advertises.
//	  - Other addresses are those of the world. TCP, UDP and, where the kernel lets
//	    the program (net.ipv4.ping_group_range), ping go there.
//
// A port of a guest has one socket for UDP, for all destinations, and everybody
// who sends to that socket reaches the guest. It ends after 240 seconds of
// silence, and after 10 if it was for names only.
//
// # Options
//
// They are written slirp:///option/option=value; a "/" in a value is written %2f or
// quoted.
//
//   - v4, v6: only this family. By default there are both.
//   - addr or host=ADDRESS%2fBITS: the IPv4 address of the host, with the network.
//     The others have the same end in it as in the default one.
//   - addr6 or host6=ADDRESS%2fBITS: the same for IPv6. Guests make addresses only
//     in a network of 64 bits.
//   - dhcp=ADDRESS: the first address for guests. There are 256 at most.
//   - vnameserver, vnameserver6=ADDRESS: the address of the name server.
//   - hostname, vdomainname=NAME, vdnssearch=DOMAIN,DOMAIN…: what DHCP says of the
//     guest's name ("slirp" by default), its domain, and the list of domains.
//   - tftp_path=DIRECTORY: whose files are there to be read by TFTP at the host's
//     address. Links that lead out of it are not followed.
//   - bootfile=PATH, tftp_server_name=NAME: what DHCP says to who boots.
//   - mtu, mru=BYTES: the largest packet to a guest; the smaller one counts, 1500 by
//     default. Packets of guests may be as large as they like.
//   - disable_host_loopback: the host's address leads nowhere.
//   - metadata: guests reach 169.254.0.0/16 and the other addresses where clouds give a
//     machine its credentials: 168.63.129.16, 100.100.100.200, 192.0.0.192,
//     fd00:ec2::/32, fd20:ce::254, fd00:c1::a9fe:a9fe, fd00:42::42, fd00:a9fe:a9fe::1
//     and fd00:100::100:200, and those of IPv4 within 64:ff9b::/96 and 2002::/16. By
//     default they are refused.
//   - restricted: guests reach nothing but DHCP, TFTP, unixfwd and cmdfwd. They are
//     told of no router or name server. Forwards to them work.
//   - tcpfwd, udpfwd=[HOSTIP:]HOSTPORT:GUESTIP:GUESTPORT,…: ports of the host that
//     lead to guests; on all IPv4 addresses of the host unless one is given. IPv6
//     addresses are in brackets. The guest sees the address of the client, or
//     the host's if that is on loopback.
//   - unixfwd=[IP:]PORT:PATH,…: ports of the network, at 10.0.2.4 unless an address
//     is given, that lead to unix sockets of the host.
//   - cmdfwd=[IP:]PORT:COMMAND,…: ports of the network where each connection is the
//     standard input and output of a command of its own. It gets SIGTERM when the
//     connection ends, and is killed after a second.
//   - verbose: prints all this to standard error.
//
// # Limits
//
// A plug has 1024 connections and 512 sockets for UDP and ping at most, and no more
// than a quarter and an eighth of the descriptors that the program may have. A
// connection too many is refused; of the sockets, that which would end first makes
// room. No more than a quarter of the connections are being made: then the oldest
// of these makes room. A connection takes half a MiB of buffers at most.
//
// Guests cannot be told from the program: what may be reached by the host's rules,
// on its other addresses too, may be reached by them.
//
// Guests are told of hosts and networks that the host cannot reach, and of what it
// may not, as by a router. A host that does not answer is silent to them too, and
// other errors of connecting are seen as "connection refused". There is no other ICMP
// but ping, no protocol but TCP and UDP, and no multicast beyond the network. DHCP does
// not know of addresses that were set by hand. On other systems than Linux there is
// neither ping nor cmdfwd, and nothing was tried.
//
// What gVisor itself logs is discarded, unless the program says where it goes
// (SetTarget of gvisor.dev/gvisor/pkg/log).
package slirp
