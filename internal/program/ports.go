package program

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"

	"github.com/vdestack/vdestack"
)

// A Port is an option -p or -P: a port of the host that leads into the stack, or the other way.
type Port struct {
	option            string // as it was given
	out               bool   // -P: the stack listens
	network, from, to string // for ForwardIn and ForwardOut
}

// portForm is what -p and -P take. Docker's HOST:PORT:PORT and ssh's PORT:HOST:PORT are both
// of that form, because an address is never only digits.
const portForm = "[ADDRESS:]PORT:[ADDRESS:]PORT[/udp], with an IPv6 address in brackets"

// ParsePort parses the value of an option. The side that listens does so on loopback if no
// address is given; an empty one means all addresses.
func ParsePort(out bool, text string) (p Port, err error) {
	p = Port{option: "-p " + text, out: out, network: "tcp"}
	if out {
		p.option = "-P " + text
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w: it takes %s", err, portForm)
		}
	}()
	var rest string
	if p.from, rest, err = cutPort(text, "127.0.0.1"); err != nil {
		return p, err
	}
	rest, ok := strings.CutPrefix(rest, ":")
	if !ok {
		return p, errors.New("the second port is missing")
	}
	if strings.HasPrefix(rest, unixPrefix) {
		p.to = rest
		return p, nil
	}
	if p.to, rest, err = cutPort(rest, "localhost"); err != nil {
		return p, err
	}
	if strings.HasSuffix(p.to, ":0") {
		return p, errors.New("a server has a port other than 0")
	}
	switch rest {
	case "", "/tcp":
	case "/udp":
		p.network = "udp"
	default:
		return p, fmt.Errorf("%q after the ports is neither /tcp nor /udp", rest)
	}
	return p, nil
}

// ParseAddress parses [ADDRESS:]PORT, for a listener on the host. Without an address it is that of
// loopback.
func ParseAddress(text string) (string, error) {
	address, rest, err := cutPort(text, "127.0.0.1")
	switch {
	case err != nil:
	case strings.HasPrefix(text, unixPrefix):
		err = errors.New("a unix socket has no port")
	case rest != "":
		err = fmt.Errorf("%q is behind the port", rest)
	}
	if err != nil {
		return "", fmt.Errorf("%w: it takes [ADDRESS:]PORT, with an IPv6 address in brackets", err)
	}
	return address, nil
}

// unixPrefix begins the address of a unix socket. In front of a port its path has no colon.
const unixPrefix = "unix:"

// cutPort cuts [ADDRESS:]PORT, or the address of a unix socket, off the beginning of a text.
func cutPort(text, address string) (_, rest string, err error) {
	if path, ok := strings.CutPrefix(text, unixPrefix); ok {
		n := len(unixPrefix) + len(path)
		if i := strings.IndexByte(path, ':'); i >= 0 {
			n = len(unixPrefix) + i
		}
		return text[:n], text[n:], nil
	}
	first, after, more := strings.Cut(text, ":")
	if strings.HasPrefix(text, "[") {
		if first, after, more = strings.Cut(text[1:], "]:"); !more {
			return "", "", fmt.Errorf(`%q has no "]:"`, text)
		}
		address, text = first, after
	} else if more && (first == "" || digits(first) < len(first)) {
		address, text = first, after
	}
	n := digits(text)
	port, err := strconv.ParseUint(text[:n], 10, 16)
	if err != nil {
		bad, _, _ := strings.Cut(text, ":")
		return "", "", fmt.Errorf("%q is not a port", bad)
	}
	return net.JoinHostPort(address, fmt.Sprint(port)), text[n:], nil
}

// digits returns how many digits a text begins with.
func digits(text string) int { return len(text) - len(strings.TrimLeft(text, "0123456789")) }

// OpenPorts opens the ports of a stack. They end with it. Free ports, that were asked for as 0,
// are logged.
func OpenPorts(ctx context.Context, s *vdestack.Stack, log *slog.Logger, ports []Port) error {
	for _, p := range ports {
		open := s.ForwardIn
		if p.out {
			open = s.ForwardOut
		}
		f, err := open(ctx, p.network, p.from, p.to, nil)
		if err != nil {
			return fmt.Errorf("%s: %w", p.option, cmp.Or(context.Cause(ctx), err))
		}
		if strings.HasSuffix(p.from, ":0") {
			log.Info("free port", "option", p.option, "listen", f.Addr(), "server", p.to)
		}
	}
	return nil
}
