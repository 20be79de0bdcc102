package wireguard

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/device"
)

// secretWord is in everything that the scraper sends.
const secretWord = "leaked-by-the-scraper"

// targets are addresses of the host of the tests, and of the stack of the encrypted socket.
var targets = []string{"203.0.113.1:5005", "[fd09::1]:5005", "127.0.0.1:5005", "192.0.2.2:5005", "[fd19::2]:5005", "198.51.100.1:443", "[2001:db8::1]:443"}

// scrape is a program that wants to be on the network, whatever it takes. It returns what it
// has reached.
func scrape(dial func(ctx context.Context, network, address string) (net.Conn, error), lookup func(context.Context, string) ([]string, error)) (reached []string) {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	var mu sync.Mutex // guards reached
	var wg sync.WaitGroup
	note := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		reached = append(reached, what)
	}
	for _, addr := range targets {
		for _, network := range []string{"tcp", "udp"} {
			wg.Go(func() {
				c, err := dial(ctx, network, addr)
				if err != nil {
					return
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(20 * time.Millisecond))
				c.Write([]byte(secretWord))
				if _, err := c.Read(make([]byte, 1)); err == nil || network == "tcp" {
					note(network + " " + addr)
				}
			})
		}
	}
	wg.Go(func() {
		if addrs, err := lookup(ctx, secretWord+".example.org"); err == nil {
			note(fmt.Sprint(addrs))
		}
	})
	wg.Wait()
	return reached
}

// scraperMain is such a program of another process.
func scraperMain() {
	for _, what := range scrape((&net.Dialer{}).DialContext, net.DefaultResolver.LookupHost) {
		fmt.Println(what)
	}
}

// hostSent returns how much the host has sent, as far as programs ask for it: connections,
// datagrams and pings.
func hostSent(t *testing.T) string {
	t.Helper()
	var all []string
	var names []string
	for line := range strings.Lines(string(testenv.Must(os.ReadFile("/proc/self/net/snmp"))(t))) {
		f := strings.Fields(line)
		if names == nil {
			names = f
			continue
		}
		for i, name := range names {
			if key := f[0] + name; key == "Tcp:ActiveOpens" || key == "Udp:OutDatagrams" || key == "Icmp:OutEchos" {
				all = append(all, key+"="+f[i])
			}
		}
		names = nil
	}
	for line := range strings.Lines(string(testenv.Must(os.ReadFile("/proc/self/net/snmp6"))(t))) {
		if strings.HasPrefix(line, "Udp6OutDatagrams") || strings.HasPrefix(line, "Icmp6OutEchos") {
			all = append(all, strings.Join(strings.Fields(line), "="))
		}
	}
	return strings.Join(all, " ")
}

// A sniffer looks at all frames of a stack.
type sniffer struct {
	f    *os.File
	done chan struct{}

	mu        sync.Mutex // guards the fields below
	encrypted int        // packets to the endpoint
	others    []string
}

func newSniffer(t *testing.T, st *vdestack.Stack, endpoint netip.AddrPort) *sniffer {
	t.Helper()
	proto := int(binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}))
	s := &sniffer{f: testenv.Socket(t, st, unix.AF_PACKET, unix.SOCK_DGRAM, proto), done: make(chan struct{})}
	// The kernel has its own to say about neighbours and groups.
	housekeeping := func(p []byte) bool {
		if len(p) > 48 && p[0]>>4 == 6 {
			return p[6] == 0 || p[6] == 58 && p[40] >= 130 && p[40] <= 143
		}
		return len(p) > 9 && p[0]>>4 == 4 && p[9] == 2 || len(p) > 3 && p[0] == 0 && p[1] == 1 && p[2] == 8 // IGMP, ARP
	}
	go func() {
		defer close(s.done)
		buf := make([]byte, 1<<16)
		for {
			n, err := s.f.Read(buf)
			if err != nil {
				return
			}
			p := buf[:n]
			s.mu.Lock()
			switch {
			case isEncrypted(p, endpoint):
				s.encrypted++
			case !housekeeping(p):
				s.others = append(s.others, fmt.Sprintf("%x", p[:min(n, 64)]))
			}
			s.mu.Unlock()
		}
	}()
	return s
}

// isEncrypted reports whether an IPv4 packet is one of WireGuard to an endpoint.
func isEncrypted(p []byte, endpoint netip.AddrPort) bool {
	return len(p) > 32 && p[0] == 0x45 && p[9] == 17 && netip.AddrFrom4([4]byte(p[16:20])) == endpoint.Addr() &&
		binary.BigEndian.Uint16(p[22:]) == endpoint.Port() &&
		p[28] >= device.MessageInitiationType && p[28] <= device.MessageTransportType && !bytes.Contains(p, []byte(secretWord))
}

