package vdeplug

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/regular"
)

// openTimeout bounds every opening. The slowest steps are looking up a name, and a switch
// that does not answer.
const openTimeout = 10 * time.Second

// Open connects to the network that the locator names. It gives up after ten seconds.
// Nil Options are the zero Options.
//
// Errors are of type [*Error]. One that wraps [errors.ErrUnsupported] means that the scheme
// is unknown or not available on this system; others wrap the error of the system.
func Open(vnl string, o *Options) (Conn, error) {
	return OpenContext(context.Background(), vnl, o)
}

// OpenContext is [Open] that gives up when ctx ends. The plug outlives ctx.
func OpenContext(ctx context.Context, vnl string, o *Options) (Conn, error) {
	if o == nil {
		o = &Options{}
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	c, err := openLocator(ctx, vnl, o)
	if err != nil {
		return nil, &Error{"open", vnl, err}
	}
	return c, nil
}

// maxNesting is how deep networks may be nested. Nobody writes so many; a file that names
// itself between the braces would have no end.
const maxNesting = 32

// A nestingLevel describes a network that is being opened; the context has it.
type nestingLevel struct {
	depth int
	// revived says that a network inside reconnects.
	revived atomic.Bool
}

type nestingKey struct{}

// openLocator opens a network. With Reconnect, only the innermost network reconnects;
// those around it stay as they are.
func openLocator(ctx context.Context, vnl string, o *Options) (Conn, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	level := &nestingLevel{}
	if outer, ok := ctx.Value(nestingKey{}).(*nestingLevel); ok {
		level.depth = outer.depth + 1
		if o.Reconnect {
			outer.revived.Store(true)
		}
	}
	if level.depth > maxNesting {
		return nil, fmt.Errorf("more than %d networks are nested; does a file name itself?", maxNesting)
	}
	ctx = context.WithValue(ctx, nestingKey{}, level)
	c, last, err := openScheme(ctx, vnl, o)
	if err != nil || !o.Reconnect || level.revived.Load() {
		return c, err
	}
	return newReconnector(ctx, vnl, c, o, func(ctx context.Context) (Conn, bool, error) {
		c, l, err := openScheme(ctx, vnl, o)
		changed := l != last
		if err == nil {
			last = l
		}
		return c, changed, err
	}), nil
}

// openScheme opens a network, and returns the locator with its scheme, if it is known.
func openScheme(ctx context.Context, vnl string, o *Options) (Conn, Locator, error) {
	l, origin, err := resolve(vnl)
	if err != nil {
		return nil, l, err
	}
	open := lookupScheme(l.Scheme()).Open
	if open == nil && l.Scheme() == "slirp" {
		return nil, l, fmt.Errorf("%sscheme \"slirp\" is in a module of its own (import _ \"github.com/vdestack/vdestack/slirp\"): %w", origin, errors.ErrUnsupported)
	}
	if open == nil {
		return nil, l, fmt.Errorf("%sunknown scheme %q (have %s): %w",
			origin, l.Scheme(), strings.Join(Schemes(), ", "), errors.ErrUnsupported)
	}
	c, err := open(ctx, l, o)
	if c == nil && err == nil {
		err = fmt.Errorf("the function Open of scheme %q has returned neither a plug nor an error", l.Scheme())
	}
	if err != nil {
		return nil, l, fmt.Errorf("%s%w", origin, err)
	}
	return c, l, nil
}

// openInner opens the network between the braces of another. The empty locator is the
// default network of the user, and stands for missing braces too.
func openInner(ctx context.Context, vnl string, o *Options) (packet.Transport, error) {
	c, err := openLocator(ctx, vnl, o)
	if err != nil && vnl == "" {
		return nil, fmt.Errorf("no inner network is named between braces, as {mem://lab}, so it is the user's default: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("inner network %q: %w", Redact(vnl), err)
	}
	return transportOf(c), nil
}

// resolve returns the locator with a scheme that the given one stands for. If it was found
// elsewhere, origin says where, as the beginning of an error text.
func resolve(vnl string) (l Locator, origin string, err error) {
	if l, err = parse(vnl); err != nil || l.scheme != "" {
		return l, "", err
	}
	path, body := l.body, l.body
	if path == "" {
		if path = defaultNetwork(); path == "" {
			return Locator{scheme: "vde"}, "default network vde://: ", nil
		}
		body = quote(path)
		origin = fmt.Sprintf("default network %s: ", path)
	}
	if isFile(path) {
		if l, err = readLocator(path); err != nil {
			return Locator{}, "", fmt.Errorf("file %s: %w", path, err)
		}
		return l, fmt.Sprintf("file %s says %q: ", path, Redact(l.String())), nil
	}
	return Locator{scheme: "vde", body: body}, origin, nil
}

// defaultNetwork returns the path that the empty locator stands for; "" if the user has
// no default network.
func defaultNetwork() string {
	home := os.Getenv("HOME")
	if home == "" {
		return ""
	}
	for _, name := range []string{".vdeplug/default", ".vde2/default.switch"} {
		path := filepath.Join(home, name)
		// A dangling link counts: the error of opening it says more than another
		// network would.
		if _, err := os.Lstat(path); err == nil {
			return path
		}
	}
	return ""
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// maxLine bounds the line that is read from a file that may be anything. No locator needs
// as much.
const maxLine = 64 << 10

// readLocator reads a locator from the first line of a file.
func readLocator(path string) (Locator, error) {
	f, err := regular.Open(path)
	if err != nil {
		return Locator{}, err
	}
	defer f.Close()
	l, err := firstLocator(f)
	if err == nil && l.scheme == "" {
		if isFile(l.body) {
			return Locator{}, fmt.Errorf("it names another file, %q (the first line must be the locator itself)", l.body)
		}
		l.scheme = "vde"
	}
	return l, err
}

// firstLocator reads the locator in the first line of a file.
func firstLocator(r io.Reader) (Locator, error) {
	line, err := bufio.NewReader(io.LimitReader(r, maxLine)).ReadString('\n')
	switch {
	case err != nil && err != io.EOF:
		return Locator{}, err
	case len(line) == maxLine:
		return Locator{}, fmt.Errorf("the first line is longer than %d bytes, no locator", maxLine)
	}
	line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
	if strings.TrimSpace(line) == "" {
		return Locator{}, errors.New("the first line is empty; it must be a locator")
	}
	return parse(line)
}
