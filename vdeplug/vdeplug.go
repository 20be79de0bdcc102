package vdeplug

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
)

// Sizes of Ethernet frames, in bytes, without frame check sequence.
const (
	// HeaderLen is the length of an Ethernet header, 14; shorter frames are dropped.
	HeaderLen = ether.HeaderLen
	// MaxMTU is the largest payload of a frame that plugs carry, 9216.
	MaxMTU = ether.MaxMTU
	// MaxFrame is the largest frame, 9234: MaxMTU, the header and one VLAN tag. Networks
	// may carry less: see the section Sizes.
	MaxFrame = ether.MaxFrame
)

// A Conn is a plug: a connection to an Ethernet network. A frame reaches from the
// destination address to the end of the payload, without frame check sequence. All methods
// may be called from several goroutines at once; each frame goes to one caller of Recv.
type Conn interface {
	// Recv waits for the next frame and copies it to frame. A frame larger than the
	// buffer is dropped and counted; MaxFrame bytes hold any. There are no deadlines:
	// Close ends a Recv that waits. After Close it returns [net.ErrClosed]; any other
	// error is final and says why the network is gone.
	Recv(frame []byte) (n int, err error)
	// Send sends a frame. It does not block, and does not keep or change frame. A full
	// network drops it, as Ethernet does, and so does every plug if it is shorter than
	// HeaderLen or larger than MaxFrame. Drops are counted, and are not errors. After
	// Close it returns [net.ErrClosed]; any other error is final, as with Recv.
	Send(frame []byte) error
	// Close leaves the network and unblocks Recv. Closing twice is harmless.
	//
	//   - Before it returns it has closed or ended all that Open made: sockets, files
	//     and processes. It takes two seconds at most, unless the kernel is slow to end
	//     a command.
	//   - Only what waits for others is left to the background: a plug on vde:// whose
	//     switch does not notice that it leaves keeps two sockets and a goroutine for
	//     two seconds more; a socket that the kernel holds because of a peer, for as
	//     long as the peer holds it.
	Close() error
}

// Drops counts the frames that a plug did not carry.
type Drops struct {
	// Recv counts frames that arrived and were not delivered: too long, too
	// short, malformed, or more than the receiver's queue holds.
	Recv uint64
	// Send counts frames that were not sent: too long, too short, or more than
	// the network took.
	Send uint64
}

// A Dropper is a Conn that counts its drops; every plug of this package is one.
type Dropper interface {
	Drops() Drops
}

// Options are what the locator does not say. The zero Options, and nil, are good
// defaults.
type Options struct {
	// Description is shown by switches in their list of ports; the plug adds
	// the user and the process. Empty means "vdestack".
	Description string
	// Reconnect makes the plug open its network again when it has gone: a switch that
	// is restarted, a command that has ended. Meanwhile Recv waits, and Send drops.
	// The plug tries until Close, with waits from 50 ms to 5 s, or until it meets a
	// lasting error: of permission, or in the locator. Open itself still fails at once.
	// See [Link].
	Reconnect bool
	// Notify, if not nil, is called when the network of a plug with Reconnect is gone,
	// is back, and is gone for good. A network that ends again and again within a second
	// is reported as gone once. Notify is called by one goroutine at a time, must return
	// soon, and must not close the plug.
	Notify func(Link)
	// Logger receives rare events that are no [Link]: a source of remotes that cannot be
	// read ([RegisterRemotes]). Nil discards them.
	Logger *slog.Logger

	every time.Duration // of restart://: the waits; 0 means those of Reconnect
}

// An OpenFunc opens the networks of one scheme. ctx bounds the opening, not the life of
// the plug; o is never nil. Open wraps the error in an [Error], so it need not name the
// locator.
type OpenFunc func(ctx context.Context, l Locator, o *Options) (Conn, error)

// An Error says which network an operation failed on.
type Error struct {
	Op  string // "parse", "open", "recv", "send"
	VNL string // the locator, whole
	Err error
}

// Error quotes the locator as [Redact] shows it.
func (e *Error) Error() string { return fmt.Sprintf("vdeplug: %s %q: %v", e.Op, Redact(e.VNL), e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// A Scheme is a kind of network. Locators name it before "://".
type Scheme struct {
	// Name consists of letters, digits and the marks + - . _ and is matched exactly.
	Name string
	// Open opens a network of the scheme.
	Open OpenFunc
	// Usage says how its locators are written, see [UsageOf]. It may be zero.
	Usage Usage
}

var registry = struct {
	mu      sync.RWMutex // guards schemes
	schemes map[string]Scheme
}{schemes: make(map[string]Scheme)}

// Register makes a scheme known to [Open], [Schemes] and [UsageOf]; call it in an init
// function. It panics if the name is not valid, if there is no function, or if the scheme
// is registered already: mistakes of the program, found when it starts.
func Register(s Scheme) {
	registry.mu.Lock()
	defer registry.mu.Unlock()
	if !validScheme(s.Name) || s.Open == nil {
		panic(fmt.Sprintf("vdeplug: Register of %q needs a valid name and the function Open", s.Name))
	}
	if _, ok := registry.schemes[s.Name]; ok {
		panic(fmt.Sprintf("vdeplug: scheme %q is registered twice", s.Name))
	}
	registry.schemes[s.Name] = s
}

// Schemes returns the names of the registered schemes in alphabetical order. Those of other
// modules, such as slirp, are registered by importing them.
func Schemes() []string {
	registry.mu.RLock()
	defer registry.mu.RUnlock()
	return slices.Sorted(maps.Keys(registry.schemes))
}

// UsageOf returns the usage of a scheme; false if it is not registered, or its Usage
// is zero.
func UsageOf(scheme string) (Usage, bool) {
	u := lookupScheme(scheme).Usage
	u.Options = slices.Clone(u.Options)
	return u, u.Form != ""
}

func lookupScheme(name string) Scheme {
	registry.mu.RLock()
	defer registry.mu.RUnlock()
	return registry.schemes[name]
}
