package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/autoconf"
	"github.com/vdestack/vdestack/internal/program"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/vdeplug"
)

// TestConf has dnsmasq configure a stack, and change what it says while the command runs.
func TestConf(t *testing.T) {
	testenv.Long(t)
	t.Parallel()
	needInterfaces(t)
	needResolvConf(t)
	ip := testenv.Need(t, "ip", "iproute2")
	dnsmasq := testenv.Need(t, "dnsmasq", "dnsmasq-base")
	dir := testenv.ShortDir(t)
	network := filepath.Join(dir, "switch")
	server := testenv.Opened(vdestack.Open("switch://"+network, "10.0.0.1/24"))(t)
	options := filepath.Join(dir, "options")
	announce := func(dns string) {
		testenv.Check(t, os.WriteFile(options, []byte("option:dns-server,"+dns+"\n"), 0o644))
	}
	announce("10.0.0.53")
	log := new(testenv.Buffer)
	d := server.Command(t.Context(), dnsmasq,
		"--keep-in-foreground", "--log-facility=-", "--log-dhcp", "--conf-file=/dev/null", "--pid-file=", "--user=", "--group=",
		"--no-resolv", "--no-hosts", "--interface=vde0", "--bind-interfaces", "--no-ping", "--port=0",
		"--dhcp-leasefile="+filepath.Join(dir, "leases"), "--dhcp-range=10.0.0.50,10.0.0.50,255.255.255.0,1h",
		"--domain=lab.example", "--dhcp-optsfile="+options)
	d.Stdout, d.Stderr = log, log
	testenv.Check(t, d.Start())
	defer d.Wait()
	defer d.Process.Kill()
	said := func(text string) func() bool { return func() bool { return strings.Contains(log.String(), text) } }
	testenv.Eventually(t, "dnsmasq to start", said("DHCP, IP range"), log.String)

	// A link that was down has its client ask again.
	cmd := vdens(t, "-i", "eth", "-conf", "dhcp,release,fqdn=guest.lab.example", "vde://"+network, "--", "/bin/sh", "-c",
		ip+" -4 -o addr show dev eth0; "+ip+" route; cat "+resolvConf+`; echo ready
		read x
		`+ip+` link set eth0 down; `+ip+` link set eth0 up
		while grep -q 10.0.0.53 `+resolvConf+`; do sleep 0.02; done
		cat `+resolvConf)
	stdin := testenv.Must(cmd.StdinPipe())(t)
	stdout, stderr := new(testenv.Buffer), new(testenv.Buffer)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	testenv.Check(t, cmd.Start())
	defer cmd.Wait()
	defer cmd.Cancel()
	wantText(t, stdout, "ready\n")
	if got := stdout.String(); !strings.Contains(got, "inet 10.0.0.50/24 ") || !strings.Contains(got, "default via 10.0.0.1 ") ||
		!strings.HasSuffix(got, "\nnameserver 10.0.0.53\nsearch lab.example\nready\n") {
		t.Errorf("configured: got %q", got)
	}

	announce("10.0.0.54")
	before := strings.Count(log.String(), "read "+options)
	testenv.Check(t, d.Process.Signal(syscall.SIGHUP))
	testenv.Eventually(t, "dnsmasq to read its options", func() bool { return strings.Count(log.String(), "read "+options) > before }, log.String)
	fmt.Fprintln(stdin)
	wantText(t, stdout, "nameserver 10.0.0.54\nsearch lab.example\n")
	testenv.Check(t, cmd.Wait())
	testenv.Eventually(t, "the lease to be given back", said("DHCPRELEASE(vde0) 10.0.0.50"), log.String)
	if got := stderr.String(); got != "" {
		t.Errorf("it says %q", got)
	}
}

// TestConfSlirp asks the server of slirp:// instead of configuring its first guest.
func TestConfSlirp(t *testing.T) {
	t.Parallel()
	needInterfaces(t)
	ip := testenv.Need(t, "ip", "iproute2")
	for _, tt := range []struct{ name, args, dns string }{
		{"all", "-conf auto,slaac,iface=vde1,fqdn=host.example.org", "nameserver 10.0.2.3\nnameserver fd00::3\n"},
		{"by option", "-dns 10.0.2.99 -conf dhcp,iface=vde1", "nameserver 10.0.2.99\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			args := append(strings.Fields(tt.args), "-addr", "10.1.0.1/24", "mem://", "slirp://", "--", "/bin/sh", "-c", ip+" -o addr show dev vde1; cat "+resolvConf)
			status, stdout, stderr := runVdens(t, "", args...)
			if status != 0 || stderr != "" || !strings.Contains(stdout, "inet 10.0.2.15/24 ") || strings.Contains(stdout, "fd00::f/") || !strings.Contains(stdout, "\n"+tt.dns) {
				t.Errorf("got status %d, %q and %q", status, stdout, stderr)
			}
			if hash := (autoconf.Hash{Name: "host.example.org"}).Addr(netip.MustParseAddr("fd00::")); tt.name == "all" && !strings.Contains(stdout, "inet6 "+hash.String()+"/64 ") {
				t.Errorf("got %q, want %v", stdout, hash)
			}
		})
	}
}

// TestConfFails runs no command on an interface that cannot be configured.
func TestConfFails(t *testing.T) {
	needInterfaces(t)
	status, stdout, stderr := runVdens(t, "", "-conf", "gw=10.0.0.1", "-conf", "gw=10.1.0.1,iface=vde1", "null://", "null://", "--", "echo", "never")
	for _, want := range []string{"vdens: -conf gw=10.0.0.1: ", "/vde0: static: ", "\n-conf gw=10.1.0.1,iface=vde1: ", "/vde1: static: "} {
		if status != program.StatusFailed || stdout != "" || !strings.Contains(stderr, want) {
			t.Errorf("got status %d, %q and %q, want %q", status, stdout, stderr, want)
		}
	}
}

// TestConfInterrupted ends vdens while it looks for a server.
func TestConfInterrupted(t *testing.T) {
	needInterfaces(t)
	network := filepath.Join(testenv.ShortDir(t), "switch")
	sw := testenv.Opened(vdeplug.Open("switch://"+network, nil))(t)
	cmd := vdens(t, "-conf", "dhcp,release", "vde://"+network, "--", "echo", "never")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	testenv.Check(t, cmd.Start())
	for b := make([]byte, vdeplug.MaxFrame); ; { // until DHCPDISCOVER
		n := testenv.Must(sw.Recv(b))(t)
		if bytes.Contains(b[:n], []byte{0, 68, 0, 67}) {
			break
		}
	}
	testenv.Check(t, cmd.Process.Signal(syscall.SIGINT))
	cmd.Wait()
	if got, want := cmd.ProcessState.ExitCode(), 128+int(syscall.SIGINT); got != want || out.Len() > 0 {
		t.Errorf("got %v and %q, want exit status %d", cmd.ProcessState, out.String(), want)
	}
}
