package recipes

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"

	"github.com/google/nftables"
	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/vdestacktest"
)

// asked counts the questions to the host's resolver.
var asked atomic.Int32

func TestMain(m *testing.M) {
	if os.Getenv("APP_FILTER") != "" { // first thing in main: this is the child
		c, err := nftables.New()
		if err != nil {
			log.Fatal(err)
		}
		drop := nftables.ChainPolicyDrop
		c.AddChain(&nftables.Chain{
			Table:    c.AddTable(&nftables.Table{Name: "lab", Family: nftables.TableFamilyINet}),
			Name:     "silence",
			Type:     nftables.ChainTypeFilter,
			Hooknum:  nftables.ChainHookOutput,
			Priority: nftables.ChainPriorityFilter,
			Policy:   &drop,
		})
		if err := c.Flush(); err != nil {
			log.Fatal(err)
		}
		return
	}
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		asked.Add(1)
		return nil, errors.New("the host has been asked for a name")
	}}
	testenv.Main(m)
}

// lab returns two stacks on one network. The client has a name for the server, which a library
// that asked the host instead would not find; that fails the test.
func lab(t *testing.T) (server, client *vdestack.Stack) {
	t.Helper()
	before := asked.Load()
	t.Cleanup(func() {
		if n := asked.Load() - before; n > 0 {
			t.Errorf("the host has been asked for names %d times", n)
		}
	})
	server, client = vdestacktest.Open(t, "mem://"+t.Name(), "10.0.0.1/24"), vdestacktest.Open(t, "mem://"+t.Name(), "10.0.0.2/24")
	testenv.Check(t, client.SetDNS(vdestack.DNS{Hosts: map[string][]netip.Addr{"server.lab.example": testenv.Addrs("10.0.0.1")}}))
	return server, client
}

// certificate returns what a TLS server has, and what its clients have, who know it as
// example.com.
func certificate() (server, client *tls.Config) {
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return &tls.Config{Certificates: s.TLS.Certificates}, &tls.Config{RootCAs: pool, ServerName: "example.com"}
}
