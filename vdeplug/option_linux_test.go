package vdeplug

import (
	"context"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/p2p"
	"github.com/vdestack/vdestack/internal/transform"
	"github.com/vdestack/vdestack/internal/vdeproto"
	"github.com/vdestack/vdestack/internal/vxlan"
)

// FuzzOptions checks that accepted options are within their bounds.
func FuzzOptions(f *testing.F) {
	for _, vnl := range []string{
		"vde:///run/sw[port=3/group=7/mode=700]", "vde://[x/y=1]", "vde://sw[16777216]",
		"vxvde://239.1.2.3/port=5555/vni=12345/ttl=7", "vxvde://ff02::7%test0/grp=70000", "vxvde:///rcvbuf=2kM/hashsize=0/expiretime=9",
		"vxvde:///v4/v6/bind=::1/if=a", "vxlan:///remote=10.0.0.1,10.0.0.2/vni=7", "vxlan:///remotes='file:/run/hosts'/v6", "vxlan://ff05::1/port=8472/remote=fe80::1%a", "vlan://3/untag=4/trunk/tag=10:11-12{x}", "agno:///k[ethtype=0x600]{mem://}", "ptp:///a[seqpacket]", "vdesl:///dev/x[speed=9600]", "tap://a%d", "udp://[::1]:5->a:b:6", "udp://->:",
		"switch:///run/sw[mode=0777/dirmode=7777/grp=7/hashsize=1048576/expiretime=2147483647/hashseed=1]", "hub://[dirmode=0]", "bonding://sw[mode=1]",
	} {
		f.Add(vnl)
	}
	f.Fuzz(func(t *testing.T, vnl string) {
		l, err := parse(vnl)
		if err != nil {
			return
		}
		if cfg, err := parseVDE(l); err == nil {
			if cfg.Port < vdeproto.AnyPort || cfg.Port > vdeproto.MaxPort || cfg.Mode < -1 || cfg.Mode > 0o777 || strings.Contains(cfg.PortGroup, "/") {
				t.Errorf("%q: %+v", vnl, cfg)
			}
		}
		if checkInterfaceName(l.Body()) == nil {
			if req, err := unix.NewIfreq(l.Body()); err != nil || req.Name() != l.Body() {
				t.Errorf("interface %q: %v", l.Body(), err)
			}
		}
		if local, peer, err := parseUDP(l.Body()); err == nil && (peer.Host == "" && !strings.Contains(l.Body(), "[]") || peer.Port == "" || strings.Contains(local.Port, ":")) {
			t.Errorf("%q: from %+v to %+v", l.Body(), local, peer)
		}
		if cfg, err := parseVDESL(l); err == nil && (cfg.device == "" || cfg.speed.Bits < 9600) {
			t.Errorf("%q: %+v", vnl, cfg)
		}
		if path, _, err := parsePTP(l); err == nil && (!filepath.IsAbs(path) || len(path) > p2p.MaxPTPPath) {
			t.Errorf("%q: path %q", vnl, path)
		}
		if cfg, _, err := parseAGNO(l); err == nil && (!filepath.IsAbs(cfg.keyfile) || cfg.ethType > transform.AGNORand && cfg.ethType < transform.MinEtherType) {
			t.Errorf("%q: %+v", vnl, cfg)
		}
		if cfg, _, err := parseVLAN(l); err == nil {
			if cfg.Number > transform.MaxVLAN+1 || cfg.Untagged > transform.MaxVLAN {
				t.Errorf("%q: %+v", vnl, cfg)
			}
			for _, p := range cfg.Tagged {
				if p.Plug == 0 || p.Plug > transform.MaxVLAN || p.Network == 0 || p.Network > transform.MaxVLAN {
					t.Errorf("%q: VLAN %d becomes %d", vnl, p.Plug, p.Network)
				}
			}
		}
		if cfg, err := parseSwitch(l); err == nil {
			if cfg.Mode&^0o666 != 0 || cfg.DirMode&^0o7777 != 0 || cfg.DirMode&0o2700 != 0o2700 || cfg.Stations < 0 || cfg.Stations > 1<<20 || cfg.Expire <= 0 {
				t.Errorf("%q: %+v", vnl, cfg)
			}
		}
		if needsNoLookup(l) {
			checkVXVDE(t, l)
			checkVXLAN(t, l)
		}
	})
}

// needsNoLookup reports whether the address and the options of a vxvde locator have no names
// to look up.
func needsNoLookup(l Locator) bool {
	p, err := l.ParseSlashed()
	if err != nil {
		return false
	}
	_, err = netip.ParseAddr(p.Addr)
	return (p.Addr == "" || err == nil) && !slices.ContainsFunc(p.Options, func(o Option) bool {
		return o.Name == "remote" && strings.Trim(o.Value, "0123456789abcdef.:,%") != "" ||
			(o.Name == "port" || o.Name == "vni" || o.Name == "grp") && strings.Trim(o.Value, "0123456789") != ""
	})
}

func checkVXVDE(t *testing.T, l Locator) {
	cfg, err := parseVXVDE(context.Background(), l)
	if err != nil {
		return
	}
	group := cfg.Group.Addr()
	if !group.IsMulticast() || group.Zone() != "" || group.Is4In6() || cfg.Group.Port() == 0 {
		t.Errorf("%q: group %v", l, cfg.Group)
	}
	if cfg.VNI > vxlan.MaxVNI || cfg.TTL < 1 || cfg.TTL > 255 || cfg.RecvBuffer < 0 || cfg.Stations < 0 || cfg.Expire <= 0 {
		t.Errorf("%q: %+v", l, cfg)
	}
	if cfg.Bind.IsValid() && cfg.Bind.Is4() != group.Is4() {
		t.Errorf("%q: from %v to %v", l, cfg.Bind, group)
	}
}

func checkVXLAN(t *testing.T, l Locator) {
	// A name that is looked up all the same finds its context done.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	cfg, err := parseVXLAN(ctx, l)
	if err != nil {
		return
	}
	if !cfg.VXLAN || cfg.VNI > vxlan.MaxVNI || cfg.Changing != (cfg.source != nil) ||
		!cfg.Changing && (cfg.Group.IsValid() == (len(cfg.Remotes) > 0) || cfg.Group.Port()+cfg.Listen.Port() == 0) {
		t.Errorf("%q: %+v", l, cfg)
	}
	for _, a := range cfg.Remotes {
		if a.Addr().IsMulticast() || a.Addr().Zone() != "" || a.Addr().Is4() != cfg.Listen.Addr().Is4() || a.Port() != cfg.Listen.Port() {
			t.Errorf("%q: remote %v", l, a)
		}
	}
}

// FuzzFile reads the first line of a file as a locator.
func FuzzFile(f *testing.F) {
	for _, text := range []string{"", "\n", "vde:///run/sw[3]\r\nmore", " mem://x", "=a\\\nb", "://\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l, err := firstLocator(strings.NewReader(text))
		if err != nil {
			return
		}
		line, _, _ := strings.Cut(text, "\n")
		want, err := parse(strings.TrimSuffix(line, "\r"))
		if err != nil || l != want {
			t.Errorf("got %#v, want %#v, %v", l, want, err)
		}
	})
}
