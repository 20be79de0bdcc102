//go:build amd64 || arm64

package isolation

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// A canary sits on everything of the host that a stack could be mistaken for,
// and notes what comes.
type canary struct {
	mu    sync.Mutex // guards noted
	noted []string

	closers []io.Closer
	wg      sync.WaitGroup
}

// ports are those that the stacks use.
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
		if err != nil {
			t.Fatal(err)
		}
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
	ifi, err := net.InterfaceByName("vde0")
	if err != nil {
		t.Fatal(err)
	}
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
	c.noted = append(c.noted, fmt.Sprintf(format, args...))
}

// sings returns what was noted since the last time.
func (c *canary) sings() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	noted := c.noted
	c.noted = nil
	return noted
}

// listen tells who connects that this is the host.
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

// receive notes packets, and answers questions for names: all are the host's.
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
				if msg := answer(buf[:n], func(string, dnsmessage.Type) []string { return []string{"10.66.66.66"} }); msg != nil {
					p.WriteTo(msg, from)
				}
			}
		}
	})
}

// isHousekeeping reports types of ICMPv6 that come from the kernel: reports of
// multicast groups, and what finds routers and neighbours.
func isHousekeeping(typ byte) bool { return typ >= 130 && typ <= 137 || typ == 143 }

// allPackets is the protocol of packet sockets that get all, in the byte order of
// the network.
var allPackets = int(binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}))

// sniff counts the packets of all interfaces of the host.
func (c *canary) sniff(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, allPackets)
	if err != nil {
		t.Fatal(err)
	}
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

// answer makes the answer to a question; nil records mean that there is no such
// name. A record that is no address is a text.
func answer(query []byte, records func(name string, typ dnsmessage.Type) []string) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	list := records(q.Name.String(), q.Type)
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: h.ID, Response: true, RecursionDesired: true, RecursionAvailable: true},
		Questions: []dnsmessage.Question{q},
	}
	if list == nil {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, r := range list {
		ip, err := netip.ParseAddr(r)
		var body dnsmessage.ResourceBody
		switch {
		case q.Type == dnsmessage.TypeA && ip.Is4():
			body = &dnsmessage.AResource{A: ip.As4()}
		case q.Type == dnsmessage.TypeAAAA && ip.Is6():
			body = &dnsmessage.AAAAResource{AAAA: ip.As16()}
		case q.Type == dnsmessage.TypeTXT && err != nil:
			body = &dnsmessage.TXTResource{TXT: []string{r}}
		default:
			continue
		}
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 60}, Body: body,
		})
	}
	msg, err := m.Pack()
	if err != nil {
		return nil
	}
	return msg
}

// state is what an escape could change of the host: addresses, routes, groups,
// abstract sockets and settings.
func state(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, name := range []string{"route", "ipv6_route", "if_inet6", "igmp", "igmp6", "unix"} {
		text, err := os.ReadFile("/proc/thread-self/net/" + name)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(text), "\n")
		switch name {
		case "unix": // the abstract ones; the others are not of the network
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

// namespaces returns the set of the namespaces of all threads, of every kind.
func namespaces(t *testing.T) string {
	t.Helper()
	links, err := filepath.Glob("/proc/self/task/*/ns/*")
	if err != nil {
		t.Fatal(err)
	}
	var set []string
	for _, l := range links {
		if ns, err := os.Readlink(l); err == nil { // else the thread has ended
			set = append(set, ns)
		}
	}
	slices.Sort(set)
	return strings.Join(slices.Compact(set), " ")
}

// watch compares the set of namespaces with what it was, again and again until
// the returned function is called, which reports how often it did.
func watch(t *testing.T) (stop func() int) {
	t.Helper()
	want := namespaces(t)
	ctx, cancel := context.WithCancel(context.Background())
	rounds := make(chan int)
	go func() {
		n := 0
		for tick := time.NewTicker(2 * time.Millisecond); ; n++ {
			if got := namespaces(t); got != want {
				t.Errorf("the threads are in %s, they were in %s", got, want)
				cancel()
			}
			select {
			case <-ctx.Done():
				tick.Stop()
				rounds <- n + 1
				return
			case <-tick.C:
			}
		}
	}()
	return func() int {
		cancel()
		return <-rounds
	}
}
