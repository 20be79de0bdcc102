// Vdens runs a command in a TCP/IP stack of its own, on Virtual Distributed
// Ethernet networks. It needs no privilege.
//
//	vdens vxvde://234.0.0.1
//	vdens slirp:// curl example.org
//	vdens -conf auto,fqdn=host.example.org vxvde://234.0.0.1
//	vdens -p 8080:80 vde:// httpd -f
//	vdens -addr 10.0.0.1/24 -gw 10.0.0.254 -dns 9.9.9.9 vde:// curl example.org
//	vdens -addr 10.0.0.1/24 -w file.pcapng vxvde:// ping 10.0.0.2
//	vdens -i eth -addr eth0=10.0.0.1/24 -addr eth1=10.1.0.1/24 vde:// vxvde://
//
// It also joins networks, by itself or with dpipe and ssh, as vde_plug does:
//
//	vdens plug vde:// vxvde://234.0.0.1
//	dpipe vdens plug vde:// = ssh host vde_plug vde://
//
// "vdens -h" shows the options, "vdens --list" the networks, "vdens --check" what works on
// this machine. The command line is also that of the vdens of VirtualSquare.
package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/capture"
	"github.com/vdestack/vdestack/internal/program"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "plug" { // a switch there is ./plug
		plugMain(os.Args[2:])
	}
	if len(os.Args) > 1 && os.Args[1] == completeOption {
		complete(os.Stdout, os.Args[2:])
		return
	}
	o, err := parse(os.Args[1:])
	if err != nil {
		noCommand(err)
	}
	os.Exit(run(o))
}

// noCommand shows the text that the user wants, or what is wrong with the command line, and
// ends the program.
func noCommand(err error) {
	if s, ok := errors.AsType[showError](err); ok {
		if err := s.show(os.Stdout); err != nil {
			os.Exit(report(err))
		}
		os.Exit(0)
	}
	os.Exit(program.ReportUsage("vdens", err))
}

// options are the settings of the command line.
type options struct {
	prefix          string // of the interfaces' names
	multi           bool   // all words before "--" are networks
	networks        []string
	addrs, gateways []string // as they were given
	interfaces      []vdestack.Interface
	dns             []netip.Addr
	names           bool // the command has names of its own
	sysAdmin        bool
	hostname        string
	ports           []program.Port
	confs           []conf
	capture         string // file; may be empty
	limits          capture.Limits
	appendCapture   bool
	resolvConf      string // file; may be empty
	command         []string
}

// table returns the options that vdens has.
func (o *options) table() []option {
	ignored := new(bool)
	return []option{
		{names: "-i --iface", value: "prefix", set: textOption(&o.prefix),
			about: "first part of the interfaces' names (default vde)"},
		{names: "-m --multi", set: flagOption(&o.multi),
			about: "all words before \"--\" are networks"},
		{names: "-addr", value: "[if=]a/len", set: listOption(&o.addrs),
			about: "address of an interface, by default of the first; may be\nrepeated, as may -gw and -dns"},
		{names: "-gw", value: "[if=]a", set: listOption(&o.gateways),
			about: "default route, through an interface"},
		{names: "-conf", value: "item,...", set: o.addConf,
			about: "how an interface configures itself, and stays configured: auto\n(by DHCP and router advertisements), dhcp, slaac and others, see\nbelow"},
		{names: "-dns -R --resolvaddr", value: "a,...", set: o.addDNS,
			about: "name servers of the command; without them, or those that -conf\nfinds, it knows localhost"},
		{names: "-r --resolvconf", value: "file", file: true, set: textOption(&o.resolvConf),
			about: "the command's /etc/resolv.conf, unless there are name servers;\nit may be the machine's own"},
		{names: "-names=false", set: flagOption(&o.names),
			about: "leave the command the machine's resolv.conf, hosts, services\nfor names, such as nscd, and /sys/class/net"},
		{names: "-w", value: "file[,item...]", file: true, set: o.setCapture,
			about: "record all frames of the interfaces, in the format pcapng;\n\"-\" is standard output, and the command's output then goes\nto standard error"},
		{names: "-p", value: "[a:]port:[a:]port[/udp]", set: o.addPort(false),
			about: "port of the host that leads to one in the stack"},
		{names: "-P", value: "[a:]port:[a:]port[/udp]", set: o.addPort(true),
			about: "port of the stack that leads to one on the host"},
		{names: "-s --sysadm", set: flagOption(&o.sysAdmin),
			about: "the command may mount (CAP_SYS_ADMIN)"},
		{names: "-H --hostname", value: "name", set: o.setHostname,
			about: "name of the machine for the command"},
		{names: "-u --unshare -c --clone", set: flagOption(ignored),
			about: "have no effect: they are for scripts that have them"},
		{names: "-h --help", set: showOption(showUsage),
			about: "show this"},
		{names: "--list", set: showOption(list),
			about: "show all networks and their options"},
		{names: "--check", set: showOption(check),
			about: "show what works on this machine, why the rest does not, and\nwhat to do about it; the status is 1 if no stack does"},
		{names: "--man", set: showOption(showMan),
			about: "show this as a manual page: vdens --man | man -l -"},
		{names: "--completion", value: "shell", set: showCompletion,
			about: "show a script that completes command lines: bash, zsh or fish"},
	}
}

