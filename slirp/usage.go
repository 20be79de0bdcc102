package slirp

import "github.com/vdestack/vdestack/vdeplug"

var usage = vdeplug.Usage{
	Form:  "slirp://[/OPTIONS]",
	About: "all that the host can reach, without privilege: user-mode NAT",
	Options: []vdeplug.OptionUsage{
		{Name: "v4", About: "only IPv4"},
		{Name: "v6", About: "only IPv6"},
		{Name: "addr", Aliases: []string{"host"}, Value: "ADDRESS%2fBITS", Default: "10.0.2.2%2f24", About: "the host, with the network"},
		{Name: "addr6", Aliases: []string{"host6"}, Value: "ADDRESS%2fBITS", Default: "fd00::2%2f64", About: "the same for IPv6"},
		{Name: "dhcp", Value: "ADDRESS", Default: "10.0.2.15", About: "the first guest"},
		{Name: "vnameserver", Value: "ADDRESS", Default: "10.0.2.3", About: "the name server"},
		{Name: "vnameserver6", Value: "ADDRESS", Default: "fd00::3", About: "the same for IPv6"},
		{Name: "hostname", Value: "NAME", Default: "slirp", About: "the guest's, for DHCP"},
		{Name: "vdomainname", Value: "NAME", About: "the guest's domain, for DHCP"},
		{Name: "vdnssearch", Value: "DOMAIN,DOMAIN", About: "where guests look for names, for DHCP"},
		{Name: "tftp_path", Value: "DIRECTORY", About: "whose files guests may read by TFTP"},
		{Name: "tftp_server_name", Value: "NAME", About: "what DHCP says to a guest that boots"},
		{Name: "bootfile", Value: "PATH", About: "the same"},
		{Name: "mtu", Value: "BYTES", Default: "1500", About: "the largest packet to a guest"},
		{Name: "mru", Value: "BYTES", Default: "1500", About: "the same; the smaller one counts"},
		{Name: "disable_host_loopback", About: "the host's address leads nowhere"},
		{Name: "metadata", About: "guests reach the metadata services of clouds"},
		{Name: "restricted", About: "guests reach forwards, unixfwd, cmdfwd, DHCP and TFTP only"},
		{Name: "tcpfwd", Value: "[HOSTIP:]HOSTPORT:GUESTIP:GUESTPORT,...", About: "ports of the host that lead to guests"},
		{Name: "udpfwd", Value: "[HOSTIP:]HOSTPORT:GUESTIP:GUESTPORT,...", About: "the same"},
		{Name: "unixfwd", Value: "[IP:]PORT:PATH,...", About: "ports of the network that lead to unix sockets"},
		{Name: "cmdfwd", Value: "[IP:]PORT:COMMAND,...", About: "ports of the network that start commands", Secret: true},
		{Name: "verbose", About: "print all this to standard error"},
	},
}
