// Package wireguard adds WireGuard tunnels to stacks: an interface of the stack leads to the
// peers of a VPN, by wireguard-go.
//
//	c, err := wireguard.ParseConfig(text) // a file of wg-quick
//	…
//	tun, err := wireguard.Open(ctx, c)
//	…
//	conn, err := tun.Stack().Dial("tcp", "10.0.0.1:80")
//
// [Open] makes a stack that has nothing but the tunnel, and so reaches nothing else whatever
// happens to it. [Up] adds a tunnel to a stack with other interfaces. Neither needs a privilege,
// nor changes anything of the host: addresses, routes and DNS are the stack's. They take
// /dev/net/tun. [Tunnel.SetPeer] and [Tunnel.RemovePeer] change the peers of a tunnel in use,
// [Tunnel.Peers] tells when each was heard of. Stats of the stack have the peers too, and so have
// package expvar and module metrics, by their public keys.
//
// # Whether it works
//
// WireGuard has no connections: Open and Up do not wait for peers, and nothing is sent until the
// stack sends something to one, or PersistentKeepalive is set. LastHandshake in [PeerStatus] is
// then when the peer has answered; if it stays zero, the keys of both ends, the Endpoint or a
// firewall are wrong. A packet for no peer's AllowedIPs is dropped, and one from a peer that is
// not in its AllowedIPs too. If somebody removes the interface, by rtnl for example, the tunnel's
// methods report [net.ErrClosed], and Close frees the rest.
//
// # The encrypted side
//
// The socket for encrypted packets is the host's, where names of endpoints are looked up too, or
// that of another stack, Config.Underlay: so networks of stacks, such as vxvde://, are joined by
// tunnels. A peer that sends from elsewhere is followed. One that does not answer for 20 seconds
// is looked for at its Endpoint: the name is looked up again, and of several addresses the next
// is tried.
//
// # How long it takes
//
// TCP connections in a tunnel outlive all of this; what is lost they send again.
//
//   - New keys are agreed on every two minutes while packets flow. Nothing is lost or waits.
//   - A handshake that is lost is begun again after 5 seconds.
//   - A peer that moves is followed with its first packet from there. When addresses of this end
//     change, the next packet leaves from another.
//   - A peer that begins anew with the same keys, as after a crash, is back with its first packet,
//     if it has an Endpoint and something to send: PersistentKeepalive is enough. One that waits is
//     back 15 seconds after this end has first sent to it in vain.
//
// # The kernel's WireGuard
//
// Where the kernel has it, a stack can have its link instead: rtnl.LinkSpec{Kind: "wireguard"} for
// LinkAdd, configured by generic netlink or by the program wg in the stack. Its encrypted socket
// is in the stack that the link was made in, also when it has been moved to another
// (LinkSpec.NetNS).
//
// # Keys
//
// A [Key] is shown as "(key)" by package fmt, slog and JSON, and errors quote nothing that may be
// one.
package wireguard