// TestCanary has a program that wants to be on the network in a stack whose tunnel does not
// work. Nothing leaves but what WireGuard sends to the peer, neither on the network with the
// encrypted socket nor on the host, both of which have what the program looks for.
func TestCanary(t *testing.T) {
	near := newStack(t, vdestack.Interface{
		VNL: "mem://" + t.Name(), Addrs: testenv.Prefixes("192.0.2.2/24", "fd19::2/64"), Gateways: testenv.Addrs("192.0.2.1", "fd19::1"),
	})
	// What is there does not answer.
	far := newStack(t, vdestack.Interface{VNL: "mem://" + t.Name(), Addrs: testenv.Prefixes("192.0.2.1/24")})
	testenv.ListenPacket(t, far, "udp", "192.0.2.1:51820")
	testenv.ListenPacket(t, far, "udp", "192.0.2.1:9")
	for _, st := range []interface {
		Listen(network, address string) (net.Listener, error)
	}{near, hostNetwork{}} {
		ln := testenv.Listen(t, st, "tcp", ":5005")
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				t.Errorf("a canary on %v was reached by %v", ln.Addr(), c.RemoteAddr())
				c.Close()
			}
		}()
	}
	endpoint := netip.MustParseAddrPort("192.0.2.1:51820")
	sniff := newSniffer(t, near, endpoint)
	host := hostSent(t)
	tun := testenv.Opened(Open(t.Context(), Config{
		PrivateKey: NewKey(), Addrs: testenv.Prefixes("10.0.0.2/24", "fd00::2/64"), Underlay: near,
		DNS:   vdestack.DNS{Servers: []netip.AddrPort{netip.MustParseAddrPort("203.0.113.1:53")}},
		Peers: []Peer{{PublicKey: NewKey().Public(), AllowedIPs: testenv.Prefixes("0.0.0.0/0", "::/0"), Endpoint: endpoint.String()}},
	}))(t)
	st := tun.Stack()
	check := func(when string) {
		t.Helper()
		cmd := st.Command(testenv.Context(t), "/proc/self/exe")
		cmd.Env = append(os.Environ(), testenv.ProgramVariable+"=scraper", "GORACE=atexit_sleep_ms=0")
		cmd.Names = true
		var out []byte
		var wg sync.WaitGroup
		wg.Go(func() { out, _ = cmd.CombinedOutput() })
		if reached := scrape(st.DialContext, st.LookupHost); len(reached) > 0 {
			t.Errorf("%s the program reached %v", when, reached)
		}
		if wg.Wait(); len(out) > 0 {
			t.Errorf("%s the command reached %s", when, out)
		}
	}
	check("without a peer")
	// The program's time is so short that it may not have sent anything.
	testenv.Must(testenv.Dial(t, st, "udp", targets[0]).Write([]byte(secretWord)))(t)
	testenv.Eventually(t, "WireGuard to look for its peer", func() bool {
		sniff.mu.Lock()
		defer sniff.mu.Unlock()
		return sniff.encrypted > 0
	})
	nl := testenv.Opened(st.RTNL())(t)
	testenv.Check(t, nl.LinkSetDown(tun.index))
	check("with the interface down")
	testenv.Check(t, nl.LinkDel(tun.index))
	check("without the interface")
	testenv.Check(t, tun.Close())
	if _, err := st.Dial("udp", targets[0]); err == nil {
		t.Error("a closed stack sends")
	}

	marker := testenv.Dial(t, near, "udp", "192.0.2.1:9")
	testenv.Must(marker.Write([]byte("the end")))(t)
	testenv.Eventually(t, "the sniffer to see the marker", func() bool {
		sniff.mu.Lock()
		defer sniff.mu.Unlock()
		return len(sniff.others) == 1 && strings.Contains(sniff.others[0], fmt.Sprintf("%x", "the end"))
	}, func() string {
		sniff.mu.Lock()
		defer sniff.mu.Unlock()
		return fmt.Sprintf("%d encrypted, others %q", sniff.encrypted, sniff.others)
	})
	sniff.f.Close()
	<-sniff.done
	if now := hostSent(t); now != host {
		t.Errorf("the host has sent something: %s, before %s", now, host)
	}
}

// hostNetwork is the network of the tests themselves.
type hostNetwork struct{}

func (hostNetwork) Listen(network, address string) (net.Listener, error) {
	return net.Listen(network, address)
}
