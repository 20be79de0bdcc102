package autoconf

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
)

// startDnsmasq runs dnsmasq in a stack, until the test ends, and returns its log.
func startDnsmasq(t *testing.T, h host, options ...string) *testenv.Buffer {
	t.Helper()
	log := &testenv.Buffer{}
	cmd := h.st.Command(t.Context(), testenv.Need(t, "dnsmasq", "dnsmasq-base"), append([]string{
		"--keep-in-foreground", "--log-facility=-", "--log-dhcp", "--conf-file=/dev/null", "--pid-file=", "--user=", "--group=",
		"--no-resolv", "--no-hosts", "--interface=vde0", "--bind-interfaces", "--no-ping",
		"--dhcp-leasefile=" + filepath.Join(t.TempDir(), "leases"),
	}, options...)...)
	cmd.Stdout, cmd.Stderr = log, log
	testenv.Check(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Wait()
		if t.Failed() {
			t.Logf("dnsmasq: %s", log.String())
		}
	})
	testenv.Eventually(t, "dnsmasq to start", func() bool { return strings.Contains(log.String(), "DHCP, ") }, log.String)
	return log
}

// TestDnsmasq gets, renews and gives back a lease of dnsmasq, and uses it.
func TestDnsmasq(t *testing.T) {
	testenv.Long(t)
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			server := newHost(t, vdestack.Interface{VNL: vnl(t, kind), Addrs: testenv.Prefixes("10.0.0.1/24")})
			log := startDnsmasq(t, server, "--dhcp-range=10.0.0.50,10.0.0.50,255.255.255.0,1h", "--dhcp-option=option:mtu,1400",
				"--domain=lab.example", "--host-record=www.lab.example,10.0.0.1")
			h := newHost(t, vdestack.Interface{VNL: vnl(t, kind)})
			c, err := Start(testenv.Context(t), h.st, testenv.Must(Parse("auto4,release,fqdn=host.lab.example"))(t))
			testenv.Check(t, err)
			l := c.Leases()
			if len(l) != 1 || l[0].Source != DHCP4 || len(l[0].Addrs) != 1 || l[0].Addrs[0].Prefix != prefix("10.0.0.50/24") || l[0].Server != addr("10.0.0.1") {
				t.Errorf("known: %+v", l)
			}
			h.wantLifetime("10.0.0.50/24", time.Hour, time.Hour)
			if got := h.state(); !strings.Contains(got, "default via 10.0.0.1 ") || !strings.Contains(got, "mtu 1400\n") {
				t.Errorf("got\n%s", got)
			}
			if addrs, err := h.st.LookupNetIP(t.Context(), "ip4", "www"); err != nil || !slices.Equal(addrs, testenv.Addrs("10.0.0.1")) {
				t.Errorf("www is %v, %v", addrs, err)
			}
			if addrs, err := server.st.LookupNetIP(t.Context(), "ip4", "www"); err == nil {
				t.Errorf("without a client, www is %v", addrs)
			}
			testenv.Check(t, c.Renew(testenv.Context(t)))
			testenv.Check(t, h.st.Close())
			testenv.Eventually(t, "the lease to be given back", func() bool { return strings.Contains(log.String(), "DHCPRELEASE(vde0) 10.0.0.50") })
		})
	}
}
