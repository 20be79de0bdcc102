package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
)

// TestTutorialLines goes through the tutorial of libvdestack: what each of its two
// servers has, and what is typed in the second terminal, line by line.
func TestTutorialLines(t *testing.T) {
	testenv.Long(t)
	const vnl = "vxvde://234.0.0.1"
	// $ vdens vxvde://234.0.0.1
	vdens := []string{
		"ip addr add 10.0.0.1/24 dev vde0",
		"ip addr add fc00::1:1/64 dev vde0",
		"ip link set vde0 up",
	}
	for _, tt := range []struct {
		config   string
		addrs    []string
		gateways []string
		pings    []string
		nc       []string
	}{
		{
			config: "commands", // vdestack6.c
			addrs:  []string{"10.0.0.50/24", "fc00::1:50/64"},
			pings:  []string{"ping 10.0.0.50 -c 2", "ping fc00::1:50 -c 2"},
			nc:     []string{"nc 10.0.0.50 5000", "nc fc00::1:50 5000"},
		},
		{
			config:   "netlink", // vdestack6nl.c
			addrs:    []string{"10.0.0.60/24", "fc00::1:60/64"},
			gateways: []string{"10.0.0.1", "fc00::1:1"},
			pings:    []string{"ping fc00::1:60 -c 2", "ping 10.0.0.60 -c 2"},
			nc:       []string{"nc 10.0.0.60 5000", "nc fc00::1:60 5000"},
		},
	} {
		t.Run(tt.config, func(t *testing.T) {
			testenv.Need(t, "ip", "iproute2")
			server, terminal := bare(t, vnl), bare(t, vnl)
			usable := await(t, server, tt.addrs[1])
			testenv.Check(t, setups[tt.config].configure(t.Context(), server))
			usable()
			ln := testenv.Must(server.Listen("tcp", "[::]:5000"))(t)
			ended := make(chan error, 1)
			go func() { ended <- serve(ln) }()
			defer func() {
				ln.Close()
				<-ended
			}()
			configured(t, server, tt.addrs, tt.gateways)

			usable = await(t, terminal, "fc00::1:1/64")
			for _, line := range vdens {
				typed(t, terminal, line)
			}
			usable()
			for _, line := range tt.pings {
				if out := typed(t, terminal, line); !strings.Contains(out, "2 packets transmitted, 2 received, 0% packet loss") {
					t.Errorf("%s: %s", line, out)
				}
			}
			for _, line := range tt.nc {
				talk(t, terminal, line)
			}
		})
	}
}

// TestConfigurations configures as either program of the tutorial does, the first with
// each of the commands that it can run.
func TestConfigurations(t *testing.T) {
	for _, tt := range []struct {
		program, pkg    string
		addrs, gateways []string
	}{
		{"busybox", "busybox", []string{"10.0.0.50/24", "fc00::1:50/64"}, nil},
		{"ip", "iproute2", []string{"10.0.0.50/24", "fc00::1:50/64"}, nil},
		{"", "", []string{"10.0.0.60/24", "fc00::1:60/64"}, []string{"10.0.0.1", "fc00::1:1"}},
	} {
		t.Run(tt.program, func(t *testing.T) {
			dir, configure := t.TempDir(), setups["netlink"].configure
			if tt.program != "" {
				configure = setups["commands"].configure
				testenv.Check(t, os.Symlink(testenv.Need(t, tt.program, tt.pkg), filepath.Join(dir, tt.program)))
			}
			t.Setenv("PATH", dir)
			s := bare(t, "mem://")
			testenv.Check(t, configure(t.Context(), s))
			configured(t, s, tt.addrs, tt.gateways)
		})
	}
}

// bare makes a stack as vde_addstack leaves it: its interface is down.
func bare(t *testing.T, vnl string) *vdestack.Stack {
	t.Helper()
	return testenv.Opened(vdestack.New(t.Context(), vdestack.Config{Interfaces: []vdestack.Interface{{VNL: vnl, Down: true}}}))(t)
}

// await returns a function that waits until an IPv6 address, which is given to the
// stack after this call, is no duplicate and reachable.
func await(t *testing.T, s *vdestack.Stack, prefix string) func() {
	t.Helper()
	addr := netip.MustParsePrefix(prefix).Addr()
	nl := testenv.Opened(s.RTNL())(t)
	events := nl.Watch(testenv.Context(t))
	return func() {
		t.Helper()
		for e, err := range events {
			testenv.Check(t, err)
			if e.Route != nil && e.Route.Table == rtnl.TableLocal && !e.Deleted && e.Route.Dst.Addr() == addr {
				return
			}
		}
		t.Fatalf("%s is not reachable", addr)
	}
}

// configured looks at the interface, the addresses and the default routes of a stack: it
// is up and has these, and no others but link-local ones.
func configured(t *testing.T, s *vdestack.Stack, addrs, gateways []string) {
	t.Helper()
	nl := testenv.Opened(s.RTNL())(t)
	index := testenv.Must(nl.IfNameToIndex("vde0"))(t)
	if l, err := nl.Link(index); err != nil || l.Flags&net.FlagUp == 0 {
		t.Errorf("vde0 is not up: %+v, %v", l, err)
	}
	var have, via []string
	for _, a := range testenv.Must(nl.Addrs())(t) {
		if a.IfIndex == index && !a.Prefix.Addr().IsLinkLocalUnicast() {
			have = append(have, a.Prefix.String())
		}
	}
	for _, r := range testenv.Must(nl.Routes())(t) {
		if r.Gateway.IsValid() {
			via = append(via, r.Gateway.String())
		}
	}
	slices.Sort(have)
	slices.Sort(via)
	if !slices.Equal(have, addrs) || !slices.Equal(via, gateways) {
		t.Errorf("got addresses %q and gateways %q, want %q and %q", have, via, addrs, gateways)
	}
}

// typed runs a line of the tutorial in a stack.
func typed(t *testing.T, s *vdestack.Stack, line string) string {
	t.Helper()
	args := strings.Fields(line)
	testenv.Need(t, args[0], map[string]string{"ip": "iproute2", "ping": "iputils-ping"}[args[0]])
	out, err := s.Command(t.Context(), args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
	return string(out)
}

// talk says something to the echo server by nc.
func talk(t *testing.T, s *vdestack.Stack, line string) {
	t.Helper()
	args := strings.Fields(line)
	testenv.Need(t, args[0], "netcat-openbsd")
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Timeout)
	defer cancel()
	cmd := s.Command(ctx, args[0], args[1:]...)
	in := testenv.Must(cmd.StdinPipe())(t)
	out := testenv.Must(cmd.StdoutPipe())(t)
	testenv.Check(t, cmd.Start())
	io.WriteString(in, "hello\n")
	if back, err := bufio.NewReader(out).ReadString('\n'); back != "hello\n" {
		t.Errorf("%s: got %q back (%v), want hello", line, back, err)
	}
	cancel() // as Ctrl-C
	cmd.Wait()
}
