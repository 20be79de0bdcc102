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

// silentServer is a name server that never answers, over UDP and TCP. asked gets the
// network of each question.
func silentServer(t *testing.T) (_ netip.AddrPort, asked chan string) {
	t.Helper()
	pc, ln := listenNames(t, "127.0.0.1")
	asked = make(chan string, 1000)
	go servePackets(pc, func([]byte, net.Addr) []byte {
		asked <- "udp"
		return nil
	})
	go serve(ln, func(c net.Conn) {
		if n, err := c.Read(make([]byte, 512)); err == nil && n > 0 {
			asked <- "tcp"
		}
		io.Copy(io.Discard, c)
	})
	return pc.LocalAddr().(*net.UDPAddr).AddrPort(), asked
}

// fullServer is a name server whose queue is full: its port neither takes nor refuses
// connections.
func fullServer(t *testing.T) netip.AddrPort {
	t.Helper()
	fd := testenv.Must(syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0))(t)
	t.Cleanup(func() { syscall.Close(fd) })
	testenv.Check(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	testenv.Check(t, syscall.Listen(fd, 0))
	sa := testenv.Must(syscall.Getsockname(fd))(t)
	addr := netip.AddrPortFrom(loopback4, uint16(sa.(*syscall.SockaddrInet4).Port))
	c := testenv.Must(net.Dial("tcp", addr.String()))(t) // takes the one place
	t.Cleanup(func() { c.Close() })
	return addr
}

// TestSilentName has a first name server that is silent, and clients that repeat a
// question from another port, with another identifier, or ask two at once.
func TestSilentName(t *testing.T) {
	testenv.Long(t)
	const name, want = "host.example", "192.0.2.7"
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	testenv.Check(t, os.WriteFile(resolv, []byte("nameserver 10.0.2.3\noptions timeout:1 attempts:5\n"), 0o644))
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
				if addr, err = ask(st, ctx, "tcp", nameServer, 2*time.Second); err == nil {
					return addr, nil
				}
			}
			return "", err
		}},
	} {
		t.Run(client.name, func(t *testing.T) {
			t.Parallel()
			n, st := natGuest(t)
			testenv.Check(t, st.SetDNS(vdestack.DNS{Servers: []netip.AddrPort{nameServer}}))
			silent, asked := silentServer(t)
			fakeNames(t, n, silent, dnsServer(t, "127.0.0.1"))
			got, err := client.ask(t, st, testenv.Context(t))
			if err != nil || !strings.Contains(got, want) {
				t.Errorf("got %q, %v, want %s", got, err, want)
			}
			questions := 1
			if client.probe {
				questions++
			}
			for range questions {
				waitAsked(t, asked)
			}
			// The next question does not wait: the first server is passed over.
			n.names.mu.Lock()
			for key, w := range n.names.waits {
				w.last = w.last.Add(time.Hour) // no probe yet
				n.names.waits[key] = w
			}
			before := maps.Clone(n.names.waits)
			n.names.mu.Unlock()
			got, err = client.ask(t, st, testenv.Context(t))
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

// waitAsked waits for a question to a silent server.
func waitAsked(t *testing.T, asked chan string) {
	t.Helper()
	select {
	case <-asked:
	case <-testenv.Context(t).Done():
		t.Fatal("the silent server was not asked")
	}
}

// wantAnswer asks a question from a port of its own.
func wantAnswer(t *testing.T, st *vdestack.Stack, network string) {
	t.Helper()
	if got, err := ask(st, testenv.Context(t), network, nameServer, testenv.Timeout); err != nil || got != "192.0.2.7" {
		t.Errorf("%s: got %q, %v", network, got, err)
	}
}

// silentSince makes a server one that has been silent for d.
func silentSince(n *nat, network string, server netip.AddrPort, d time.Duration) {
	n.names.mu.Lock()
	defer n.names.mu.Unlock()
	then := time.Now().Add(-d)
	n.names.waits = map[transport]wait{transportOf(network, server): {since: then, last: then}}
}

// wantFirst checks which name server is asked first.
func wantFirst(t *testing.T, n *nat, network string, want netip.AddrPort) {
	t.Helper()
	if order, _ := n.names.order(network, netip.AddrPort{}); order[0] != want {
		t.Errorf("%s: %v is asked first, want %v", network, order[0], want)
	}
}

// TestSilentNameReturns has name servers that answer again. A question after a while
// finds that out, without waiting for it.
func TestSilentNameReturns(t *testing.T) {
	testenv.Long(t)
	t.Run("udp", func(t *testing.T) {
		n, st := natGuest(t)
		first := dnsServer(t, "127.0.0.1")
		second, asked := silentServer(t)
		fakeNames(t, n, first, second)
		silentSince(n, "udp", first, probeInterval)
		wantAnswer(t, st, "udp")
		wantFirst(t, n, "udp", first)
		waitAsked(t, asked)
	})
	t.Run("tcp", func(t *testing.T) {
		n, st := natGuest(t)
		first, asked := silentServer(t)
		second := dnsServer(t, "127.0.0.1")
		fakeNames(t, n, first, second)
		silentSince(n, "tcp", first, probeInterval)
		wantAnswer(t, st, "tcp")
		waitAsked(t, asked)
		wantFirst(t, n, "tcp", second) // it takes connections, and does not answer

		fakeNames(t, n, second, first)
		silentSince(n, "tcp", second, probeInterval)
		wantFirst(t, n, "tcp", first)
		n.probe(second)
		wantFirst(t, n, "tcp", second)
	})
}

// TestNameUnreachable has a first name server without a route, as IPv6 on a host without
// it: the next one is asked at once.
func TestNameUnreachable(t *testing.T) {
	n, st := natGuest(t)
	fakeNames(t, n, netip.MustParseAddrPort("[2001:db8::1]:53"), dnsServer(t, "127.0.0.1"))
	for _, network := range []string{"udp", "tcp"} {
		wantAnswer(t, st, network)
	}
}

// TestNameConnection has a first name server that takes no connection: only the first
// question waits for it.
func TestNameConnection(t *testing.T) {
	testenv.Long(t)
	n, st := natGuest(t)
	full, good := fullServer(t), dnsServer(t, "127.0.0.1")
	fakeNames(t, n, full, good)
	wantAnswer(t, st, "tcp")
	wantFirst(t, n, "tcp", good)
	wantAnswer(t, st, "tcp")
}

// TestProbeQuestion checks the question with another library.
func TestProbeQuestion(t *testing.T) {
	server := dnsServer(t, "127.0.0.1")
	c := dial(t, &net.Dialer{}, "tcp", server.String())
	if _, err := io.WriteString(c, probeQuestion); err != nil {
		t.Fatal(err)
	}
	if n, err := io.ReadFull(c, make([]byte, len(probeQuestion))); err != nil {
		t.Errorf("%d bytes, %v, want an answer", n, err)
	}
}
