package vdestack

import (
	"context"
	"encoding/json"
	"errors"
	"expvar"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/vdeplug"
)

// TestStacks lists stacks and forwards, which are there until Close.
func TestStacks(t *testing.T) {
	check := func(want ...*Stack) {
		t.Helper()
		if got := Stacks(); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	before := Stacks()
	a, b := open(t, "null://", "10.0.0.1/24"), made(t, Config{Name: "b"})
	check(append(before, a, b)...)
	if _, err := New(t.Context(), Config{Interfaces: []Interface{{VNL: "none://"}}}); err == nil {
		t.Error("an unknown scheme is no error")
	}
	f := testenv.Opened(a.ForwardIn(t.Context(), "tcp", "127.0.0.1:0", "10.0.0.1:80", nil))(t)
	g := testenv.Opened(a.ForwardOut(t.Context(), "udp4", "10.0.0.1:53", "127.0.0.1:5353", nil))(t)
	if got := a.Forwards(); !slices.Equal(got, []*Forward{f, g}) {
		t.Errorf("forwards: %v", got)
	}
	for _, tt := range []struct{ got, want ForwardStats }{
		{f.Stats(), ForwardStats{Network: "tcp", Listen: f.Addr().String(), Server: "10.0.0.1:80"}},
		{g.Stats(), ForwardStats{Out: true, Network: "udp4", Listen: "10.0.0.1:53", Server: "127.0.0.1:5353"}},
	} {
		if tt.got != tt.want {
			t.Errorf("got %+v, want %+v", tt.got, tt.want)
		}
	}
	f.Close()
	if got := a.Forwards(); !slices.Equal(got, []*Forward{g}) {
		t.Errorf("after Close of one: %v", got)
	}
	testenv.Must(a.BeforeClose(func(context.Context) { check(append(before, b)...) }))(t)
	a.Close()
	if got := a.Forwards(); len(got) != 0 {
		t.Errorf("after Close of the stack: %v", got)
	}
	if _, err := a.ForwardIn(t.Context(), "tcp", "127.0.0.1:0", "10.0.0.1:80", nil); !errors.Is(err, net.ErrClosed) || len(a.Forwards()) != 0 {
		t.Errorf("after Close of the stack: %v, %v", err, a.Forwards())
	}
	check(append(before, b)...)
	b.Close()
	b.Close()
	check(before...)
	if got := (*Stack)(nil).Forwards(); got != nil {
		t.Errorf("of no stack: %v", got)
	}
}

// TestVars reads the JSON of expvar, while stacks come and go.
func TestVars(t *testing.T) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for range 10 {
			s, err := Open("mem://"+t.Name()+".other", "10.0.0.1/24")
			if err != nil {
				t.Error(err)
				return
			}
			s.Close()
		}
	})
	s := made(t, Config{Name: "vars", Interfaces: []Interface{{VNL: "mem://" + t.Name(), Addrs: testenv.Prefixes("10.0.0.1/24")}}})
	testenv.Opened(vdeplug.Open("mem://"+t.Name(), nil))(t)
	testenv.Opened(s.ForwardIn(t.Context(), "tcp", "127.0.0.1:0", "10.0.0.1:80", nil))(t)
	testenv.Listen(t, s, "tcp", ":80")
	for range 20 {
		var got struct {
			Stacks []struct {
				Name       string
				Interfaces []struct {
					Name string
					Err  *string
				}
				Sockets  SocketStats
				Forwards []struct{ Network, Server string }
			}
			Switches []vdeplug.SwitchStats
		}
		text := expvar.Func(Vars).String()
		testenv.Check(t, json.Unmarshal([]byte(text), &got))
		for _, v := range got.Stacks {
			if v.Name == "vars" && fmt.Sprint(v.Interfaces, v.Sockets.TCP.Listen, v.Forwards) != "[{vde0 <nil>}] 1 [{tcp 10.0.0.1:80}]" {
				t.Errorf("got %+v", v)
			}
		}
		if !strings.Contains(text, `"Name":"vars"`) || !slices.ContainsFunc(got.Switches, func(s vdeplug.SwitchStats) bool {
			return s.VNL == "mem://"+t.Name() && s.Plugs == 1 && s.Clients == 0
		}) {
			t.Errorf("got %s", text)
		}
	}
}
