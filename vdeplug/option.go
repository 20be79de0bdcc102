package vdeplug

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// NumberOption returns a function for [ParsedLocator.Apply] that sets p to a number from
// min to max.
func NumberOption(p *int, min, max int) func(string, bool) error {
	return func(value string, _ bool) error {
		n, err := strconv.Atoi(value)
		if err != nil || n < min || n > max {
			return fmt.Errorf("must be a number from %d to %d", min, max)
		}
		*p = n
		return nil
	}
}

// FlagOption returns a function for [ParsedLocator.Apply] that sets p to true, and takes
// no value.
func FlagOption(p *bool) func(string, bool) error {
	return func(_ string, has bool) error {
		if has {
			return errors.New("takes no value")
		}
		*p = true
		return nil
	}
}

// TextOption returns a function for [ParsedLocator.Apply] that sets p to a value, which
// may not be empty.
func TextOption(p *string) func(string, bool) error {
	return func(value string, _ bool) error {
		if value == "" {
			return errors.New("needs a value")
		}
		*p = value
		return nil
	}
}

func addressOption(p *netip.Addr) func(string, bool) error {
	return func(value string, _ bool) error {
		a, err := netip.ParseAddr(value)
		a = a.Unmap()
		if err != nil || a.IsMulticast() || a.WithZone("").IsUnspecified() {
			return errors.New("must be an IP address of this host")
		}
		*p = a
		return nil
	}
}

// sizeOption reads a number of bytes; each k, M, G or T after it multiplies.
func sizeOption(p *int) func(string, bool) error {
	const max = 1<<31 - 1
	return func(value string, _ bool) error {
		digits := strings.TrimRight(value, "kKmMgGtT")
		n, err := strconv.ParseUint(digits, 10, 31)
		for _, unit := range value[len(digits):] {
			shift := 10 * (1 + strings.IndexRune("kmgt", unit|0x20))
			if n > max>>shift {
				err = strconv.ErrRange
				break
			}
			n <<= shift
		}
		if err != nil || n == 0 {
			return fmt.Errorf("must be a number of bytes from 1 to %d, as 65536, 64k or 2M", max)
		}
		*p = int(n)
		return nil
	}
}
