// Package serve has small servers for labs, to run in a stack: DHCPv4, DHCPv6, router
// advertisements and DNS.
//
//	s, err := serve.Start(server, serve.Config{Domain: "lab.example"})
//
// The zero [Config] gives the addresses of the interface's IPv4 network to whoever asks,
// advertises its IPv6 network and gives addresses there, and answers questions about the names
// of those who have one. Each of the four has a field to turn it off. Each interface of a stack
// can have a server, with names of its own.
//
// Clients are told that the stack is their router. To be one it has to forward between its
// interfaces, which translates no addresses:
//
//	err = server.Sysctl("net/ipv4/ip_forward", "1")
//	…
//	err = server.Sysctl("net/ipv6/conf/all/forwarding", "1")
//
// What clients say of themselves is believed, and DNS answers whoever reaches the addresses of the
// interface: docs/SECURITY.md of the repository says what a hostile one can do.
//
// # DHCPv4
//
// The server is the one of its network, RFC 2131: it refuses addresses that other clients have,
// and those of other networks. It gives everybody who asks an address, so it is for networks
// whose machines are the user's own.
//
//   - An address that no client has is looked for by ARP before it is offered.
//   - A client gets the address again that it had before, as long as no other needs it.
//   - Leases are in memory. When the server begins again, a client that asks for its address
//     gets it if it is free.
//   - When all addresses are taken, new offers take the place of old ones which no client has
//     accepted. What was leased stays with its client. At most 16384 clients have addresses.
//   - Clients behind relays, and those of BOOTP, are not served.
//
// # Router advertisements
//
// They follow RFC 4861, section 6.2. A host that asks gets one within half a second; all get one
// when many ask, at most every three seconds, and from time to time. The last one takes the
// router back.
//
// # DHCPv6
//
// A client gets one address for each of its IAs, made of its DUID: it needs no pool, and is the
// same when the server begins again. Prefixes are not delegated, and clients behind relays
// not served. More than 16384 clients get addresses, but no names.
//
// # Names
//
// A client has the name that it says (options 81 and 12; 39 of DHCPv6) if that is below the
// domain, by eight labels at most, and is not a name of another client, of a [Reservation] or of
// Config.Hosts, nor wpad, isatap, autodiscover, autoconfig or localhost, which programs trust: who
// comes first has it until its lease ends. By both protocols it is one client if its hardware
// address is the same. DNS has these names and those of Config.Hosts, with their addresses, and
// the names of addresses. Nobody keeps the answers, for they have a lifetime of zero. To use the
// names itself, the stack needs its own address in SetDNS.
//
// Other names do not exist, unless DNS.Upstream has servers who know them. Names of the domain, of
// addresses in the interface's networks, and hosts without a domain are never asked there.
package serve
