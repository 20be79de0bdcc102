//go:build amd64 || arm64

package stack

import (
	"errors"
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// errSeen ends a dial.
var errSeen = errors.New("seen")

// TestPackageNet checks that a socket that package net is about to connect is what PlainTCP
// says.
func TestPackageNet(t *testing.T) {
	for _, test := range []struct {
		network, address string
		hook             string
	}{
		{"tcp", "127.0.0.1:1", "tcp4"}, {"tcp4", "127.0.0.1:1", "tcp4"}, {"tcp", "[::1]:1", "tcp6"}, {"tcp6", "[::1]:1", "tcp6"},
	} {
		t.Run(test.network+test.hook, func(t *testing.T) {
			var k sockKind
			var kerr error
			var hook string
			var set []sockOption
			d := net.Dialer{Control: func(network, _ string, c syscall.RawConn) error {
				hook = network
				c.Control(func(fd uintptr) {
					k, kerr = kindOf(int(fd))
					if k.proto == unix.IPPROTO_TCP {
						k.proto = 0 // which means that
					}
					for _, o := range carried {
						if v, err := unix.GetsockoptInt(int(fd), o.level, o.opt); err == nil && v != 0 && o != v6Only {
							set = append(set, o)
						}
					}
				})
				return errSeen
			}}
			if _, err := d.Dial(test.network, test.address); !errors.Is(err, errSeen) {
				t.Fatalf("Dial: %v, want the hook's error", err)
			}
			if want, _ := plainTCP(hook); kerr != nil || hook != test.hook || k != want {
				t.Errorf("the hook for %q got a socket %+v (%v), want %q and %+v", hook, k, kerr, test.hook, want)
			}
			if len(set) > 0 {
				t.Errorf("the socket has the options %v", set)
			}
		})
	}
}
