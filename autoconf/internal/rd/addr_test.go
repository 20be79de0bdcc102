package rd

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/autoconf/internal/source/sourcetest"
)

// takenBy has another host have some addresses.
func takenBy(others func(netip.Addr) bool) func(source.Lease) error {
	return func(l source.Lease) error {
		time.Sleep(time.Second) // duplicates are looked for
		var conflict source.ConflictError
		for _, a := range l.Addrs {
			if others(a.Prefix.Addr()) {
				conflict.Addrs = append(conflict.Addrs, a.Prefix.Addr())
			}
		}
		if conflict.Addrs == nil {
			return nil
		}
		return &conflict
	}
}

// TestConflict has another host that has the address from the hardware address, and goes.
func TestConflict(t *testing.T) {
	inLab(t, source.Config{AddrGen: source.AddrEUI64}, func(l *lab) {
		l.Sink.RefuseSet(takenBy(func(a netip.Addr) bool { return a == eui1 }))
		l.solicitation()
		l.advertise(router1, prefix(net1, time.Hour, time.Hour), prefix(net2, time.Hour, time.Hour))
		first := l.Set()
		second := l.Set() // the other address is a result
		if len(first.Addrs) != 2 || len(second.Addrs) != 1 || second.Addrs[0].Prefix.Addr() != eui2 || len(second.Routes) != 3 {
			t.Errorf("got %+v, then %+v", first, second)
		}
		l.Quiet(time.Minute)
		l.Sink.RefuseSet(takenBy(func(a netip.Addr) bool { return true }))
		l.advertise(router1, prefix(net1, time.Hour, time.Hour))
		l.Set()
		l.FailedWith("in use by another host: " + eui2.String())
		if got := l.Set(); len(got.Addrs) != 0 || len(got.Routes) != 3 {
			t.Errorf("got %+v, want routes", got)
		}
		l.advertise(router1, prefix(net1, time.Hour, time.Hour)) // which does not try again
		if got := l.Set(); len(got.Addrs) != 0 {
			t.Errorf("got %+v, want no address", got)
		}
		l.Sink.RefuseSet(nil)
		l.Calls <- source.Call{Renew: true}
		l.solicitation()
		if got := l.Set(); len(got.Addrs) != 2 {
			t.Errorf("got %+v, want both addresses", got)
		}
		l.advertise(router1)
		l.Set()
		l.Quiet(time.Minute)
		fail := func(source.Lease) error { return errors.New("no such device") }
		l.Sink.RefuseSet(fail)
		l.advertise(router1)
		l.Set()
		l.Quiet(time.Minute)
	})
}

// TestStable has stable addresses, of which others are in use, and finds them again.
func TestStable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		again := func(stored json.RawMessage, use bool) netip.Addr {
			l.Begin(source.Config{AddrGen: source.AddrStable, Stored: stored})
			if !use {
				l.Stored()
			}
			l.solicitation()
			l.advertise(router1, prefix(net1, time.Hour, time.Hour))
			a := l.Set().Addrs[0].Prefix.Addr()
			l.End()
			return a
		}
		// All of them are in use.
		l.Sink.RefuseSet(takenBy(func(netip.Addr) bool { return true }))
		l.Begin(source.Config{AddrGen: source.AddrStable})
		first := l.Stored()
		l.solicitation()
		l.advertise(router1, prefix(net1, time.Hour, time.Hour))
		seen := make(map[netip.Addr]bool)
		var last json.RawMessage
		for range idgenRetries {
			seen[l.Set().Addrs[0].Prefix.Addr()] = true
			last = l.Stored()
		}
		seen[l.Set().Addrs[0].Prefix.Addr()] = true
		if len(seen) != 1+idgenRetries {
			t.Errorf("tried %v", seen)
		}
		l.FailedWith("in use by another host")
		if got := l.Set(); len(got.Addrs) != 0 {
			t.Errorf("got %+v, want no address", got)
		}
		l.End()

		l.Sink.RefuseSet(nil)
		a, b := again(first, true), again(last, true)
		if !seen[a] {
			t.Errorf("%v with what was stored first is none of %v", a, seen)
		}
		if b == a || !seen[b] {
			t.Errorf("%v with what was stored last, %v with what was first", b, a)
		}
		for _, hostile := range []string{
			"", "null", "[]", `{"key":""}`, `{"key":"AAAA"}`, `{"key":7}`, `{"key":"` + strings.Repeat("A", 43) + `=","conflicts":{"x":1}}`,
		} {
			if c := again(json.RawMessage(hostile), false); seen[c] {
				t.Errorf("%v with %q", c, hostile)
			}
		}
	})
}

// TestSecret checks what stable addresses depend on.
func TestSecret(t *testing.T) {
	s := secret{key: make([]byte, secretSize)}
	other := secret{key: slices.Repeat([]byte{1}, secretSize)}
	seen := make(map[string]bool)
	for _, s := range []secret{s, other} {
		for _, iface := range []string{"vde0", "vde1"} {
			for _, p := range []netip.Prefix{net1, net2} {
				for conflicts := range 3 {
					a, n := s.addr(iface, p, conflicts)
					if again, _ := s.addr(iface, p, conflicts); again != a || n != conflicts || !p.Contains(a) {
						t.Errorf("%v, then %v", a, again)
					}
					b := a.As16()
					seen[string(b[8:])] = true
				}
			}
		}
	}
	if len(seen) != 24 {
		t.Errorf("%d different addresses, want 24", len(seen))
	}
	for id, want := range map[uint64]bool{
		0: true, 1: false, 0x02005efffe005213: true, 0x02005efffeffffff: true, 0x02005effff000000: false,
		0xfdffffffffffff7f: false, 0xfdffffffffffff80: true, 0xfdffffffffffffff: true, 0xfe00000000000000: false,
	} {
		if reserved(id) != want {
			t.Errorf("%x is reserved: %v", id, !want)
		}
	}
}

// TestLoad has the conflicts that are stored be few and sensible.
func TestLoad(t *testing.T) {
	conflicts := make(map[netip.Prefix]int)
	for i := range 100 {
		conflicts[netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, byte(i)}), 64)] = i - 50
	}
	b, err := json.Marshal(storedSecret{make([]byte, secretSize), conflicts})
	if err != nil {
		t.Fatal(err)
	}
	var s secret
	if !s.load(b) || len(s.conflicts) != idgenRetries {
		t.Errorf("got %v", s.conflicts)
	}
	// What is known has precedence when it is stored.
	c := client{sink: sourcetest.NewSink(), secret: s}
	for i := range source.MaxItems {
		c.addrs.put(time.Now(), netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfc, byte(i)}), 64)).v.conflicts = 1
	}
	c.store()
	var again secret
	if !again.load((<-c.sink.(*sourcetest.Sink).Said).(json.RawMessage)) || len(again.conflicts) != source.MaxItems {
		t.Errorf("got %v", again.conflicts)
	}
	for p := range again.conflicts {
		if fmt.Sprintf("%x", p.Addr().AsSlice()[0]) != "fc" {
			t.Errorf("%v is stored", p)
		}
	}
}

// FuzzStored reads what is stored.
func FuzzStored(f *testing.F) {
	f.Add([]byte(`{"key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","conflicts":{"2001:db8::/64":1}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s secret
		if !s.load(b) {
			return
		}
		if a, _ := s.addr("vde0", net1, s.conflicts[net1]); !net1.Contains(a) || len(s.conflicts) > source.MaxItems {
			t.Errorf("address %v, %d conflicts", a, len(s.conflicts))
		}
	})
}
