//go:build amd64 || arm64

package isolation

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/dns/dnstest"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

func newStack(t *testing.T, dns vdestack.DNS, list ...string) *vdestack.Stack {
	t.Helper()
	s, err := vdestack.New(t.Context(), vdestack.Config{
		Interfaces: []vdestack.Interface{{VNL: "mem://" + t.Name(), Addrs: testenv.Prefixes(list...)}}, DNS: dns,
	})
	testenv.Check(t, err)
	t.Cleanup(func() {
		testenv.Check(t, s.Close())
	})
	return s
}

// names are what the DNS server of the stacks knows.
var names = map[string][]string{
	"www.stack.example.":   {"10.0.0.1", "fc00::1:1", "a text"},
	"both.stack.example.":  {"10.0.0.1", "fc00::1:1"},
	"other.host.example.":  {"10.0.0.9"},
	"server.host.example.": {"10.0.0.9"},
}

// serve has a stack serve names, and what the host also serves.
func serve(t *testing.T, s *vdestack.Stack) {
	t.Helper()
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "stack\n") })}
	t.Cleanup(func() { srv.Close() })
	web := testenv.Listen(t, s, "tcp", ":80")
	wg.Go(func() { srv.Serve(web) })
	for _, address := range []string{"localhost:81", "[::]:5000"} {
		ln := testenv.Listen(t, s, "tcp", address)
		wg.Go(func() { greet(ln) })
	}
	for _, port := range []string{"7", "53"} {
		p := testenv.ListenPacket(t, s, "udp", ":"+port)
		wg.Go(func() { answer(p, port == "53") })
	}
}

// answer answers packets as the stack; with dns, questions for names.
func answer(p net.PacketConn, dns bool) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := p.ReadFrom(buf)
		if err != nil {
			return
		}
		reply := []byte("stack\n")
		if dns {
			reply = dnstest.Answer(buf[:n], func(name string) []string { return names[name] })
		}
		p.WriteTo(reply, from)
	}
}

// greet greets connections as the stack.
func greet(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		io.WriteString(c, "stack\n")
		c.Close()
	}
}

// hello returns an error unless the stack was reached.
func hello(c net.Conn, err error) error {
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(testenv.Timeout))
	if strings.HasPrefix(c.LocalAddr().Network(), "udp") {
		if _, err := c.Write([]byte("who?")); err != nil {
			return err
		}
	}
	got, err := bufio.NewReader(c).ReadString('\n')
	if got != "stack\n" {
		return fmt.Errorf("reached %q at %v, %v", got, c.RemoteAddr(), err)
	}
	return nil
}

