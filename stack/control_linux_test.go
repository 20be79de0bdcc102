//go:build amd64 || arm64

package stack

import (
	"errors"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// errSeen ends a dial.
var errSeen = errors.New("seen")

// TestPackageNet checks that sockets that package net has just made are what Fresh says,
// and have no options but those that are carried over.
func TestPackageNet(t *testing.T) {
	type hook = func(network, address string, c syscall.RawConn) error
	dial := func(network, address string, h hook) error {
		_, err := (&net.Dialer{Control: h}).Dial(network, address)
		return err
	}
	listen := func(network, address string, h hook) (err error) {
		lc := net.ListenConfig{Control: h}
		lc.SetMultipathTCP(false)
		if strings.HasPrefix(network, "udp") {
			_, err = lc.ListenPacket(t.Context(), network, address)
		} else {
			_, err = lc.Listen(t.Context(), network, address)
		}
		return err
	}
	for _, test := range []struct {
		network, address string
		hook             string
	}{
		{"tcp", "127.0.0.1:1", "tcp4"}, {"tcp4", "127.0.0.1:1", "tcp4"}, {"tcp", "[::1]:1", "tcp6"}, {"tcp6", "[::1]:1", "tcp6"},
		{"udp", "127.0.0.1:1", "udp4"}, {"udp4", "224.0.0.9:1", "udp4"}, {"udp", "[::1]:1", "udp6"}, {"udp6", "[ff02::9]:1", "udp6"},
	} {
		for name, call := range map[string]func(network, address string, h hook) error{"dial": dial, "listen": listen} {
			t.Run(name+test.network+test.hook, func(t *testing.T) {
				err := call(test.network, test.address, func(network, _ string, c syscall.RawConn) error {
					c.Control(func(fd uintptr) {
						k, err := kindOf(int(fd))
						if k.proto == unix.IPPROTO_TCP || k.proto == unix.IPPROTO_UDP {
							k.proto = 0 // which means that
						}
						want, options := freshKind(network)
						if err != nil || network != test.hook || k != want {
							t.Errorf("the hook for %q got a socket %+v (%v), want %q and %+v", network, k, err, test.hook, want)
						}
						for _, o := range carried {
							v, err := unix.GetsockoptInt(int(fd), o.level, o.opt)
							if err == nil && v != 0 && !slices.Contains(options, o) {
								t.Errorf("the socket has the option %v", o)
							}
						}
					})
					return errSeen
				})
				if !errors.Is(err, errSeen) {
					t.Fatalf("%v, want the hook's error", err)
				}
			})
		}
	}
}
