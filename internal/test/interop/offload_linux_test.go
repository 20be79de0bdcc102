package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/stack"
)

// TestOffloads moves data between a stack and Debian's vdens, whose kernel handles every
// frame on its own and checks every checksum: with all offloads of the stack, without each
// one, and without any.
func TestOffloads(t *testing.T) {
	testenv.Long(t)
	ip, busybox := testenv.Need(t, "ip", "iproute2"), testenv.Need(t, "busybox", "busybox")
	nc := testenv.Need(t, "nc.openbsd", "netcat-openbsd")
	ping := testenv.Need(t, "ping", "iputils-ping")
	data := filepath.Join(t.TempDir(), "data")
	testenv.Check(t, os.WriteFile(data, []byte(strings.Repeat(string(payload()), 8)), 0o600))
	for _, tt := range offloads() {
		t.Run(tt.name, func(t *testing.T) {
			on(t, func(t *testing.T, vnl, theirs string) {
				f := tt.Interface
				f.VNL, f.Addrs = vnl, testenv.Prefixes(server.prefixes()...)
				s := testenv.Must(vdestack.New(t.Context(), vdestack.Config{Interfaces: []vdestack.Interface{f}}))(t)
				defer s.Close()
				serveEcho(t, s)

				sh := debian(t, theirs, client)
				must(t, sh, ip+" link set lo up")
				for _, addr := range server {
					must(t, sh, fmt.Sprintf("%s -N -w 20 %s 5000 <%[3]s | cmp - %[3]s", nc, addr, data))
					must(t, sh, fmt.Sprintf("%s -n -c 1 -w 20 -s 20000 %s", ping, addr)) // in fragments
				}
				counters := "cat /proc/net/snmp /proc/net/snmp6"
				here := testenv.Must(s.Command(t.Context(), busybox, "sh", "-c", counters).Output())(t)
				wantNoBad(t, "vdens", must(t, sh, counters))
				wantNoBad(t, "the stack", string(here))
			})
		})
	}
}

type offload struct {
	name string
	vdestack.Interface
}

// offloads are the combinations of offloads.
func offloads() (list []offload) {
	add := func(kind stack.Kind, without stack.Offload) {
		list = append(list, offload{fmt.Sprintf("%s without %#x", kind, without), vdestack.Interface{Kind: kind, NoOffload: without}})
	}
	all := stack.Offload(0)
	for o := stack.OffloadHeader; o <= stack.OffloadUDPGRO; o <<= 1 {
		all |= o
		add(stack.KindTAP, o)
	}
	for _, kind := range []stack.Kind{stack.KindTAP, stack.KindVeth} {
		add(kind, 0)
		add(kind, all)
	}
	return list
}

// wantNoBad checks the error counters of a kernel.
func wantNoBad(t *testing.T, who, counters string) {
	t.Helper()
	seen := 0
	count := func(name, value string) {
		switch name := strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(name, "Ip6"), "Icmp6"), "Udp6"); name {
		case "InCsumErrors", "InHdrErrors", "InTruncatedPkts", "ReasmFails":
			seen++
			if value != "0" {
				t.Errorf("%s: %s of %s", who, value, name)
			}
		}
	}
	var names []string
	for line := range strings.Lines(counters) {
		f := strings.Fields(line)
		switch {
		case len(f) == 2: // snmp6
			count(f[0], f[1])
		case len(names) == len(f) && names[0] == f[0]:
			for i := range f {
				count(names[i], f[i])
			}
			names = nil
		default:
			names = f
		}
	}
	if seen < 10 {
		t.Errorf("%s: only %d counters: %s", who, seen, counters)
	}
}
