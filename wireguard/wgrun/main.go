// Wgrun runs a command in a WireGuard tunnel, without root: the command reaches what is behind the
// tunnel, and nothing else.
//
//	wgrun wg0.conf -- curl https://example.org
//	wgrun wg0.conf
//	wgrun -p 8080:10.0.0.1:80 -socks5 1080 wg0.conf -- sleep inf
//
// "wgrun -h" shows the options.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/vdestack/vdestack/internal/program"
	"github.com/vdestack/vdestack/wireguard"
)

const usage = `usage: wgrun [options] file [-- command [argument...]]

Wgrun runs a command, by default a shell, in a TCP/IP stack of its own, whose only
interface is the WireGuard tunnel that a file of wg-quick(8) describes. The interface
has the name of the file. Without the tunnel the command reaches nothing. It resolves
names by the file's DNS and otherwise knows localhost.

options:
  -p [a:]port:[a:]port[/udp]
                    port of the host that leads to one in the tunnel; may be repeated
  -socks5 [a:]port  SOCKS5 proxy on the host, into the tunnel: CONNECT, without a
                    password; it looks names up in the tunnel
  -v                log what WireGuard does
  -h                show this

The first port of -p, and that of -socks5, listens on 127.0.0.1 unless there is an
address; an empty one, as in :1080, means all. Whoever reaches it can use it. A port of
0 is one that is free, which is logged. The second port of -p is of localhost in the
stack, where the command may serve, unless there is an address behind the tunnel.

Files that would change the host (PostUp, FwMark, Table and the like) are refused.

exit status: that of the command, or
  128+n  a signal n ended the command
  127    the command was not found
  126    the command cannot be executed
  125    the tunnel could not be made
  2      wrong use
`

func main() {
	o, err := parse(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage)
		return
	case err != nil:
		os.Exit(program.ReportUsage("wgrun", err))
	}
	status, err := o.run()
	if err != nil {
		status = program.Report(os.Stderr, "wgrun", err)
	}
	os.Exit(status)
}

// options are the settings of the command line.
type options struct {
	file    string
	ports   []program.Port
	socks   string // where it listens; empty for nowhere
	verbose bool
	command []string
}

// parse reads the command line. Options may stand before and behind the file.
func parse(args []string) (*options, error) {
	o := &options{}
	if i := slices.Index(args, "--"); i >= 0 {
		args, o.command = args[:i], args[i+1:]
	}
	if len(o.command) == 0 {
		o.command = []string{cmp.Or(os.Getenv("SHELL"), "/bin/sh")}
	}
	flags := flag.NewFlagSet("wgrun", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.BoolVar(&o.verbose, "v", false, "")
	flags.Func("p", "", func(text string) error {
		p, err := program.ParsePort(false, text)
		o.ports = append(o.ports, p)
		return err
	})
	flags.Func("socks5", "", func(text string) (err error) {
		o.socks, err = program.ParseAddress(text)
		return err
	})
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		if flags.NArg() == 0 {
			break
		}
		if o.file != "" {
			return nil, fmt.Errorf("%s is a second file: the command follows \"--\"", flags.Arg(0))
		}
		o.file, args = flags.Arg(0), flags.Args()[1:]
	}
	if o.file == "" {
		return nil, errors.New("the file is missing")
	}
	return o, nil
}

// maxFile is far more than a file of some thousand peers has, in bytes.
const maxFile = 1 << 20

// config reads the file.
func (o *options) config(log *slog.Logger) (wireguard.Config, error) {
	f, err := os.Open(o.file)
	if err != nil {
		return wireguard.Config{}, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && info.Mode()&0o007 != 0 {
		log.Warn("all users can open the file, which has a key (chmod 600)", "file", o.file)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("it has more than %d bytes", maxFile)
	}
	c := wireguard.Config{}
	if err == nil {
		c, err = wireguard.ParseConfig(string(text))
	}
	if err != nil {
		return c, fmt.Errorf("%s: %w", o.file, err)
	}
	if name := strings.TrimSuffix(filepath.Base(o.file), ".conf"); ifname.MatchString(name) {
		c.Name = name
	}
	c.Logger = log
	return c, nil
}

// ifname is what wg-quick takes for the name of an interface.
var ifname = regexp.MustCompile(`^[a-zA-Z0-9_=+-][a-zA-Z0-9_=+.-]{0,14}$`)

// run runs the command and returns its exit status.
func (o *options) run() (status int, err error) {
	level := slog.LevelInfo
	if o.verbose {
		level = slog.LevelDebug
	}
	log := program.NewLogger(level)
	c, err := o.config(log)
	if err != nil {
		return 0, err
	}
	sigs := program.WatchSignals() // not before: reading a pipe or a terminal can take for ever
	tun, err := wireguard.Open(sigs.Context, c)
	if err != nil {
		return 0, cmp.Or(context.Cause(sigs.Context), err)
	}
	defer tun.Close()
	st := tun.Stack()
	if err := program.OpenPorts(sigs.Context, st, log, o.ports); err != nil {
		return 0, err
	}
	if o.socks != "" {
		stop, err := serveSOCKS(o.socks, st, log)
		if err != nil {
			return 0, err
		}
		defer stop()
	}
	cmd := st.Command(context.Background(), o.command[0], o.command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Names = true
	return sigs.Run(cmd)
}
