package vdeplug

import (
	"context"
	"encoding/binary"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzOptions wants what a plug accepts to be in the bounds that it has.
func FuzzOptions(f *testing.F) {
	for _, vnl := range []string{
		"vde:///run/sw[port=3/group=7/mode=700]", "vde://[x/y=1]", "vde://sw[16777216]",
		"vxvde://239.1.2.3/port=5555/vni=12345/ttl=7", "vxvde://ff02::7%test0/grp=70000", "vxvde:///rcvbuf=2kM/hashsize=0/expiretime=9",
		"vxvde:///v4/v6/bind=::1/if=a", "vxlan:///remote=10.0.0.1,10.0.0.2/vni=7", "vxlan://ff05::1/port=8472/remote=fe80::1%a", "vlan://3/untag=4/trunk/tag=10:11-12{x}", "agno:///k[ethtype=0x600]{mem://}", "ptp:///a[seqpacket]", "vdesl:///dev/x[speed=9600]", "tap://a%d", "udp://[::1]:5->a:b:6", "udp://->:",
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
			if cfg.port < anyPort || cfg.port > maxPort || cfg.mode < -1 || cfg.mode > 0o777 || strings.Contains(cfg.portgroup, "/") {
				t.Errorf("%q: %+v", vnl, cfg)
			}
		}
		if checkInterfaceName(l.Body()) == nil {
			if req, err := unix.NewIfreq(l.Body()); err != nil || req.Name() != l.Body() {
				t.Errorf("interface %q: %v", l.Body(), err)
			}
		}
		if local, peer, err := parseUDP(l.Body()); err == nil && (peer.host == "" && !strings.Contains(l.Body(), "[]") || peer.port == "" || strings.Contains(local.port, ":")) {
			t.Errorf("%q: from %+v to %+v", l.Body(), local, peer)
		}
		if cfg, err := parseVDESL(l); err == nil && (cfg.device == "" || cfg.speed.bits < 9600) {
			t.Errorf("%q: %+v", vnl, cfg)
		}
		if path, _, err := parsePTP(l); err == nil && (!filepath.IsAbs(path) || len(path) > ptpMaxPath) {
			t.Errorf("%q: path %q", vnl, path)
		}
		if cfg, _, err := parseAGNO(l); err == nil && (!filepath.IsAbs(cfg.keyfile) || cfg.ethType > agnoRand && cfg.ethType < minEthType) {
			t.Errorf("%q: %+v", vnl, cfg)
		}
		if v, _, err := parseVLAN(l); err == nil {
			for i, to := range v.out.tagged {
				if to == 0 || to == maxVLAN+1 || v.in.tagged[i] == 0 || v.in.tagged[i] == maxVLAN+1 {
					t.Errorf("%q: VLAN %d becomes %d, %d", vnl, i, to, v.in.tagged[i])
				}
			}
		}
		if cfg, err := parseSwitch(l); err == nil {
			if cfg.mode&^0o666 != 0 || cfg.dirMode&^0o7777 != 0 || cfg.dirMode&0o2700 != 0o2700 || cfg.stations < 0 || cfg.stations > 1<<20 || cfg.expire <= 0 {
				t.Errorf("%q: %+v", vnl, cfg)
			}
		}
		if asksNobody(l) {
			checkVXVDE(t, l)
			checkVXLAN(t, l)
		}
	})
}

// asksNobody reports that the address and the options of a vxvde locator have no
// names that must be looked up.
func asksNobody(l Locator) bool {
	target, err := l.Slashed()
	if err != nil {
		return false
	}
	_, err = netip.ParseAddr(target.Addr)
	return (target.Addr == "" || err == nil) && !slices.ContainsFunc(target.Params, func(p Param) bool {
		return p.Name == "remote" && strings.Trim(p.Value, "0123456789abcdef.:,%") != "" ||
			(p.Name == "port" || p.Name == "vni" || p.Name == "grp") && strings.Trim(p.Value, "0123456789") != ""
	})
}

func checkVXVDE(t *testing.T, l Locator) {
	cfg, err := parseVXVDE(context.Background(), l)
	if err != nil {
		return
	}
	group := cfg.group.Addr()
	if !group.IsMulticast() || group.Zone() != "" || group.Is4In6() || cfg.group.Port() == 0 {
		t.Errorf("%q: group %v", l, cfg.group)
	}
	if cfg.vni > maxVNI || cfg.ttl < 1 || cfg.ttl > 255 || cfg.rcvbuf < 0 || cfg.table < 0 || cfg.expire <= 0 {
		t.Errorf("%q: %+v", l, cfg)
	}
	if cfg.bind.IsValid() && cfg.bind.Is4() != group.Is4() {
		t.Errorf("%q: from %v to %v", l, cfg.bind, group)
	}
}

func checkVXLAN(t *testing.T, l Locator) {
	// Names are looked up, and not before the context has ended.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	cfg, err := parseVXLAN(ctx, l)
	if err != nil {
		return
	}
	if !cfg.vxlan || cfg.group.IsValid() == (len(cfg.remotes) > 0) || cfg.to().Port() == 0 || cfg.vni > maxVNI {
		t.Errorf("%q: %+v", l, cfg)
	}
	for _, a := range cfg.remotes {
		if a.Addr().IsMulticast() || a.Addr().Zone() != "" || a.Addr().Is4() != cfg.to().Addr().Is4() || a.Port() != cfg.to().Port() {
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

// FuzzRouteReply holds the decoder against the kernel's layout: a message for a
// new route says in its eighth byte what the route is.
func FuzzRouteReply(f *testing.F) {
	local := make([]byte, unix.NLMSG_HDRLEN+unix.SizeofRtMsg)
	binary.NativeEndian.PutUint16(local[4:], unix.RTM_NEWROUTE)
	local[unix.NLMSG_HDRLEN+7] = unix.RTN_LOCAL
	unicast := slices.Clone(local)
	unicast[unix.NLMSG_HDRLEN+7] = unix.RTN_UNICAST
	for _, b := range [][]byte{nil, local, unicast, local[:20], routeRequest(netip.MustParseAddr("10.0.0.1"), 0)} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		want := len(b) < unix.NLMSG_HDRLEN // no answer: the port has to do
		if len(b) >= unix.NLMSG_HDRLEN+8 {
			want = binary.NativeEndian.Uint16(b[4:6]) == unix.RTM_NEWROUTE && b[unix.NLMSG_HDRLEN+7] == unix.RTN_LOCAL
		}
		if got := isLocalRoute(b); got != want {
			t.Errorf("%x: %v, want %v", b, got, want)
		}
	})
}
