// Vdens runs a command in a TCP/IP stack of its own, on Virtual Distributed
// Ethernet networks. It needs no privilege.
//
//	vdens vxvde://234.0.0.1
//	vdens slirp:// -- curl example.org
//	vdens -conf auto,fqdn=host.example.org vxvde://234.0.0.1
//	vdens -p 8080:80 vde:// -- httpd -f
//	vdens -addr 10.0.0.1/24 -gw 10.0.0.254 -dns 9.9.9.9 vde:// -- curl example.org
//	vdens -w file.pcapng vxvde:// -- ping 10.0.0.1
//	vdens -i eth -addr eth0=10.0.0.1/24 -addr eth1=10.1.0.1/24 vde:// vxvde://
//
// It also joins networks, by itself or with dpipe and ssh, as vde_plug does:
//
//	vdens plug vde:// vxvde://234.0.0.1
//	dpipe vdens plug vde:// = ssh host vde_plug vde://
//
// "vdens -h" shows the options, "vdens --list" the networks.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vdestack/vdestack"
)

const usage = `usage: vdens [options] [network...] [-- command [argument...]]
       vdens plug [-reconnect] [-descr text] [network [network]]
       vdens --list

Vdens runs a command, by default a shell, in a TCP/IP stack of its own. Each
network, a VDE locator such as vxvde://, vde:///run/vde.ctl or mem://, gets an
interface, vde0, vde1 and so on, which is up. Without a network, or with "-" or
"no" for it, there is loopback only. On slirp://, which reaches everything that the
host can, an interface without -addr and -conf becomes the network's first guest,
with the network's routes and name server unless options set others.

options:
  -i prefix         first part of the interfaces' names (default vde)
  -addr [if=]a/len  address of an interface, by default of the first; may be
                    repeated, as may -gw and -dns
  -gw [if=]a        default route, through an interface
  -conf item,...    how an interface configures itself, and stays configured: auto
                    (by DHCP and router advertisements), dhcp, slaac and others, see
                    below
  -dns a            name server of the command; without one, or one that -conf finds,
                    it knows localhost
  -w file           record all frames of the interfaces, in the format pcapng;
                    "-" is standard output, and the command's output then goes
                    to standard error
  -p [a:]port:[a:]port[/udp]
                    port of the host that leads to one in the stack
  -P [a:]port:[a:]port[/udp]
                    port of the stack that leads to one on the host
  -r file           the command's /etc/resolv.conf; it may be the machine's own
  -names=false      leave the command the machine's resolv.conf, hosts, services
                    for names, such as nscd, and /sys/class/net
  -h                show this
  --list            show all networks and their options

-m, --multi, --iface, --resolvconf and -R or --resolvaddr a,a work as in the vdens of
VirtualSquare. So do VDE_RESOLVCONF and VDE_RESOLVADDR in the environment, unless
options are given.

-conf takes the language of iothconf: auto4 is DHCPv4, auto6 is DHCPv6 and router
advertisements, auto is all of them; slaac makes addresses of the prefixes, release
gives the lease back at the end, fqdn=name names the host, ip=, gw=, dns= and domain=
are static, debug tells what happens. The documentation of module autoconf has the
rest. iface=vde1 is another interface than the first; each can have one -conf. The
command starts when all that was asked for has answered or after 10 s, and not at all if
an interface has got nothing. -addr and -gw are added to what is found. Servers that
are found are the command's, also when they change, unless -dns or -r says otherwise.

-p and -P may be repeated. The first port listens, on 127.0.0.1 unless there is an
address; an empty one, as in :8080:80, means all. Whoever reaches it reaches the server,
which is at the second port, of localhost unless there is an address or a name. IPv6
addresses are in brackets. A first port of 0 is one that is free, which is logged. On
the host unix:path is a unix socket: -p unix:/run/x:80, -P 80:unix:/run/x.

Keys of the terminal, such as ^C, go to the command. SIGTERM and SIGHUP are passed on
to it. When it has ended, processes that it left behind lose their network.

Plug joins two networks. With one, or none for the default network, it speaks the
VDE stream format on standard input and output, for dpipe, ssh and vde_plug. It
ends with status 0 at the end of its input, and with 125 when a network is gone;
with -reconnect it opens that network again instead. Switches show the text of
-descr for its ports.

exit status: that of the command, or
  128+n  a signal n ended the command
  127    the command was not found
  126    the command cannot be executed
  125    the stack could not be made, or a network of plug is gone
  2      wrong use
`

// Exit statuses of vdens itself, the same as those of env.
const (
	statusUsage      = 2
	statusFailed     = 125
	statusNoExec     = 126
	statusNotFound   = 127
	statusSignalBase = 128
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "plug" { // a switch there is ./plug
		plugMain(os.Args[2:])
	}
	o, err := parse(os.Args[1:])
	switch {
	case errors.Is(err, errList):
		list(os.Stdout)
		return
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage)
		return
	case err != nil:
		wrongUse(err)
	}
	os.Exit(run(o))
}

func wrongUse(err error) {
	fmt.Fprintf(os.Stderr, "vdens: %v\nvdens -h shows the usage\n", err)
	os.Exit(statusUsage)
}

