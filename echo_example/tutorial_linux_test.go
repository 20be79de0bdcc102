package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
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
			if err := setups[tt.config].configure(t.Context(), server); err != nil {
				t.Fatal(err)
			}
			usable()
			ln, err := server.Listen("tcp", "[::]:5000")
			if err != nil {
				t.Fatal(err)
			}
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

// TestCommandsWith configures with either program, as the tutorial has it.
func TestCommandsWith(t *testing.T) {
	for program, pkg := range map[string]string{"busybox": "busybox", "ip": "iproute2"} {
		t.Run(program, func(t *testing.T) {
			path := testenv.Need(t, program, pkg)
			dir := t.TempDir()
			if err := os.Symlink(path, filepath.Join(dir, program)); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", dir)
			s := bare(t, "mem://")
			if err := byCommands(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			configured(t, s, []string{"10.0.0.50/24", "fc00::1:50/64"}, nil)
		})
	}
}

// bare makes a stack as vde_addstack leaves it: its interface is down.
func bare(t *testing.T, vnl string) *vdestack.Stack {
	t.Helper()
	s, err := vdestack.New(t.Context(), vdestack.Config{Interfaces: []vdestack.Interface{{VNL: vnl, Down: true}}})
	if err != nil {
		testenv.Skip(t, "no interfaces here: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// await returns a function that waits until an IPv6 address, which is given to the
// stack after this call, is no duplicate and reachable.
func await(t *testing.T, s *vdestack.Stack, prefix string) func() {
	t.Helper()
	addr := netip.MustParsePrefix(prefix).Addr()
	nl, err := s.RTNL()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nl.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Timeout)
	events := nl.Watch(ctx)
	return func() {
		t.Helper()
		defer cancel()
		for e, err := range events {
			if err != nil {
				t.Fatalf("%s: %v", addr, err)
			}
			if e.Route != nil && e.Route.Table == rtnl.TableLocal && !e.Deleted && e.Route.Dst.Addr() == addr {
				return
			}
		}
		t.Fatalf("%s is not reachable", addr)
	}
}

// configured looks at the addresses and default routes of a stack: it has these,
// and no others but link-local ones.
func configured(t *testing.T, s *vdestack.Stack, addrs, gateways []string) {
	t.Helper()
	nl, err := s.RTNL()
	if err != nil {
		t.Fatal(err)
	}
	defer nl.Close()
	var have, via []string
	all, err := nl.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if a.Name == "vde0" && !a.Prefix.Addr().IsLinkLocalUnicast() {
			have = append(have, a.Prefix.String())
		}
	}
	routes, err := nl.Routes()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if text := fmt.Sprint(r); strings.HasPrefix(text, "default ") {
			via = append(via, strings.Fields(text)[2])
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
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	io.WriteString(in, "hello\n")
	if back, err := bufio.NewReader(out).ReadString('\n'); back != "hello\n" {
		t.Errorf("%s: got %q back (%v), want hello", line, back, err)
	}
	cancel() // as Ctrl-C
	cmd.Wait()
}
