package wireguard

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/conn/bindtest"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"
)

// A lossyBind loses packets.
type lossyBind struct {
	conn.Bind
	lose        atomic.Int32 // how many handshakes are lost
	initiations atomic.Int32
}

func (b *lossyBind) Send(bufs [][]byte, to conn.Endpoint) error {
	if bufs[0][0] == device.MessageInitiationType {
		b.initiations.Add(1)
		if b.lose.Add(-1) >= 0 {
			return nil
		}
		// The device sets its timer to repeat a handshake when it has sent it. If the answer
		// were there before, it would repeat it for nothing.
		packet := slices.Clone(bufs[0])
		time.AfterFunc(time.Millisecond, func() { b.Bind.Send([][]byte{packet}, to) })
		return nil
	}
	return b.Bind.Send(bufs, to)
}

// A clockwork is two devices of wireguard-go on channels, so that their time is that of synctest.
type clockwork struct {
	t       *testing.T
	keys    [2]Key
	binds   [2]*lossyBind
	tuns    [2]*tuntest.ChannelTUN
	devices [2]*device.Device
	got     [2]atomic.Int32 // packets
}

// kept stay when their devices are gone: finalizers empty the channels of peers, which the runtime
// allows only within synctest.
var kept []*device.Peer

func newClockwork(t *testing.T) *clockwork {
	w := &clockwork{t: t, keys: [2]Key{NewKey(), NewKey()}}
	for i, b := range bindtest.NewChannelBinds() {
		w.binds[i] = &lossyBind{Bind: b}
		w.start(i, i == 0)
	}
	return w
}

func (w *clockwork) addr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}) }

// start starts a device, which knows where the other one is or learns that from it.
func (w *clockwork) start(i int, knows bool) {
	w.t.Helper()
	tun := tuntest.NewChannelTUN()
	dev := device.NewDevice(tun.TUN(), w.binds[i], device.NewLogger(device.LogLevelSilent, ""))
	p := Peer{PublicKey: w.keys[1-i].Public(), AllowedIPs: []netip.Prefix{netip.PrefixFrom(w.addr(1-i), 32)}}
	var at netip.AddrPort
	if knows {
		at = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(i+1)) // as bindtest has it
	}
	if err := dev.IpcSet(Config{PrivateKey: w.keys[i], Peers: []Peer{p}}.setDevice([]netip.AddrPort{at})); err != nil {
		w.t.Fatal(err)
	}
	if err := dev.Up(); err != nil {
		w.t.Fatal(err)
	}
	w.tuns[i], w.devices[i] = tun, dev
	kept = append(kept, dev.LookupPeer(device.NoisePublicKey(p.PublicKey)))
	go func() {
		for {
			select {
			case <-tun.Inbound:
				w.got[i].Add(1)
			case <-dev.Wait():
				return
			}
		}
	}()
}

// send has an end send a packet, and reports whether it has arrived.
func (w *clockwork) send(i int) bool {
	before := w.got[1-i].Load()
	w.tuns[i].Outbound <- tuntest.Ping(w.addr(1-i), w.addr(i))
	synctest.Wait()
	return w.got[1-i].Load() > before
}

func (w *clockwork) close() {
	for _, d := range w.devices {
		d.Close()
	}
}

// step is how often a packet is sent until one arrives.
const step = 10 * time.Millisecond

// between fails unless a time is at most some jitter more than it should be.
func between(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if got < want || got > want+device.RekeyTimeoutJitterMaxMs*time.Millisecond+step {
		t.Errorf("%s: %v, want %v or a little more", what, got, want)
	}
}

// TestTimes checks how long a tunnel takes to notice what has happened, as the package comment has
// it, and that nothing is lost while it agrees on new keys.
func TestTimes(t *testing.T) {
	// gap sends packets until one arrives, and returns how long that took.
	gap := func(w *clockwork, i int) time.Duration {
		began := time.Now()
		for !w.send(i) {
			if time.Since(began) > time.Minute {
				w.t.Fatal("nothing arrives for a minute")
			}
			time.Sleep(step)
		}
		return time.Since(began)
	}
	for name, run := range map[string]func(t *testing.T, w *clockwork){
		"new keys": func(t *testing.T, w *clockwork) {
			begin := time.Now()
			gap(w, 0)
			for n := range 600 {
				if !w.send(0) || !w.send(1) {
					t.Fatalf("a packet is lost after %d s", n)
				}
				time.Sleep(time.Second)
			}
			s := w.status(0)
			if n := w.binds[0].initiations.Load() + w.binds[1].initiations.Load(); n != 5 || time.Since(s.LastHandshake) > device.RekeyAfterTime {
				t.Errorf("in %v there were %d handshakes, the last %v ago", time.Since(begin), n, time.Since(s.LastHandshake))
			}
		},
		"a lost handshake": func(t *testing.T, w *clockwork) {
			w.binds[0].lose.Store(1)
			between(t, "the second comes after", gap(w, 0), device.RekeyTimeout)
			between(t, "in the other direction after", gap(w, 1), 0)
		},
		"the other end begins anew, and waits": func(t *testing.T, w *clockwork) {
			between(t, "at first", gap(w, 0), 0)
			between(t, "at first", gap(w, 1), 0)
			w.devices[1].Close()
			w.start(1, false)
			between(t, "it is noticed after", gap(w, 0), device.KeepaliveTimeout+device.RekeyTimeout)
			between(t, "in the other direction after", gap(w, 1), 0)
		},
		"the other end begins anew, and sends": func(t *testing.T, w *clockwork) {
			between(t, "at first", gap(w, 0), 0)
			w.devices[1].Close()
			w.start(1, true)
			time.Sleep(time.Second)
			between(t, "it is noticed after", gap(w, 1), 0)
			between(t, "in the other direction after", gap(w, 0), 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newClockwork(t)
				defer w.close()
				run(t, w)
			})
		})
	}
}

func (w *clockwork) status(i int) PeerStatus {
	text, err := w.devices[i].IpcGet()
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := parseStatus(text)
	if err != nil || len(s.peers) != 1 {
		w.t.Fatal(err, len(s.peers))
	}
	return *s.peers[w.keys[1-i].Public()]
}
