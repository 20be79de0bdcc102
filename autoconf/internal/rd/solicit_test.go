package rd

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/autoconf/internal/source/sourcetest"
)

// TestNoRouter waits for a router for half a day.
func TestNoRouter(t *testing.T) {
	inLab(t, source.Config{}, func(l *lab) {
		l.solicitation()
		l.At(0, 0)
		l.solicitation()
		l.At(4*time.Second, 400*time.Millisecond)
		last := l.solicitation()
		l.At(8*time.Second, 800*time.Millisecond)
		l.FailedWith("no router has answered") // at source.ReportAfter
		for wait := 8 * time.Second; time.Since(l.Start) < 12*time.Hour; wait = min(2*wait, time.Hour) {
			next := l.solicitation()
			if got := next - last; (got - wait).Abs() > wait/10 {
				t.Errorf("a solicitation %v after the last, want %v", got, wait)
			}
			l.FailedWith("no router has answered")
			if n := len(l.Sink.Said); n > 0 {
				t.Errorf("the sink is told %d more", n)
			}
			last = next
		}
		l.advertise(router1)
		l.known("::/0 via fe80::1 +0 for 30m0s", "by fe80::1")
		l.Quiet(22 * time.Minute)
	})
}

// TestLosses has the network lose, repeat and reorder.
func TestLosses(t *testing.T) {
	inLab(t, source.Config{}, func(l *lab) {
		l.solicitation()
		l.solicitation()
		l.advertise(router1)
		l.known("::/0 via fe80::1 +0 for 30m0s", "by fe80::1")
		l.advertise(router1)
		l.advertise(router1)
		l.known("::/0 via fe80::1 +0 for 29m59s", "by fe80::1") // a second later
		time.Sleep(time.Minute)
		// A router that is no default router does not end the search for one.
		l.deliver(router1, &ndp.RouterAdvertisement{Options: []ndp.Option{ndp.NewMTU(1400)}})
		l.known()
		l.solicitation()
		time.Sleep(time.Second)
		l.deliver(router2, &ndp.RouterAdvertisement{Options: []ndp.Option{prefix(net1, time.Hour, time.Hour)}})
		l.known("2001:db8:0:1::/64 on the link for 1h0m0s", "by fe80::2")
		l.solicitation()
		l.advertise(router1)
		l.Set()
		l.Quiet(20 * time.Minute)
	})
}

// TestRefresh has a router that only answers, and then is lost.
func TestRefresh(t *testing.T) {
	inLab(t, source.Config{}, func(l *lab) {
		for at := time.Duration(0); at < 4*time.Hour; at += 30 * time.Minute * 3 / 4 {
			l.solicitation()
			l.At(at, time.Second)
			l.advertise(router1)
			l.known("::/0 via fe80::1 +0 for 30m0s", "by fe80::1")
		}
		n := 0
		for ; len(l.Sink.Said) == 0; n++ {
			l.solicitation()
		}
		l.known()
		if n < 6 || n > 9 {
			t.Errorf("%d solicitations before the router was lost", n)
		}
		for range tries + 1 {
			l.solicitation()
		}
		l.FailedWith("no router has answered")
	})
}

// TestShortLived has routers that live for a second, say goodbye at once, or change all the
// time: that does not make the source speak or be heard more often.
func TestShortLived(t *testing.T) {
	inLab(t, source.Config{}, func(l *lab) {
		l.solicitation()
		sent, said := 0, 0
		for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); {
			for _, lifetime := range []time.Duration{time.Second, 0, time.Hour, 0} {
				l.deliver(router1, &ndp.RouterAdvertisement{RouterLifetime: lifetime})
				time.Sleep(20 * time.Millisecond)
			}
			for ; len(l.Link.Sent) > 0; sent++ {
				l.solicitation()
			}
			for ; len(l.Sink.Said) > 0; said++ {
				<-l.Sink.Said
			}
		}
		if sent > 3 || said > 121 {
			t.Errorf("in two minutes: %d solicitations, the sink is told %d times", sent, said)
		}
	})
}

