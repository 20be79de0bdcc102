package rd

import (
	"net/netip"
	"testing"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/autoconf/internal/source/sourcetest"
)

// TestDay follows a router for a day, on a network that loses, delays, reorders and repeats
// messages. The router is sometimes away, and comes back with another prefix. The source
// never has an address for longer than the router has said.
func TestDay(t *testing.T) {
	const (
		valid = 3 * time.Hour
		delay = 320 * time.Millisecond // at most, with the 10 ms for which a frame is held back
	)
	inLab(t, source.Config{AddrGen: source.AddrEUI64}, func(l *lab) {
		network := l.Over("seed=1/loss=25%/duplicate=25%/reorder=25%/delay=10ms/jitter=300ms")
		defer network.Close()
		history := sourcetest.History{Until: make(map[netip.Addr]time.Time), Since: time.Now()}
		current, addr, solicited := net1, eui1, 0
		advertise := func() {
			network.Deliver(sourcetest.ICMP6, packet(t, router1, &ndp.RouterAdvertisement{
				RouterLifetime: 30 * time.Minute, Options: []ndp.Option{prefix(current, valid, valid)},
			}))
			history.Until[addr] = time.Now().Add(valid + delay)
		}
		away := false
		end, tick, goAway := time.After(24*time.Hour), time.NewTicker(9*time.Minute), time.NewTicker(4*time.Hour)
		defer tick.Stop()
		defer goAway.Stop()
		for {
			select {
			case <-network.Sent:
				if solicited++; !away {
					advertise()
				}
			case said := <-l.Sink.Said:
				if lease, ok := said.(source.Lease); ok {
					history.Told(t, lease)
				}
			case <-tick.C:
				if !away {
					advertise()
				}
			case <-goAway.C:
				if away = !away; !away {
					if current, addr = net2, eui2; history.Until[eui1].After(time.Now()) {
						t.Error("the first prefix has not ended")
					}
				}
			case <-end:
				t.Logf("%d times told, %d losses, %v without an address, %d solicitations", history.Sets, history.Losses, history.Without, solicited)
				if history.Losses != 3 || history.Sets < 50 || history.Without < 2*time.Hour || history.Without > 5*time.Hour || solicited < 20 || solicited > 500 {
					t.Error("that is not expected")
				}
				return
			}
		}
	})
}
