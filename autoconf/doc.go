// Package autoconf keeps an interface of a stack configured: by DHCP, by router
// advertisements and by what is static, in the language of the C library iothconf.
//
//	cfg, err := autoconf.Parse("auto,slaac,fqdn=host.example.org")
//	…
//	c, err := autoconf.Start(ctx, st, cfg)
//
// [Start] returns when there is something to work with. From then on the [Client] renews what
// it has, follows what routers and servers say, and removes what ends, until it or the stack is
// closed. [Client.Watch] tells what happens, [Client.Leases] what is known, and
// [Client.Change] adds sources and takes them back. [Open] makes a stack and configures it.
// [Hash] derives addresses from names, as iothconf and libioth do.
//
// All needs no privileges that the stack does not need, and Linux, as stacks do. Whoever answers
// first on a network decides what is configured: docs/SECURITY.md of the repository says what a
// hostile neighbour can do.
//
// # The language
//
// A text is a list of items, separated by commas, semicolons, blanks or line ends. Quotes
// ('…' or "…") and backslashes protect characters, # begins a comment.
//
//	iface=NAME        the interface; vde0 if none is given
//	ifindex=N         the interface by its number
//	fqdn=NAME         its name: for hash addresses, and told to DHCP servers
//	mac=ADDRESS       its hardware address, for eth; macaddr too
//	eth               set the hardware address, that of mac or the hash of fqdn, and set it up
//	dhcp              DHCPv4; dhcp4, dhcpv4 too
//	dhcp6             DHCPv6; dhcpv6 too
//	rd                router advertisements; rd6 too
//	slaac[=HOW]       with rd: an address in each prefix, by hash (of the fqdn), eui64 (from
//	                  the hardware address), stable (RFC 7217) or default, hash or else eui64
//	temporary         with slaac: temporary addresses too (RFC 8981)
//	release           give leases back at the end
//	auto              eth, dhcp, dhcp6 and rd
//	auto4, auto6      eth and dhcp; eth, dhcp6 and rd; autov4, autov6 too
//	ip=ADDRESS[/LEN]  a static address; LEN is 24 for IPv4, 64 for IPv6 if it is left out
//	gw=ADDRESS        a static default route
//	dns=ADDRESS       a static server of names
//	domain=NAME       a static domain of the search list
//	debug             log what is known
//	vnl=LOCATOR       the network of a stack that is to be made
//	stack=vdestack    accepted, for there is no other; thread is accepted too
//
// ip, gw, dns and domain repeat; of the others the last one counts. With a minus, items are
// taken back: -ip=, -gw=, -dns= and -domain= one static item, -static all of them; -dhcp,
// -dhcp6, -rd what these have brought; -eth sets the interface down; -auto (or -all),
// -auto4 and -auto6 are as above. The order does not matter: items with a minus come first.
//
// release, temporary and the argument of slaac are not iothconf's. What iothconf ignores,
// such as ip=notanaddress, is an error here.
//
// # From C
//
// ioth_config is [Start] for the first string and [Client.Change] for those that follow,
// ioth_newstackc is [Open], ioth_resolvconf is [Client.ResolvConf]. In C, leases are not
// renewed, lifetimes and MTU are not applied, and the stack's resolver is not told.
package autoconf
