package slirp

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
)

// TestNameOrder has name servers that are silent for a while.
func TestNameOrder(t *testing.T) {
	a, b, c := netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("[fe80::1%eth0]:53"), netip.MustParseAddrPort("192.0.2.3:53")
	all := []netip.AddrPort{a, b, c}
	type servers = []netip.AddrPort
	// from is how a datagram of the server comes in.
	from := func(s netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(s.Addr().WithZone(""), s.Port()) }
	start := func(t *testing.T) (*nameservers, func(network string, before netip.AddrPort, order, probes servers)) {
		n := &nameservers{list: all, checked: time.Now().Add(24 * time.Hour)}
		return n, func(network string, before netip.AddrPort, order, probes servers) {
			t.Helper()
			gotOrder, gotProbes := n.order(network, before)
			if !reflect.DeepEqual(gotOrder, order) || !reflect.DeepEqual(gotProbes, probes) {
				t.Errorf("%s, before %v: got %v and probes %v, want %v and %v", network, before, gotOrder, gotProbes, order, probes)
			}
		}
	}
	none := netip.AddrPort{}
	run := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
	}
	run("silent", func(t *testing.T) {
		n, want := start(t)
		want("udp", none, servers{a, b, c}, nil)
		n.asked("udp", a)
		time.Sleep(answerTime - 1)
		n.asked("udp", a) // other questions do not extend the wait
		want("udp", none, servers{a, b, c}, nil)
		time.Sleep(time.Nanosecond)
		want("udp", none, servers{b, c, a}, servers{a}) // only a packet may have been lost
		want("udp", none, servers{b, c, a}, nil)
		want("tcp", none, servers{a, b, c}, nil) // which was not asked
		// It is asked again later, once in each interval.
		time.Sleep(probeInterval - 1)
		want("udp", none, servers{b, c, a}, nil)
		time.Sleep(time.Nanosecond)
		want("udp", none, servers{b, c, a}, servers{a})
		want("udp", none, servers{b, c, a}, nil)
		time.Sleep(probeInterval)
		want("udp", none, servers{b, c, a}, servers{a})
		n.answered("udp", from(a))
		want("udp", none, servers{a, b, c}, nil)
	})
	run("answers in time", func(t *testing.T) {
		n, want := start(t)
		for range 100 {
			n.asked("udp", a)
			time.Sleep(answerTime - 1)
			n.answered("udp", from(a))
			time.Sleep(time.Minute)
			want("udp", none, servers{a, b, c}, nil)
		}
	})
	run("answers late", func(t *testing.T) {
		n, want := start(t)
		n.asked("udp", a)
		time.Sleep(2 * answerTime)
		want("udp", none, servers{b, c, a}, servers{a})
		n.answered("udp", from(a))
		want("udp", none, servers{a, b, c}, nil)
	})
	run("asked again", func(t *testing.T) {
		n, want := start(t)
		want("udp", a, servers{b, c, a}, nil)
		want("udp", c, servers{a, b, c}, nil)
		want("udp", netip.MustParseAddrPort("192.0.2.9:53"), servers{a, b, c}, nil) // not in the list any more
		n.asked("udp", b)
		time.Sleep(answerTime)
		want("udp", a, servers{c, a, b}, servers{b})
		want("udp", b, servers{c, a, b}, nil)
	})
	run("zone", func(t *testing.T) {
		n, want := start(t)
		n.asked("udp", b)
		time.Sleep(answerTime)
		want("udp", none, servers{a, c, b}, servers{b})
		n.answered("udp", from(b))
		want("udp", none, servers{a, b, c}, nil)
	})
	run("all are silent", func(t *testing.T) {
		n, want := start(t)
		for _, s := range all {
			n.asked("udp", s)
			n.asked("tcp", s)
		}
		time.Sleep(answerTime)
		want("udp", none, servers{a, b, c}, servers{b, c}) // the first to answer is used again
		want("udp", a, servers{b, c, a}, servers{c, a})
		want("tcp", none, servers{a, b, c}, servers{b, c})
		want("tcp", none, servers{a, b, c}, nil) // each has its time
		time.Sleep(probeInterval)
		want("tcp", none, servers{a, b, c}, servers{b, c})
		want("tcp", none, servers{a, b, c}, nil)
	})
	run("connections", func(t *testing.T) {
		n, want := start(t)
		n.asked("tcp", a) // it is dialled
		n.connected(a)
		time.Sleep(time.Minute)
		want("tcp", none, servers{a, b, c}, nil) // nobody has asked anything
		n.asked("tcp", a)
		time.Sleep(answerTime)
		n.connected(a) // but it does not answer
		want("tcp", none, servers{b, c, a}, servers{a})
		n.answered("tcp", a)
		want("tcp", none, servers{a, b, c}, nil)
	})
}

// TestNameListChanges has another resolv.conf on the host.
func TestNameListChanges(t *testing.T) {
	old := resolvConf
	defer func() { resolvConf = old }()
	resolvConf = filepath.Join(t.TempDir(), "resolv.conf")
	synctest.Test(t, func(t *testing.T) {
		write := func(text string, when time.Time) {
			t.Helper()
			testenv.Check(t, os.WriteFile(resolvConf, []byte(text), 0o600))
			testenv.Check(t, os.Chtimes(resolvConf, when, when))
		}
		var n nameservers
		want := func(want ...string) {
			t.Helper()
			order, _ := n.order("udp", netip.AddrPort{})
			var got []string
			for _, s := range order {
				got = append(got, s.Addr().String())
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		}
		const two = "nameserver 192.0.2.1\nnameserver 192.0.2.2\n"
		write(two, time.Unix(1, 0))
		want("192.0.2.1", "192.0.2.2")
		n.asked("udp", netip.MustParseAddrPort("192.0.2.1:53"))
		time.Sleep(2 * checkInterval)
		want("192.0.2.2", "192.0.2.1")
		// The same servers keep their state.
		write(two+"options edns0\n", time.Unix(2, 0))
		time.Sleep(2 * checkInterval)
		want("192.0.2.2", "192.0.2.1")
		// Another network, where the same address may be another server.
		write("nameserver 192.0.2.1\nnameserver 192.0.2.3\n", time.Unix(3, 0))
		time.Sleep(2 * checkInterval)
		want("192.0.2.1", "192.0.2.3")
	})
}
