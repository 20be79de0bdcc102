package wireguard

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// The texts of this file are those of https://www.wireguard.com/xplatform/, which the device
// reads and writes.

// hex returns the key as the device takes it; zeros for none.
func (k Key) hex() string { return hex.EncodeToString(k.bytes()) }

// setDevice returns what a new device is told; endpoints are those of the peers.
func (c Config) setDevice(endpoints []netip.AddrPort) string {
	var b strings.Builder
	fmt.Fprintf(&b, "private_key=%s\nlisten_port=%d\n", c.PrivateKey.hex(), c.ListenPort)
	for i, p := range c.Peers {
		b.WriteString(p.set(endpoints[i]))
	}
	return b.String()
}

// set returns what makes or changes a peer. Without a valid endpoint that stays.
func (p Peer) set(endpoint netip.AddrPort) string {
	var b strings.Builder
	fmt.Fprintf(&b, "public_key=%s\npreshared_key=%s\n", hex.EncodeToString(p.PublicKey[:]), p.PresharedKey.hex())
	if endpoint.IsValid() {
		fmt.Fprintf(&b, "endpoint=%s\n", endpoint)
	}
	fmt.Fprintf(&b, "persistent_keepalive_interval=%d\nreplace_allowed_ips=true\n", p.PersistentKeepalive/time.Second)
	for _, a := range p.AllowedIPs {
		fmt.Fprintf(&b, "allowed_ip=%s\n", a)
	}
	return b.String()
}

// move returns what changes the endpoint of a peer, if there is still one.
func move(k PublicKey, endpoint netip.AddrPort) string {
	return fmt.Sprintf("public_key=%s\nupdate_only=true\nendpoint=%s\n", hex.EncodeToString(k[:]), endpoint)
}

// remove returns what removes a peer.
func remove(k PublicKey) string {
	return fmt.Sprintf("public_key=%s\nremove=true\n", hex.EncodeToString(k[:]))
}

// PeerStatus is what a tunnel knows about a peer.
type PeerStatus struct {
	PublicKey PublicKey
	// Endpoint is where the peer was last seen or, before, where it was configured; invalid
	// if that is not known.
	Endpoint            netip.AddrPort
	AllowedIPs          []netip.Prefix
	PersistentKeepalive time.Duration
	// LastHandshake is when the two have last agreed on keys; zero if they have not. While
	// packets flow it is some two minutes ago at most.
	LastHandshake time.Time
	// RxBytes and TxBytes count the encrypted data of UDP packets, from and to the peer.
	RxBytes, TxBytes uint64
}

// status is what a device says about itself, without the keys.
type status struct {
	port  uint16
	peers map[PublicKey]*PeerStatus
}

// errStatus has nothing of the text, which has keys.
var errStatus = errors.New("wireguard: the device's answer cannot be read")

func parseStatus(text string) (status, error) {
	s := status{peers: make(map[PublicKey]*PeerStatus)}
	var p *PeerStatus
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if name == "public_key" {
			b, err := hex.DecodeString(value)
			if err != nil || len(b) != keyLen {
				return status{}, errStatus
			}
			p = &PeerStatus{PublicKey: PublicKey(b)}
			s.peers[p.PublicKey] = p
			continue
		}
		n, numErr := strconv.ParseUint(value, 10, 64)
		if p == nil {
			if name == "listen_port" {
				if numErr != nil || n > 65535 {
					return status{}, errStatus
				}
				s.port = uint16(n)
			}
			continue
		}
		var err error
		switch name {
		case "endpoint":
			p.Endpoint, err = netip.ParseAddrPort(value)
		case "allowed_ip":
			var a netip.Prefix
			a, err = netip.ParsePrefix(value)
			p.AllowedIPs = append(p.AllowedIPs, a)
		case "last_handshake_time_sec":
			if err = numErr; n != 0 {
				p.LastHandshake = time.Unix(int64(n), 0)
			}
		case "last_handshake_time_nsec":
			if err = numErr; !p.LastHandshake.IsZero() {
				p.LastHandshake = p.LastHandshake.Add(time.Duration(n))
			}
		case "rx_bytes":
			p.RxBytes, err = n, numErr
		case "tx_bytes":
			p.TxBytes, err = n, numErr
		case "persistent_keepalive_interval":
			p.PersistentKeepalive, err = time.Duration(n)*time.Second, numErr
		}
		if err != nil {
			return status{}, errStatus
		}
	}
	return s, nil
}
