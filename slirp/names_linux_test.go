package slirp

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
)

var nameServer = netip.MustParseAddrPort("10.0.2.3:53")

// silentServer is a name server that takes questions over UDP and TCP and answers
// none. asked tells the network of each.
func silentServer(t *testing.T) (_ netip.AddrPort, asked chan string) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close(); ln.Close() })
	asked = make(chan string, 1000)
	go func() {
		for {
			if _, _, err := pc.ReadFrom(make([]byte, 512)); err != nil {
				return
			}
			asked <- "udp"
		}
	}()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if n, err := c.Read(make([]byte, 512)); err == nil && n > 0 {
					asked <- "tcp"
				}
				io.Copy(io.Discard, c)
			}()
		}
	}()
	return pc.LocalAddr().(*net.UDPAddr).AddrPort(), asked
}

// fullServer is a name server whose port takes no connection, and does not refuse
// one either: its queue is full.
func fullServer(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.AddrPortFrom(loopback4, uint16(sa.(*syscall.SockaddrInet4).Port))
	c, err := net.Dial("tcp", addr.String()) // takes the one place
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return addr
}

// TestSilentName has a first name server that is silent, and clients that ask again
// from another port, with another identifier, or two questions at once.
func TestSilentName(t *testing.T) {
	const name, want = "host.example", "192.0.2.7"
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver 10.0.2.3\noptions timeout:1 attempts:5\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	command := func(st *vdestack.Stack, ctx context.Context, argv ...string) (string, error) {
		cmd := st.Command(ctx, argv[0], argv[1:]...)
		cmd.Binds = []vdestack.Bind{{From: resolv, To: "/etc/resolv.conf"}}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, client := range []struct {
		name  string
		ask   func(t *testing.T, st *vdestack.Stack, ctx context.Context) (string, error)
		probe bool // the plug asks the silent server from a connection of its own
	}{
		{name: "stack", ask: func(t *testing.T, st *vdestack.Stack, ctx context.Context) (string, error) {
			addrs, err := st.LookupNetIP(ctx, "ip", name)
			return fmt.Sprint(addrs), err
		}},
		{name: "package net", ask: func(t *testing.T, st *vdestack.Stack, ctx context.Context) (string, error) {
			addrs, err := st.Resolver().LookupNetIP(ctx, "ip4", name+".")
			return fmt.Sprint(addrs), err
		}},
		{name: "glibc", ask: func(t *testing.T, st *vdestack.Stack, ctx context.Context) (string, error) {
			return command(st, ctx, testenv.Need(t, "getent", "libc-bin"), "ahosts", name)
		}},
		{name: "busybox", ask: func(t *testing.T, st *vdestack.Stack, ctx context.Context) (string, error) {
			return command(st, ctx, testenv.Need(t, "busybox", "busybox"), "nslookup", name)
		}},
		{name: "one connection each", probe: true, ask: func(t *testing.T, st *vdestack.Stack, ctx context.Context) (string, error) {
			var err error
			for range 2 {
				var addr string
				if addr, err = askOnce(st, ctx, "tcp", 2*time.Second); err == nil {
					return addr, nil
				}
			}
			return "", err
		}},
	} {
		t.Run(client.name, func(t *testing.T) {
			t.Parallel()
			n := openNAT(t, "slirp:///v4")
			p := fmt.Sprintf("%p", n)
			plugs.Store(p, n)
			st, err := vdestack.New(t.Context(), vdestack.Config{
				Interfaces: []vdestack.Interface{{VNL: "plug-of-test://" + p, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.2.15/24")}}},
				DNS:        vdestack.DNS{Servers: []netip.AddrPort{nameServer}},
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { st.Close() })
			silent, asked := silentServer(t)
			fakeNames(t, n, silent, dnsServer(t, "127.0.0.1"))
			got, err := client.ask(t, st, bounded(t))
			if err != nil || !strings.Contains(got, want) {
				t.Errorf("got %q, %v, want %s", got, err, want)
			}
			questions := 1
			if client.probe {
				questions++
			}
			for range questions {
				select {
				case <-asked:
				case <-bounded(t).Done():
					t.Fatalf("the silent server was not asked %d times", questions)
				}
			}
			// Who asks next does not wait: the first server is passed over.
			n.names.mu.Lock()
			for key, w := range n.names.waits {
				w.last = w.last.Add(time.Hour) // no probe yet
				n.names.waits[key] = w
			}
			before := maps.Clone(n.names.waits)
			n.names.mu.Unlock()
			got, err = client.ask(t, st, bounded(t))
			if err != nil || !strings.Contains(got, want) {
				t.Errorf("again: got %q, %v, want %s", got, err, want)
			}
			n.names.mu.Lock()
			defer n.names.mu.Unlock()
			for _, network := range []string{"udp", "tcp"} {
				if key := transportOf(network, silent); n.names.waits[key] != before[key] {
					t.Errorf("%s: the silent server was asked again", network)
				}
			}
		})
	}
}

// askOnce asks one question from a port of its own.
func askOnce(st *vdestack.Stack, ctx context.Context, network string, wait time.Duration) (string, error) {
	c, err := st.DialContext(ctx, network, nameServer.String())
	if err != nil {
		return "", err
	}
	defer c.Close()
	return exchange(c, network, wait)
}

// silentSince makes a server one that was silent for so long.
func silentSince(n *nat, network string, server netip.AddrPort, d time.Duration) {
	n.names.mu.Lock()
	defer n.names.mu.Unlock()
	then := time.Now().Add(-d)
	n.names.waits = map[transport]wait{transportOf(network, server): {since: then, last: then}}
}

// wantFirst looks which name server is asked first.
func wantFirst(t *testing.T, n *nat, network string, want netip.AddrPort) {
	t.Helper()
	if order, _ := n.names.order(network, netip.AddrPort{}); order[0] != want {
		t.Errorf("%s: %v is asked first, want %v", network, order[0], want)
	}
}

// TestSilentNameReturns has name servers that were silent, and are not any more. A
// question after a while finds out, and does not wait for it.
func TestSilentNameReturns(t *testing.T) {
	t.Run("udp", func(t *testing.T) {
		n := openNAT(t, "slirp:///v4")
		st := guestOn(t, n, "10.0.2.15/24")
		first := dnsServer(t, "127.0.0.1")
		second, asked := silentServer(t)
		fakeNames(t, n, first, second)
		silentSince(n, "udp", first, probeInterval)
		if got, err := askOnce(st, bounded(t), "udp", testenv.Timeout); err != nil || got != "192.0.2.7" {
			t.Errorf("got %q, %v", got, err)
		}
		wantFirst(t, n, "udp", first)
		select {
		case <-asked:
		case <-bounded(t).Done():
			t.Error("the second server was not asked")
		}
	})
	t.Run("tcp", func(t *testing.T) {
		n := openNAT(t, "slirp:///v4")
		st := guestOn(t, n, "10.0.2.15/24")
		first, asked := silentServer(t)
		second := dnsServer(t, "127.0.0.1")
		fakeNames(t, n, first, second)
		silentSince(n, "tcp", first, probeInterval)
		if got, err := askOnce(st, bounded(t), "tcp", testenv.Timeout); err != nil || got != "192.0.2.7" {
			t.Errorf("got %q, %v", got, err)
		}
		select {
		case <-asked:
		case <-bounded(t).Done():
			t.Error("the first server was not asked again")
		}
		wantFirst(t, n, "tcp", second) // it takes connections, and does not answer

		fakeNames(t, n, second, first)
		silentSince(n, "tcp", second, probeInterval)
		wantFirst(t, n, "tcp", first)
		n.probe(second)
		wantFirst(t, n, "tcp", second)
	})
}

// TestNameUnreachable has a first name server that cannot be sent to, as one over
// IPv6 on a host without it: the next one is asked at once.
func TestNameUnreachable(t *testing.T) {
	n := openNAT(t, "slirp:///v4")
	st := guestOn(t, n, "10.0.2.15/24")
	fakeNames(t, n, netip.MustParseAddrPort("[2001:db8::1]:53"), dnsServer(t, "127.0.0.1"))
	for _, network := range []string{"udp", "tcp"} {
		if got, err := askOnce(st, bounded(t), network, testenv.Timeout); err != nil || got != "192.0.2.7" {
			t.Errorf("%s: got %q, %v", network, got, err)
		}
	}
}

// TestNameConnection has a first name server that takes no connection: only the
// first who asks waits for it.
func TestNameConnection(t *testing.T) {
	testenv.Long(t)
	n := openNAT(t, "slirp:///v4")
	st := guestOn(t, n, "10.0.2.15/24")
	full, good := fullServer(t), dnsServer(t, "127.0.0.1")
	fakeNames(t, n, full, good)
	if got, err := askOnce(st, bounded(t), "tcp", testenv.Timeout); err != nil || got != "192.0.2.7" {
		t.Errorf("got %q, %v", got, err)
	}
	wantFirst(t, n, "tcp", good)
	if got, err := askOnce(st, bounded(t), "tcp", testenv.Timeout); err != nil || got != "192.0.2.7" {
		t.Errorf("again: got %q, %v", got, err)
	}
}

// TestProbeQuestion has it understood by another library.
func TestProbeQuestion(t *testing.T) {
	server := dnsServer(t, "127.0.0.1")
	c, err := net.Dial("tcp", server.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(testenv.Timeout))
	if _, err := io.WriteString(c, probeQuestion); err != nil {
		t.Fatal(err)
	}
	if n, err := io.ReadFull(c, make([]byte, len(probeQuestion))); err != nil {
		t.Errorf("%d bytes, %v, want an answer", n, err)
	}
}
