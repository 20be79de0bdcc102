package main

import (
	"fmt"
	"io"
	"strings"
)

// A section of the manual, which -h and --man show.
type section struct {
	title string
	// text has lines of up to 86 bytes. What a blank line separates is a paragraph; lines
	// that begin with a blank stay as they are.
	text    string
	options []option
}

// synopsis are the forms of the command line.
const synopsis = `vdens [options] [network [command [argument...]]]
vdens [options] network... -- command [argument...]
vdens [options] -- command [argument...]
vdens plug [options] [network [network]]
vdens plug [options] [network] = command [argument...]`

// sections returns the manual.
func sections() []section {
	o := options{}
	return []section{
		{title: "description", text: `
Vdens runs a command, by default a shell, in a TCP/IP stack of its own. Each
network, a VDE locator such as vxvde://, vde:///run/vde.ctl or mem://, gets an
interface, vde0, vde1 and so on, which is up. Without a network, or with "-" or
"no" for it, there is loopback only. On slirp://, which reaches everything that the
host can, an interface without -addr and -conf becomes the network's first guest,
with the network's routes and name server unless options set others.

The command follows "--", or is the first word after a network that is neither an
option nor a locator with "://". With -m all words before "--" are networks, also
paths of switches.
`},
		{title: "options", options: o.table()},
		{title: "notes", text: `
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

-w records until the end, or until one of its items count=frames, size=bytes (also with
k, M or G; with what the file had) and time=duration (90s, 1h) is reached: then it
closes the file, and the command goes on. append keeps what is in a file. So
-w x.pcapng,append,size=1G never writes more than that in however many runs.

Keys of the terminal, such as ^C, go to the command. SIGTERM and SIGHUP are passed on
to it. When it has ended, processes that it left behind lose their network.
`},
		{title: "plug", text: `
Plug joins two networks. With one, or none for the default network, it speaks the
VDE stream format on standard input and output, for dpipe, ssh and vde_plug, or on
those of the command after "=". It ends with status 0 at the end of its input, with
the status of the command, and with 125 when a network is gone. The options are also
those of vde_plug.
`, options: new(plugCommand).table()},
		{title: "environment", text: `
VDE_RESOLVADDR and VDE_RESOLVCONF are -R and -r, unless one of the two is given.
`},
		{title: "exit status", text: `
That of the command, or

  128+n  a signal n ended the command
  127    the command was not found
  126    the command cannot be executed
  125    the stack could not be made, or a network of plug is gone
  2      wrong use
  1      --check has found that there can be no stack
`},
	}
}

// label is how the option is written.
func (o *option) label() string {
	label := strings.Join(strings.Fields(o.names), ", ")
	if o.value != "" {
		label += " " + o.value
	}
	return label
}

// showUsage shows the manual on a terminal.
func showUsage(w io.Writer) error {
	var b strings.Builder
	for i, line := range strings.Split(synopsis, "\n") {
		b.WriteString([]string{"usage: ", "       "}[min(i, 1)] + line + "\n")
	}
	for _, s := range sections() {
		b.WriteString("\n")
		if s.title != "description" {
			b.WriteString(s.title + ":\n")
		}
		b.WriteString(strings.TrimPrefix(s.text, "\n"))
		if s.text != "" && s.options != nil {
			b.WriteString("\n")
		}
		for _, o := range s.options {
			writeOption(&b, &o)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeOption writes an option in two columns.
func writeOption(b *strings.Builder, o *option) {
	const column = 20
	label := "  " + o.label()
	for line := range strings.SplitSeq(o.about, "\n") {
		if len(label) > column-2 {
			b.WriteString(label + "\n")
			label = ""
		}
		fmt.Fprintf(b, "%-*s%s\n", column, label, line)
		label = ""
	}
}

// showMan shows the manual in the format of man(7).
func showMan(w io.Writer) error {
	var b strings.Builder
	b.WriteString(".TH VDENS 1\n.SH NAME\nvdens \\- run a command in a TCP/IP stack of its own\n.SH SYNOPSIS\n")
	writeLines(&b, synopsis)
	for _, s := range sections() {
		fmt.Fprintf(&b, ".SH %s\n", strings.ToUpper(s.title))
		for p := range strings.SplitSeq(strings.Trim(s.text, "\n"), "\n\n") {
			if strings.HasPrefix(p, " ") {
				writeLines(&b, p)
			} else if p != "" {
				b.WriteString(".PP\n" + roff(p) + "\n")
			}
		}
		for _, o := range s.options {
			fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(o.label()), roff(o.about))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeLines writes lines that stay as they are.
func writeLines(b *strings.Builder, text string) {
	b.WriteString(".PP\n.nf\n" + roff(text) + "\n.fi\n")
}

// roff writes a text so that no character of it is one of roff's.
func roff(text string) string {
	lines := strings.Split(strings.NewReplacer(`\`, `\e`, `-`, `\-`, `^`, `\(ha`).Replace(text), "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