// TestUseless has a router that says nothing that can be used, and then goes on for ever.
func TestUseless(t *testing.T) {
	inLab(t, source.Config{}, func(l *lab) {
		l.solicitation()
		l.deliver(router1, &ndp.RouterAdvertisement{Options: []ndp.Option{ndp.NewMTU(1400)}})
		l.solicitation()
		l.FailedWith("router fe80::1 advertises nothing that could be used")
		l.At(source.ReportAfter, 0)
		l.solicitation()
		l.deliver(router1, &ndp.RouterAdvertisement{Options: []ndp.Option{raw(24, 0, 0, 0xff, 0xff, 0xff, 0xff)}})
		l.known("::/0 via fe80::1 +0 for ever", "by fe80::1")
		l.Quiet(365 * 24 * time.Hour)
	})
}

// TestSend has solicitations that cannot be sent for a time, as while the first address is
// tentative, and then for ever.
func TestSend(t *testing.T) {
	refuse := func(sourcetest.Sent) error { return errors.New("cannot assign requested address") }
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.Link.RefuseSend(refuse)
		l.Begin(source.Config{})
		time.Sleep(2500 * time.Millisecond)
		l.Link.RefuseSend(nil)
		l.solicitation()
		l.At(3*time.Second, 0)
		l.Link.RefuseSend(refuse)
		l.FailedWith("sending a solicitation: cannot assign requested address")
		l.At(source.ReportAfter, 0)
		time.Sleep(24 * time.Hour)
		if n := len(l.Sink.Said); n > 40 {
			t.Errorf("reported %d times a day", n)
		}
		l.End()
	})
}

// TestPort has a port that ends, and cannot be opened.
func TestPort(t *testing.T) {
	no := errors.New("no such device")
	inLab(t, source.Config{}, func(l *lab) {
		l.solicitation()
		l.Link.Break()
		if err := <-l.Done; !errors.Is(err, source.ErrGone) {
			t.Errorf("got %v, want %v", err, source.ErrGone)
		}
		l.Link.RefuseOpen(func(string) error { return no })
		l.Begin(source.Config{})
		if err := <-l.Done; !errors.Is(err, no) {
			t.Errorf("got %v, want %v", err, no)
		}
		l.Link.HW = nil
		l.Begin(source.Config{})
		if err := <-l.Done; err == nil {
			t.Error("a link without a hardware address")
		}
		l.Link.HW = sourcetest.MAC
		l.Link.RefuseOpen(nil)
		l.Begin(source.Config{})
	})
}

// TestRenew asks for attempts.
func TestRenew(t *testing.T) {
	inLab(t, source.Config{}, func(l *lab) {
		l.solicitation()
		l.advertise(router1)
		l.Set()
		time.Sleep(time.Minute)
		l.Calls <- source.Call{Renew: true}
		l.Calls <- source.Call{Renew: true}
		l.solicitation()
		l.At(time.Minute, 0)
		l.Calls <- source.Call{Renew: true}
		l.solicitation()
		l.At(time.Minute+time.Second, 0)
		l.advertise(router1)
		l.known("::/0 via fe80::1 +0 for 30m0s", "by fe80::1")
		l.Quiet(5 * time.Minute)
		l.Calls <- source.Call{Renew: true}
		l.solicitation()
		l.FailedWith("no router has answered") // and what is known stays
		l.solicitation()
		l.deliver(router2, &ndp.RouterAdvertisement{})
		l.Set()
		l.solicitation()
		close(l.Calls)
		l.Calls = nil
		l.advertise(router2)
		if got := l.Set(); len(got.Routes) != 2 {
			t.Errorf("got %+v, want two routers", got)
		}
	})
}

