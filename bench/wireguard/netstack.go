//go:build linux

package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vdestack/vdestack/wireguard"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/netstack"
)

// A gvisor is a tunnel of package tun/netstack.
type gvisor struct {
	net *netstack.Net
	dev *device.Device
}

func openNetstack(c wireguard.Config) (tunnel, error) {
	var addrs []netip.Addr
	for _, p := range c.Addrs {
		addrs = append(addrs, p.Addr())
	}
	d, n, err := netstack.CreateNetTUN(addrs, nil, c.MTU)
	if err != nil {
		return nil, err
	}
	dev := device.NewDevice(d, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	text, err := uapi(c)
	if err == nil {
		err = dev.IpcSet(text)
	}
	if err == nil {
		err = dev.Up()
	}
	if err != nil {
		dev.Close()
		return nil, err
	}
	return &gvisor{n, dev}, nil
}

// uapi writes a configuration as a device takes it.
func uapi(c wireguard.Config) (string, error) {
	key, err := base64.StdEncoding.DecodeString(c.PrivateKey.Reveal())
	var b strings.Builder
	fmt.Fprintf(&b, "private_key=%s\nlisten_port=%d\n", hex.EncodeToString(key), c.ListenPort)
	for _, p := range c.Peers {
		fmt.Fprintf(&b, "public_key=%s\n", hex.EncodeToString(p.PublicKey[:]))
		if p.Endpoint != "" {
			fmt.Fprintf(&b, "endpoint=%s\n", p.Endpoint)
		}
		for _, a := range p.AllowedIPs {
			fmt.Fprintf(&b, "allowed_ip=%s\n", a)
		}
	}
	return b.String(), err
}

func (g *gvisor) Listen(a netip.AddrPort) (net.Listener, error) { return g.net.ListenTCPAddrPort(a) }

func (g *gvisor) Dial(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
	return g.net.DialContextTCPAddrPort(ctx, a)
}

func (g *gvisor) Close() error {
	g.dev.Close()
	return nil
}
