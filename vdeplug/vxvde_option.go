package vdeplug

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/vxlan"
)

// lookupMulticast returns the multicast address that host is or names. network
// is "ip", "ip4" or "ip6".
func lookupMulticast(ctx context.Context, network, host string) (netip.Addr, error) {
	addrs := make([]netip.Addr, 1)
	var err error
	if addrs[0], err = netip.ParseAddr(host); err != nil {
		if addrs, err = net.DefaultResolver.LookupNetIP(ctx, network, host); err != nil {
			return netip.Addr{}, fmt.Errorf("group %q: %w", host, err)
		}
	}
	for _, a := range addrs {
		a = a.Unmap()
		switch {
		case network == "ip4" && !a.Is4() || network == "ip6" && !a.Is6():
			err = fmt.Errorf("group %q: %s is not of the family that option \"v%s\" says", host, a, network[2:])
		case !a.IsMulticast():
			err = fmt.Errorf("group %q: %s is no multicast address (224.0.0.0 to 239.255.255.255, or ff00::/8)", host, a)
		default:
			return a, nil
		}
	}
	return netip.Addr{}, err
}

func lookupPort(ctx context.Context, name string) (uint16, error) {
	port, err := strconv.Atoi(name)
	if err != nil && name != "" {
		port, err = net.DefaultResolver.LookupPort(ctx, "udp", name)
	}
	if err != nil || port < 1 || port > 65535 {
		return 0, errors.New("must be a port from 1 to 65535 or the name of a UDP service")
	}
	return uint16(port), nil
}

// lookupGID returns the number of a network that belongs to a group of users:
// a decimal number or a group's name. Empty is the effective group.
func lookupGID(ctx context.Context, name string) (int, error) {
	gid := os.Getegid()
	if name != "" {
		var err error
		if gid, err = sockio.GroupID(ctx, name); err != nil {
			return 0, err
		}
	}
	if gid < 0 || gid > vxlan.MaxVNI {
		return 0, fmt.Errorf("%d does not fit in 24 bits (at most %d)", gid, vxlan.MaxVNI)
	}
	return gid, nil
}

// The functions below read the value of an option.

func numberOption(p *int, min, max int) func(string, bool) error {
	return func(value string, _ bool) error {
		n, err := strconv.Atoi(value)
		if err != nil || n < min || n > max {
			return fmt.Errorf("must be a number from %d to %d", min, max)
		}
		*p = n
		return nil
	}
}

func flagOption(p *bool) func(string, bool) error {
	return func(_ string, has bool) error {
		if has {
			return errors.New("takes no value")
		}
		*p = true
		return nil
	}
}

func textOption(p *string) func(string, bool) error {
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
		if err != nil || a.IsMulticast() || a.IsUnspecified() {
			return errors.New("must be an IP address of this host")
		}
		*p = a.Unmap()
		return nil
	}
}

// sizeOption reads a number of bytes; each k, M, G or T behind it multiplies.
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
