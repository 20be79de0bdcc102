//go:build !linux

package vdeplug

import "net/netip"

func dialUDP(string, netip.AddrPort, netip.AddrPort) (Conn, error) {
	return nil, unsupported("udp")
}