// TestConfirm has the interface return from the same network and from others.
func TestConfirm(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer func(l *lab)
		want   []string
	}{
		{"the same network, by another router", func(l *lab) {
			l.advertise(router2, prefix(net2, time.Hour, time.Hour))
			time.Sleep(2 * time.Second)
			l.advertise(router2, prefix(net1, time.Hour, time.Hour))
		}, []string{
			"2001:db8:0:1:0:ff:fe00:42/64 preferred 59m55s valid 59m55s", "2001:db8:0:2:0:ff:fe00:42/64 preferred 59m53s valid 59m53s",
			"::/0 via fe80::1 +0 for 28m53s", "2001:db8:0:1::/64 on the link for 59m55s", "::/0 via fe80::2 +0 for 29m55s",
			"2001:db8:0:2::/64 on the link for 59m53s", "by fe80::2",
		}},
		{"another network, with a router of the same address", func(l *lab) {
			l.advertise(router1, prefix(net2, time.Hour, time.Hour))
		}, []string{
			"2001:db8:0:2:0:ff:fe00:42/64 preferred 59m53s valid 59m53s",
			"::/0 via fe80::1 +0 for 29m53s", "2001:db8:0:2::/64 on the link for 59m53s", "by fe80::1",
		}},
		{"another network", func(l *lab) {
			l.advertise(router2, prefix(net2, time.Hour, time.Hour))
		}, []string{
			"2001:db8:0:2:0:ff:fe00:42/64 preferred 59m53s valid 59m53s",
			"::/0 via fe80::2 +0 for 29m53s", "2001:db8:0:2::/64 on the link for 59m53s", "by fe80::2",
		}},
		{"no prefixes", func(l *lab) { l.advertise(router2) }, []string{
			"2001:db8:0:1:0:ff:fe00:42/64 preferred 58m53s valid 58m53s",
			"::/0 via fe80::1 +0 for 28m53s", "2001:db8:0:1::/64 on the link for 58m53s", "::/0 via fe80::2 +0 for 29m53s", "by fe80::2",
		}},
		{"no answer", func(l *lab) { l.Calls <- source.Call{Slept: 40 * time.Second} }, []string{
			"2001:db8:0:1:0:ff:fe00:42/64 preferred 58m13s valid 58m13s",
			"::/0 via fe80::1 +0 for 28m13s", "2001:db8:0:1::/64 on the link for 58m13s", "by fe80::1",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inLab(t, source.Config{AddrGen: source.AddrEUI64}, func(l *lab) {
				l.solicitation()
				l.advertise(router1, prefix(net1, time.Hour, time.Hour))
				l.Set()
				time.Sleep(time.Minute)
				l.Calls <- source.Call{Confirm: true}
				l.solicitation()
				tt.answer(l)
				time.Sleep(7*time.Second - time.Since(l.Start)%time.Minute)
				if got, want := text(l.last()), join(tt.want); got != want {
					t.Errorf("got\n%s\nwant\n%s", got, want)
				}
			})
		})
	}
}

// TestSleep has the machine sleep for longer than some of what it knew.
func TestSleep(t *testing.T) {
	inLab(t, source.Config{AddrGen: source.AddrEUI64}, func(l *lab) {
		l.solicitation()
		l.advertise(router1, prefix(net1, time.Hour, 2*time.Hour))
		l.Set()
		time.Sleep(10 * time.Minute)
		l.Calls <- source.Call{Slept: 10 * time.Minute}
		l.known("2001:db8:0:1:0:ff:fe00:42/64 preferred 40m0s valid 1h40m0s",
			"::/0 via fe80::1 +0 for 10m0s", "2001:db8:0:1::/64 on the link for 1h40m0s", "by fe80::1")
		l.Calls <- source.Call{Slept: 50 * time.Minute, Confirm: true}
		l.solicitation()
		l.known("2001:db8:0:1:0:ff:fe00:42/64 preferred -10m0s valid 50m0s", "2001:db8:0:1::/64 on the link for 50m0s", "by fe80::1")
		l.Calls <- source.Call{Slept: time.Hour}
		l.known()
		l.FailedWith("no router has answered")
	})
}