// TestCanary uses stacks in every way on a host that has the same addresses, ports, names
// and interfaces. The host sees no packet, influences nothing and does not change, and no
// thread is ever in another namespace.
func TestCanary(t *testing.T) {
	testenv.Long(t)
	c := newCanary(t)
	testenv.Check(t, testenv.Closing(vdestack.Open(""))) // which makes the helper task
	before := state(t)
	c.take()
	c.sniff(t)
	testenv.WatchNamespaces(t)

	a := newStack(t, vdestack.DNS{}, "10.0.0.1/24", "fc00::1:1/64", "fe80::a/64")
	dns := vdestack.DNS{
		Servers: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:53")},
		Search:  []string{"stack.example"},
		Hosts:   map[string][]netip.Addr{"server": testenv.Addrs("10.0.0.1", "fc00::1:1"), "here": testenv.Addrs("10.0.0.2")},
	}
	b := newStack(t, dns, "10.0.0.2/24", "fc00::1:2/64", "fe80::b/64")
	serve(t, a)
	ctx, cancel := context.WithTimeout(t.Context(), 2*testenv.Timeout)
	defer cancel()

	for _, address := range []string{"10.0.0.1:5000", "[fc00::1:1]:5000", "[fe80::a%vde0]:5000", "server:5000", "www:5000", "www.stack.example:5000", "www.stack.example.:5000"} {
		t.Run("dial "+address, func(t *testing.T) {
			testenv.Check(t, hello(b.DialContext(ctx, "tcp", address)))
			testenv.Check(t, hello(b.DialContext(ctx, "udp", strings.Replace(address, ":5000", ":7", 1))))
		})
	}
	t.Run("localhost", func(t *testing.T) {
		testenv.Check(t, hello(a.DialContext(ctx, "tcp", "localhost:81")))
		if err := hello(b.DialContext(ctx, "tcp", "localhost:81")); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the other stack's: %v", err)
		}
	})
	t.Run("names of the host", func(t *testing.T) {
		for _, name := range []string{"hostonly", "hostonly.stack.example", "other", "nosuch.example"} {
			_, err := b.DialContext(ctx, "tcp", name+":80")
			if dnsErr, ok := errors.AsType[*net.DNSError](err); !ok || !dnsErr.IsNotFound {
				t.Errorf("%s: %v, want that there is no such host", name, err)
			}
			if _, err := b.Listen("tcp", name+":0"); err == nil {
				t.Errorf("%s: listens", name)
			}
		}
		if ln := testenv.Listen(t, b, "tcp", "here:80"); ln.Addr().String() != "10.0.0.2:80" {
			t.Errorf("listens on %v", ln.Addr())
		}
	})
	t.Run("look up", func(t *testing.T) {
		// Each stack has one family only; the host has both.
		four := newStack(t, dns, "10.0.0.3/24")
		six := newStack(t, vdestack.DNS{Servers: []netip.AddrPort{netip.MustParseAddrPort("[fc00::1:1]:53")}, Hosts: dns.Hosts}, "fc00::1:4/64")
		for _, tt := range []struct {
			s    *vdestack.Stack
			name string
			want []netip.Addr
		}{
			{b, "both", testenv.Addrs("10.0.0.1", "fc00::1:1")}, // RFC 6724 on unique local addresses
			{four, "server", testenv.Addrs("10.0.0.1", "fc00::1:1")},
			{six, "server", testenv.Addrs("fc00::1:1", "10.0.0.1")},
		} {
			got, err := tt.s.LookupNetIP(ctx, "ip", tt.name)
			if !slices.Equal(got, tt.want) {
				t.Errorf("%s: got %v, %v, want %v", tt.name, got, err, tt.want)
			}
		}
		txt, err := b.Resolver().LookupTXT(ctx, "www.stack.example.")
		if !slices.Equal(txt, []string{"a text"}) {
			t.Errorf("TXT: got %q, %v", txt, err)
		}
	})
	t.Run("HTTP", func(t *testing.T) {
		client := b.HTTPClient()
		defer client.CloseIdleConnections()
		for _, host := range []string{"10.0.0.1", "[fc00::1:1]", "[fe80::a%25vde0]", "server", "www"} {
			resp, err := client.Get("http://" + host + "/")
			if err != nil {
				t.Error(err)
				continue
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if string(body) != "stack\n" {
				t.Errorf("%s: got %q, %v", host, body, err)
			}
		}
	})
	t.Run("hooks", func(t *testing.T) {
		d := net.Dialer{ControlContext: b.ControlContext}
		d.SetMultipathTCP(true)
		testenv.Check(t, hello(d.DialContext(ctx, "tcp", "10.0.0.1:5000")))
		lc := net.ListenConfig{Control: b.Control}
		ln := testenv.Opened(lc.Listen(ctx, "tcp", "10.0.0.2:80"))(t)
		go greet(ln)
		testenv.Check(t, hello(a.DialContext(ctx, "tcp", "10.0.0.2:80")))
	})
	t.Run("default", func(t *testing.T) {
		vdestack.SetDefault(b)
		defer vdestack.SetDefault(nil)
		testenv.Check(t, hello(vdestack.DialContext(ctx, "tcp", "server:5000")))
	})
	t.Run("abstract unix socket", func(t *testing.T) {
		if err := hello(b.Dial("unix", "@isolation")); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the host's: %v", err)
		}
		go greet(testenv.Listen(t, b, "unix", "@isolation"))
		testenv.Check(t, hello(b.Dial("unix", "@isolation")))
	})
	t.Run("multicast", func(t *testing.T) {
		for group, network := range map[string]string{"239.1.2.3:5001": "udp4", "[ff05::1234]:5001": "udp6"} {
			in := testenv.Opened(a.ListenMulticastUDP(network, "vde0", netip.MustParseAddrPort(group)))(t)
			all := testenv.Opened(a.ListenMulticastUDP("udp", "", netip.MustParseAddrPort(group)))(t)
			testenv.Check(t, b.Run(ctx, "ip route replace 239.0.0.0/8 dev vde0"))
			out := testenv.Dial(t, b, "udp", group)
			testenv.Must(out.Write([]byte("stack\n")))(t)
			for _, c := range []*net.UDPConn{in, all} {
				c.SetDeadline(time.Now().Add(testenv.Timeout))
				buf := make([]byte, 100)
				if n, _, err := c.ReadFrom(buf); string(buf[:n]) != "stack\n" {
					t.Errorf("%s: got %q, %v", group, buf[:n], err)
				}
			}
		}
	})
	t.Run("raw", func(t *testing.T) {
		for _, tt := range []struct {
			network, address string
			echo, reply      byte
		}{{"ip4:icmp", "10.0.0.1", 8, 0}, {"ip6:ipv6-icmp", "fc00::1:1", 128, 129}, {"ip6:58", "server", 128, 129}, {"ip:1", "www", 8, 0}} {
			c, err := b.DialContext(ctx, tt.network, tt.address)
			if err != nil {
				t.Error(err)
				continue
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(testenv.Timeout))
			testenv.Must(c.Write([]byte{tt.echo, 0, ^tt.echo, ^byte(2), 0, 1, 0, 1}))(t)
			for buf := make([]byte, 200); ; {
				n, _, err := c.(*net.IPConn).ReadFrom(buf)
				if err != nil {
					t.Error(err)
				}
				if err != nil || n >= 8 && buf[0] == tt.reply {
					break
				}
			}
		}
	})
	t.Run("packets", func(t *testing.T) {
		f := testenv.Opened(b.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, allPackets))(t)
		f.SetDeadline(time.Now().Add(testenv.Timeout))
		testenv.Check(t, hello(b.DialContext(ctx, "tcp", "10.0.0.1:5000")))
		if n, err := f.Read(make([]byte, 2000)); err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
	t.Run("commands", func(t *testing.T) {
		for _, line := range []string{"ping -c 1 -W 30 10.0.0.1", "ping -c 1 -W 30 fc00::1:1", "ip route replace default via 10.0.0.1", "ip addr add 10.5.0.1/24 dev vde0"} {
			args := strings.Fields(line)
			if out, err := b.Command(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", line, err, out)
			}
		}
	})
	t.Run("settings", func(t *testing.T) {
		for name, value := range map[string]string{"net.ipv4.ip_forward": "1", "net.ipv4.conf.vde0.forwarding": "1", "net.ipv6.conf.vde0.accept_ra": "0"} {
			testenv.Check(t, b.Sysctl(name, value))
		}
		nl := testenv.Opened(b.RTNL())(t)
		index, err := nl.IfNameToIndex("vde0")
		if err != nil || index != b.Stats().Interfaces[0].Index {
			t.Errorf("vde0 is interface %d, %v", index, err)
		}
		testenv.Check(t, nl.RouteAdd(netip.MustParsePrefix("10.9.0.0/16"), netip.MustParseAddr("10.0.0.1"), index))
	})
	t.Run("joined", func(t *testing.T) {
		f := testenv.Opened(b.NetNS())(t)
		s := testenv.Opened(vdestack.New(ctx, vdestack.Config{NetNS: fmt.Sprintf("/proc/self/fd/%d", f.Fd()), DNS: dns}))(t)
		testenv.Check(t, hello(s.DialContext(ctx, "tcp", "www:5000")))
	})

	if seen := c.take(); len(seen) > 0 {
		t.Errorf("the host has noticed:\n%s", strings.Join(seen, "\n"))
	}
	if after := state(t); after != before {
		t.Errorf("the host has changed:\n%s\nbefore:\n%s", after, before)
	}
	if t.Failed() {
		return
	}

	// The canary does notice what reaches the host.
	for _, f := range []func() error{
		func() error { return hello(net.Dial("tcp", "10.0.0.1:5000")) },
		func() error { return hello(net.Dial("tcp", "server.:5000")) },
		func() error { return hello(net.Dial("unix", "@isolation")) },
	} {
		if err := f(); err == nil {
			t.Error("the host reaches the stack")
		}
	}
	if got, err := net.LookupHost("elsewhere"); err != nil || !slices.Equal(got, []string{"10.66.66.66"}) {
		t.Errorf("the host finds %v, %v", got, err)
	}
	seen := strings.Join(c.take(), "\n")
	for _, want := range []string{"TCP connection", "unix connection", "UDP on port 53", "packet of"} {
		if !strings.Contains(seen, want) {
			t.Errorf("the host has not noticed a %s:\n%s", want, seen)
		}
	}
}

