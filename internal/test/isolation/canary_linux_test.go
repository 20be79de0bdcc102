//go:build amd64 || arm64

package isolation

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vdestack/vdestack/internal/dns/dnstest"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// A canary listens on everything of the host that could be confused with a stack's, and
// records what arrives.
type canary struct {
	mu   sync.Mutex // guards seen
	seen []string

	closers []io.Closer
	wg      sync.WaitGroup
}

// ports are the ports of the stacks' servers.
var ports = []int{7, 53, 80, 81, 3128, 5000}

func newCanary(t *testing.T) *canary {
	t.Helper()
	c := &canary{}
	t.Cleanup(func() {
		for _, x := range c.closers {
			x.Close()
		}
		c.wg.Wait()
	})
	must := func(x io.Closer, err error) {
		t.Helper()
		testenv.Check(t, err)
		c.closers = append(c.closers, x)
	}
	for _, port := range ports {
		ln, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		must(ln, err)
		c.listen(ln, "TCP")
		p, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		must(p, err)
		c.receive(p, fmt.Sprintf("UDP on port %d", port), port == 53)
	}
	ln, err := net.Listen("unix", "@isolation")
	must(ln, err)
	c.listen(ln, "unix")
	ifi := testenv.Must(net.InterfaceByName("vde0"))(t)
	for _, group := range []string{"239.1.2.3:5001", "[ff05::1234]:5001"} {
		p, err := net.ListenMulticastUDP("udp", ifi, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(group)))
		must(p, err)
		c.receive(p, "multicast", false)
	}
	for network, address := range map[string]string{"ip4:icmp": "0.0.0.0", "ip6:ipv6-icmp": "::"} {
		p, err := net.ListenPacket(network, address)
		must(p, err)
		c.receive(p, network, false)
	}
	return c
}

func (c *canary) note(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = append(c.seen, fmt.Sprintf(format, args...))
}

// take returns what was recorded since the last call.
func (c *canary) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := c.seen
	c.seen = nil
	return seen
}

// listen records connections, and greets them as the host.
func (c *canary) listen(ln net.Listener, what string) {
	c.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			c.note("%s connection to %v", what, ln.Addr())
			io.WriteString(conn, "host\n")
			conn.Close()
		}
	})
}

// receive records packets, and answers DNS questions with an address of the host.
func (c *canary) receive(p net.PacketConn, what string, dns bool) {
	c.wg.Go(func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			// The kernel talks to itself about its groups and neighbours.
			if what == "ip6:ipv6-icmp" && n > 0 && isHousekeeping(buf[0]) {
				continue
			}
			c.note("%s: %d bytes from %v", what, n, from)
			if dns {
				if msg := dnstest.Answer(buf[:n], func(string) []string { return []string{"10.66.66.66"} }); msg != nil {
					p.WriteTo(msg, from)
				}
			}
		}
	})
}

// isHousekeeping reports whether the kernel itself sends this type of ICMPv6: reports of
// multicast groups, and messages that find routers and neighbours.
func isHousekeeping(typ byte) bool { return typ >= 130 && typ <= 137 || typ == 143 }

// allPackets is the protocol of packet sockets for all packets, in network byte order.
var allPackets = int(binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}))

// sniff counts the packets of all interfaces of the host.
func (c *canary) sniff(t *testing.T) {
	t.Helper()
	fd := testenv.Must(unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, allPackets))(t)
	f := os.NewFile(uintptr(fd), "sniffer")
	c.closers = append(c.closers, f)
	c.wg.Go(func() {
		buf := make([]byte, 1<<16)
		for {
			n, err := f.Read(buf)
			if err != nil {
				return
			}
			b := buf[:n]
			if n > 40 && b[0]>>4 == 6 {
				next := b[40:]
				if b[6] == 0 && len(next) > 8 { // hop-by-hop options, as reports have
					next = next[8:]
				}
				if (b[6] == 58 || b[6] == 0) && isHousekeeping(next[0]) {
					continue
				}
			}
			if n > 20 && b[0]>>4 == 4 && b[9] == 2 { // IGMP
				continue
			}
			c.note("packet of %d bytes: %x", n, b[:min(n, 48)])
		}
	})
}

// state is what a stack could change of the host: addresses, routes, groups, abstract
// sockets and settings.
func state(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, name := range []string{"route", "ipv6_route", "if_inet6", "igmp", "igmp6", "unix"} {
		text := testenv.Must(os.ReadFile("/proc/thread-self/net/" + name))(t)
		lines := strings.Split(string(text), "\n")
		switch name {
		case "unix": // the abstract ones; others do not belong to a network namespace
			lines = slices.DeleteFunc(lines, func(l string) bool { return !strings.Contains(l, "@") })
			for i, l := range lines {
				_, lines[i], _ = strings.Cut(l, "@")
			}
		case "igmp", "igmp6", "ipv6_route": // have timers and use counts
			for i, l := range lines {
				f := strings.Fields(l)
				lines[i] = strings.Join(f[:min(len(f), 4)], " ")
			}
		}
		fmt.Fprintf(&b, "%s:\n%s\n", name, strings.Join(lines, "\n"))
	}
	for _, name := range []string{"ipv4/ip_forward", "ipv4/conf/vde0/forwarding", "ipv6/conf/vde0/accept_ra"} {
		text, err := os.ReadFile("/proc/sys/net/" + name)
		fmt.Fprintf(&b, "%s=%s%v\n", name, text, err)
	}
	return b.String()
}
