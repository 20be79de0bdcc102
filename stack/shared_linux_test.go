//go:build amd64 || arm64

package stack_test

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

// sharedVNL returns the locator of a new network that processes share.
func sharedVNL(t testing.TB) string {
	t.Helper()
	return "lan://" + filepath.Join(testenv.ShortDir(t), "net")
}

// wantReach has one stack dial another, which has the address.
func wantReach(t *testing.T, from, to *Stack, addr string) {
	t.Helper()
	l := testenv.Must(to.Listen("tcp", net.JoinHostPort(addr, "0")))(t)
	defer l.Close()
	c := testenv.Must(from.DialContext(testenv.Context(t), "tcp", l.Addr().String()))(t)
	c.Close()
}

// TestShared has stacks on several networks of every kind, isolated ones too, and changes
// them in use.
func TestShared(t *testing.T) {
	first, second, mem, lan := sharedVNL(t), sharedVNL(t), "mem://"+t.Name(), "lan://"+t.Name()
	all := func(host string) (list []Interface) {
		for i, vnl := range []string{first, second, mem, lan} {
			addrs := testenv.Prefixes("10.0."+string(rune('0'+i))+"."+host+"/24", "fd0"+string(rune('0'+i))+"::"+host+"/64")
			list = append(list, Interface{VNL: vnl, Addrs: addrs})
		}
		return list
	}
	a := made(t, Config{Interfaces: all("1")})
	b := made(t, Config{Interfaces: all("2"), Isolated: true})
	c := made(t, Config{})
	for _, f := range all("3") {
		testenv.Check(t, c.AddInterface(t.Context(), f))
	}
	for _, addr := range []string{"10.0.0.2", "10.0.1.2", "10.0.2.2", "10.0.3.2", "fd00::2", "fd01::2", "fd02::2", "fd03::2"} {
		wantReach(t, a, b, addr)
		wantReach(t, c, b, addr)
	}
	for _, s := range []*Stack{a, b, c} {
		for _, i := range s.Stats().Interfaces {
			if i.TxFrames == 0 || i.RxFrames == 0 || i.Err != nil {
				t.Errorf("%s: %+v", s, i)
			}
		}
		if _, err := s.Emulator("vde0"); err == nil || !strings.Contains(err.Error(), "not on a network of netemu") {
			t.Error(err)
		}
	}
	testenv.Check(t, c.RemoveInterface("vde0"))
	testenv.Check(t, c.AddInterface(t.Context(), all("4")[0]))
	wantReach(t, a, c, "10.0.0.4")
	testenv.Check(t, b.Close())
	d := made(t, Config{Interfaces: all("5")})
	wantReach(t, a, d, "10.0.0.5")
	for _, s := range []*Stack{a, c, d} {
		testenv.Check(t, s.Close())
	}
	for _, vnl := range []string{first, second} {
		if left := testenv.Must(os.ReadDir(filepath.Dir(vnl[len("lan://"):])))(t); len(left) > 0 {
			t.Errorf("files are left: %v", left)
		}
	}
}

// TestSharedPlug has a plug of package vdeplug on the network, and a recording.
func TestSharedPlug(t *testing.T) {
	vnl := sharedVNL(t)
	var file bytes.Buffer
	s := testenv.Must(New(t.Context(), Config{Interfaces: []Interface{{VNL: vnl, Addrs: testenv.Prefixes("10.0.0.1/24"), Capture: &file}}}))(t)
	defer s.Close()
	udp := testenv.Must(s.ListenPacket("udp4", ":7"))(t)
	defer udp.Close()
	p := newStation(t, vnl, 9)
	p.send(t, 0, "to the stack")
	buf := make([]byte, 100)
	n, from, err := udp.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "to the stack" || from.String() != p.addr.String() {
		t.Errorf("got %q from %v, %v", buf[:n], from, err)
	}
	testenv.Must(udp.WriteTo([]byte("to the plug"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.0.0.255:7"))))(t)
	p.want(t, 0, "to the plug")
	testenv.Check(t, s.Close())
	for _, text := range []string{"to the stack", "to the plug"} {
		if !bytes.Contains(file.Bytes(), []byte(text)) {
			t.Errorf("%q is not recorded", text)
		}
	}
}

// TestSharedRefused has something at the path that is no network.
func TestSharedRefused(t *testing.T) {
	dir := testenv.ShortDir(t)
	testenv.Check(t, os.WriteFile(dir+"/file", nil, 0o600))
	s := made(t, Config{})
	for path, text := range map[string]string{"/file": "is not a socket", "/none/net": "no such file", "/" + strings.Repeat("x", 107): "a socket's path at most"} {
		err := s.AddInterface(t.Context(), Interface{VNL: "lan://" + dir + path})
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: got %v, want %q", path, err, text)
		}
	}
}