// parse reads the command line.
func parse(args []string) (*options, error) {
	o := &options{prefix: "vde", names: true}
	if err := o.split(o.table(), args); err != nil {
		return nil, err
	}
	if len(o.command) == 0 {
		o.command = []string{cmp.Or(os.Getenv("SHELL"), "/bin/sh")}
	}
	if err := o.chooseDNS(); err != nil {
		return nil, err
	}
	if err := o.addInterfaces(); err != nil {
		return nil, err
	}
	return o, o.checkConfs()
}

// split sets the options, networks and command of a command line. Options and networks may
// come in any order. The command follows "--", or is what comes after the first network and is
// no network; nil means that it has not begun.
func (o *options) split(table []option, args []string) (err error) {
	for {
		if args, err = parseOptions(table, args); err != nil || len(args) == 0 {
			return err
		}
		word := args[0]
		if word == "--" {
			args = args[1:]
			// getopt takes the "--" away, and then the network comes first.
			if len(o.networks) == 0 && !o.multi && len(args) > 0 && (isNetwork(args[0]) || isNone(args[0])) {
				o.networks, args = args[:1], args[1:]
			}
			o.command = args
			return nil
		}
		if len(o.networks) > 0 && !o.multi && !isNetwork(word) {
			if info, err := os.Stat(word); err == nil && info.IsDir() {
				return fmt.Errorf("%s is a directory, no command (-m if it is one of several networks)", word)
			}
			o.command = args
			return nil
		}
		o.networks, args = append(o.networks, word), args[1:]
	}
}

// isNetwork reports whether a word can only be a network, and no command.
func isNetwork(word string) bool {
	return strings.Contains(word, "://") || strings.HasPrefix(word, "=")
}

// isNone reports whether a network stands for none.
func isNone(vnl string) bool { return vnl == "" || vnl == "-" || vnl == "no" }

// chooseDNS decides where the command has its name servers from. As in the vdens of
// VirtualSquare, addresses come before a file, and options before the environment.
func (o *options) chooseDNS() error {
	if o.dns == nil && o.resolvConf == "" {
		if text := os.Getenv("VDE_RESOLVADDR"); text != "" && o.names {
			if err := o.addDNS(text); err != nil {
				return fmt.Errorf("VDE_RESOLVADDR: %w", err)
			}
		} else {
			o.resolvConf = os.Getenv("VDE_RESOLVCONF")
		}
	}
	if o.dns == nil {
		return nil
	}
	o.resolvConf = ""
	if !o.names {
		return errors.New("-names=false leaves the command the machine's name servers: -dns would be lost")
	}
	return nil
}

// addInterfaces makes the networks, addresses and routes to interfaces.
func (o *options) addInterfaces() error {
	networks := o.networks
	if len(networks) == 1 && isNone(networks[0]) {
		networks = nil
	}
	for i, vnl := range networks {
		if isNone(vnl) {
			return fmt.Errorf("%q is no network, and cannot be one of several", vnl)
		}
		o.interfaces = append(o.interfaces, vdestack.Interface{VNL: vnl, Name: fmt.Sprint(o.prefix, i)})
	}
	if o.capture != "" && len(o.interfaces) == 0 {
		return fmt.Errorf("-w %s: there is no interface without a network", o.capture)
	}
	for _, text := range o.addrs {
		f, value, err := o.iface("addr", text)
		if err != nil {
			return err
		}
		p, err := netip.ParsePrefix(value)
		if err != nil {
			return fmt.Errorf("-addr %s: %q is not ADDRESS/LENGTH, such as 10.0.0.1/24", text, value)
		}
		f.Addrs = append(f.Addrs, p)
	}
	for _, text := range o.gateways {
		f, value, err := o.iface("gw", text)
		if err != nil {
			return err
		}
		gw, err := netip.ParseAddr(value)
		if err != nil {
			return fmt.Errorf("-gw %s: %q is not an address", text, value)
		}
		f.Gateways = append(f.Gateways, gw)
	}
	return nil
}

// setHostname sets the command's name of the machine.
func (o *options) setHostname(name string) error {
	if name == "" || len(name) > maxHostname {
		return fmt.Errorf("a name has 1 to %d bytes", maxHostname)
	}
	o.hostname = name
	return nil
}

// maxHostname is HOST_NAME_MAX of Linux.
const maxHostname = 64

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

// addPort returns the function for an option.
func (o *options) addPort(out bool) func(string) error {
	return func(text string) error {
		p, err := program.ParsePort(out, text)
		o.ports = append(o.ports, p)
		return err
	}
}
