package vdeplug

import (
	"context"
	"fmt"
	"strings"
)

func init() {
	Register(Scheme{
		Name:  "tap",
		Open:  openTAPScheme,
		Usage: Usage{Form: "tap://[NAME]", About: "the host, by a TAP interface"},
	})
}

// maxInterfaceName is the longest name of a network interface.
const maxInterfaceName = 15

// openTAPScheme connects to the host itself, by a TAP interface:
//
//	tap://[name]
//
// The interface is made if there is none with the name; then it needs the
// capability CAP_NET_ADMIN and lives as long as the plug. It must be brought up
// by other means. Without a name the kernel chooses one, tap0 or the next.
func openTAPScheme(_ context.Context, l Locator, _ *Options) (Conn, error) {
	if err := checkInterfaceName(l.Body()); err != nil {
		return nil, err
	}
	return openTAP(l)
}

// checkInterfaceName accepts what the kernel does, and the empty name; except
// for "%", with which the kernel makes names of its own.
func checkInterfaceName(name string) error {
	switch {
	case len(name) > maxInterfaceName:
		return fmt.Errorf("interface %q: a name has at most %d bytes", name, maxInterfaceName)
	case name == "." || name == "..":
		return fmt.Errorf("interface %q: not a name", name)
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c == 0x7f || strings.IndexByte("/:%", c) >= 0 {
			return fmt.Errorf("interface %q: byte %q has no place in a name", name, c)
		}
	}
	return nil
}
