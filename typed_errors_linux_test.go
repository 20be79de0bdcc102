package vdestack_test

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
	"github.com/vdestack/vdestack/vdeplug"
)

// TestErrorTypes looks at errors as programs do. TestClosedErrors and TestNoStack have all
// methods; internal/test/permissions has what the machine refuses.
func TestErrorTypes(t *testing.T) {
	lab := testenv.Opened(vdestack.New(t.Context(), vdestack.Config{Interfaces: []vdestack.Interface{{VNL: "mem://" + t.Name(), Addrs: testenv.Prefixes("10.0.0.1/24")}}}))(t)
	cancelled, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("changed my mind")
	cancel(reason)
	add := func(ctx context.Context, i vdestack.Interface) error { return lab.AddInterface(ctx, i) }
	second := func(_ any, err error) error { return err }

	for _, tt := range []struct {
		name string
		err  error
		is   error
	}{
		{"no stack", vdestack.ErrNoStack, fs.ErrInvalid},
		{"name in use", add(t.Context(), vdestack.Interface{Name: "vde0"}), fs.ErrExist},
		{"name in use, in a Config", second(vdestack.New(t.Context(), vdestack.Config{Interfaces: []vdestack.Interface{{Name: "a"}, {Name: "a"}}})), fs.ErrExist},
		{"no interface to remove", lab.RemoveInterface("vde9"), fs.ErrNotExist},
		{"no interface with an emulator", second(lab.Emulator("vde9")), fs.ErrNotExist},
		{"no setting", second(lab.ReadSysctl("net.ipv4.none")), fs.ErrNotExist},
		{"no scheme", second(vdestack.Open("foo://x")), errors.ErrUnsupported},
		{"no domain", second(lab.Socket(12345, syscall.SOCK_STREAM, 0)), syscall.EAFNOSUPPORT},
		{"refused connection", second(lab.Dial("tcp", "10.0.0.1:1")), syscall.ECONNREFUSED},
		{"cancelled", add(cancelled, vdestack.Interface{Name: "vde7", VNL: "mem://x"}), reason},
	} {
		if !errors.Is(tt.err, tt.is) {
			t.Errorf("%s: %v is not %q", tt.name, tt.err, tt.is)
		}
	}

	// As tests of programs make them.
	if err := (&vdestack.RefusedError{Reason: "no tun"}); err.Error() != "no tun" || errors.Unwrap(err) != nil {
		t.Errorf("without an error: %v", err)
	}

	err := add(t.Context(), vdestack.Interface{Name: "lab0", VNL: "vde:///nosuch"})
	if e, ok := errors.AsType[*vdestack.InterfaceError](err); !ok || e.Name != "lab0" || e.VNL != "vde:///nosuch" {
		t.Errorf("the interface is not in %v: %+v", err, e)
	}
	if e, ok := errors.AsType[*vdeplug.Error](err); !ok || e.Op != "open" || e.VNL != "vde:///nosuch" {
		t.Errorf("the network is not in %v: %+v", err, e)
	}
	_, err = vdestack.New(t.Context(), vdestack.Config{Interfaces: []vdestack.Interface{{}, {Addrs: testenv.Prefixes("10.0.0.1/24"), Gateways: testenv.Addrs("10.9.9.9")}}})
	if e, ok := errors.AsType[*vdestack.InterfaceError](err); !ok || e.Name != "vde1" || !errors.Is(e, syscall.ENETUNREACH) {
		t.Errorf("the interface is not in %v: %+v", err, e)
	}
	for _, i := range []vdestack.Interface{{Addrs: testenv.Prefixes("10.0.0.0/24")}, {MTU: 1}, {Name: "a"}} {
		cfg := vdestack.Config{Interfaces: []vdestack.Interface{{Name: "a"}, i}}
		_, bad := vdestack.New(t.Context(), cfg)
		if e, ok := errors.AsType[*vdestack.InterfaceError](bad); !ok || e.Name != cmp.Or(i.Name, "vde1") {
			t.Errorf("the interface is not in %v: %+v", bad, e)
		}
	}
	if _, ok := errors.AsType[*rtnl.Error](err); !ok {
		t.Errorf("%v is not of package rtnl", err)
	}
	lost := testenv.Opened(vdestack.New(t.Context(), vdestack.Config{Interfaces: []vdestack.Interface{{VNL: "=true", NoReconnect: true}}}))(t)
	testenv.Eventually(t, "the end of the network", func() bool { return lost.Stats().Interfaces[0].Err != nil })
	if e, ok := errors.AsType[*vdeplug.Error](lost.Stats().Interfaces[0].Err); !ok || e.VNL != "cmd://true" {
		t.Errorf("the network is not in %+v", e)
	}
	_, err = lab.Dial("tcp", "[fe80::1%vde9]:80")
	if e, ok := errors.AsType[*net.AddrError](err); !ok || !strings.Contains(e.Addr, "vde9") {
		t.Errorf("an unknown zone: %v", err)
	}
	if err := lab.Sysctl("net.ipv4.tcp_available_congestion_control", "x"); !isRefused(err) {
		t.Errorf("a setting that is read-only: %v", err)
	}
	if err := lab.Sysctl("net.ipv4.ip_forward", "maybe"); err == nil || isRefused(err) {
		t.Errorf("a bad value: %v", err)
	}
}

func isRefused(err error) bool {
	e, ok := errors.AsType[*vdestack.RefusedError](err)
	return ok && e.Reason != "" && strings.HasSuffix(err.Error(), "("+e.Reason+")")
}