// options are the settings of the command line.
type options struct {
	interfaces []vdestack.Interface
	dns        []netip.Addr
	names      bool // the command has names of its own
	ports      []port
	confs      []conf
	capture    string // file; may be empty
	resolvConf string // file; may be empty
	command    []string
}

// parse reads the command line. Options and networks may come in any order; the command
// follows "--".
func parse(args []string) (*options, error) {
	o := &options{}
	if i := slices.Index(args, "--"); i >= 0 {
		args, o.command = args[:i], args[i+1:]
	}
	if len(o.command) == 0 {
		shell := os.Getenv("SHELL")
		if shell == "" {
			shell = "/bin/sh"
		}
		o.command = []string{shell}
	}

	var prefix string
	var networks, addrs, gateways []string
	flags := flag.NewFlagSet("vdens", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&prefix, "i", "vde", "")
	flags.StringVar(&o.capture, "w", "", "")
	flags.StringVar(&prefix, "iface", "vde", "")
	flags.BoolVar(&o.names, "names", true, "")
	var showList, multi bool
	flags.BoolVar(&showList, "list", false, "")
	flags.BoolVar(&multi, "m", false, "") // several networks need no option
	flags.BoolVar(&multi, "multi", false, "")
	flags.StringVar(&o.resolvConf, "r", "", "")
	flags.StringVar(&o.resolvConf, "resolvconf", "", "")
	flags.Func("R", "", o.addDNS)
	flags.Func("resolvaddr", "", o.addDNS)
	flags.Func("addr", "", appendTo(&addrs))
	flags.Func("gw", "", appendTo(&gateways))
	flags.Func("dns", "", o.addDNS)
	flags.Func("conf", "", o.addConf)
	flags.Func("p", "", o.addPort(false))
	flags.Func("P", "", o.addPort(true))
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		if flags.NArg() == 0 {
			break
		}
		networks, args = append(networks, flags.Arg(0)), flags.Args()[1:]
	}

	switch {
	case showList:
		return nil, errList
	case o.resolvConf != "" && o.dns != nil:
		return nil, errors.New("-r is a whole resolv.conf: -dns would be lost")
	case !o.names && o.dns != nil:
		return nil, errors.New("-names=false leaves the command the machine's name servers: -dns would be lost")
	case o.resolvConf == "" && o.dns == nil:
		// As in the vdens of VirtualSquare, addresses come first.
		if text := os.Getenv("VDE_RESOLVADDR"); text != "" && o.names {
			if err := o.addDNS(text); err != nil {
				return nil, fmt.Errorf("VDE_RESOLVADDR: %w", err)
			}
		} else {
			o.resolvConf = os.Getenv("VDE_RESOLVCONF")
		}
	}
	if len(networks) == 1 && isNone(networks[0]) {
		networks = nil
	}
	for i, vnl := range networks {
		if isNone(vnl) {
			return nil, fmt.Errorf("%q is no network, and cannot be one of several", vnl)
		}
		o.interfaces = append(o.interfaces, vdestack.Interface{VNL: vnl, Name: fmt.Sprint(prefix, i)})
	}
	if o.capture != "" && len(o.interfaces) == 0 {
		return nil, fmt.Errorf("-w %s: there is no interface without a network", o.capture)
	}
	for _, text := range addrs {
		f, value, err := o.iface("addr", text)
		if err != nil {
			return nil, err
		}
		p, err := netip.ParsePrefix(value)
		if err != nil {
			return nil, fmt.Errorf("-addr %s: %q is not ADDRESS/LENGTH, such as 10.0.0.1/24", text, value)
		}
		f.Addrs = append(f.Addrs, p)
	}
	for _, text := range gateways {
		f, value, err := o.iface("gw", text)
		if err != nil {
			return nil, err
		}
		gw, err := netip.ParseAddr(value)
		if err != nil {
			return nil, fmt.Errorf("-gw %s: %q is not an address", text, value)
		}
		f.Gateways = append(f.Gateways, gw)
	}
	return o, o.checkConfs()
}

// errList means that the user wants the list of networks instead of a stack.
var errList = errors.New("list")

// addDNS adds name servers, separated by commas.
func (o *options) addDNS(text string) error {
	for s := range strings.SplitSeq(text, ",") {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return err
		}
		o.dns = append(o.dns, a)
	}
	return nil
}

func appendTo(list *[]string) func(string) error {
	return func(text string) error {
		*list = append(*list, text)
		return nil
	}
}

// isNone reports whether an argument stands for no network.
func isNone(vnl string) bool { return vnl == "" || vnl == "-" || vnl == "no" }

// iface returns the interface that an option is for, and the option's value: it
// is written "interface=value", or as the value alone for the first interface.
func (o *options) iface(option, text string) (*vdestack.Interface, string, error) {
	if len(o.interfaces) == 0 {
		return nil, "", fmt.Errorf("-%s %s: there is no interface without a network", option, text)
	}
	name, value, ok := strings.Cut(text, "=")
	if !ok {
		return &o.interfaces[0], text, nil
	}
	for i := range o.interfaces {
		if o.interfaces[i].Name == name {
			return &o.interfaces[i], value, nil
		}
	}
	return nil, "", fmt.Errorf("-%s %s: there is no interface %q, the last is %s", option, text, name, o.interfaces[len(o.interfaces)-1].Name)
}