// TestWithoutIPv6 runs onlyIPv4 on a host where IPv6 is switched off.
func TestWithoutIPv6(t *testing.T) {
	if os.Getenv(stage) == "no IPv6" {
		onlyIPv4(t)
		return
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestWithoutIPv6$", "-test.v")
	if onHost(cmd, "no IPv6") != 0 {
		t.Error("it failed there")
	}
}

func onlyIPv4(t *testing.T) {
	if ln, err := net.Listen("tcp6", "[::1]:0"); err == nil {
		t.Fatalf("the host listens on %v", ln.Addr())
	}
	testenv.Check(t, testenv.Closing(net.Listen("tcp", ":0")))
	dns := vdestack.DNS{Hosts: map[string][]netip.Addr{"six": testenv.Addrs("2001:db8::1"), "both": testenv.Addrs("2001:db8::1", "10.0.0.1")}}
	a := newStack(t, dns, "10.0.0.1/24", "2001:db8::1/64")
	b := newStack(t, dns, "10.0.0.2/24", "2001:db8::2/64")
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	for _, listen := range []string{":80", "[::]:81", "six:82"} {
		ln := testenv.Listen(t, a, "tcp", listen)
		wg.Go(func() { greet(ln) })
		p := testenv.ListenPacket(t, a, "udp", listen)
		wg.Go(func() { answer(p, false) })
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		for _, host := range []string{"2001:db8::1", "six", "both", "10.0.0.1"} {
			if listen == "six:82" && host == "10.0.0.1" {
				continue
			}
			for _, network := range []string{"tcp", "udp"} {
				if err := hello(b.Dial(network, net.JoinHostPort(host, port))); err != nil {
					t.Errorf("%s to %s: %v", network, host, err)
				}
			}
		}
	}
	if got, err := b.LookupNetIP(t.Context(), "ip", "both"); err != nil || !got[0].Is6() {
		t.Errorf("the order is %v, %v", got, err)
	}
}
