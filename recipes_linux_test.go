package vdestack_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
)

// The functions here that are no tests are shown in docs/RECIPES.md.

// proxy returns a handler that passes requests on to a web server in the network of the
// stack, such as http://10.0.0.1.
func proxy(st *vdestack.Stack, server *url.URL) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(server)
			r.SetXForwarded()
		},
		Transport: &http.Transport{DialContext: st.DialContext},
	}
}

// TestProxy serves a web server of a stack on the host.
func TestProxy(t *testing.T) {
	server, client := testenv.Opened(vdestack.Open("mem://"+t.Name(), "10.0.0.1/24"))(t), testenv.Opened(vdestack.Open("mem://"+t.Name(), "10.0.0.2/24"))(t)
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello %s", r.Header.Get("X-Forwarded-For"))
	})
	go http.Serve(testenv.Listen(t, server, "tcp", ":80"), hello)
	front := httptest.NewServer(proxy(client, testenv.Must(url.Parse("http://10.0.0.1"))(t)))
	defer front.Close()
	resp := testenv.Must(front.Client().Get(front.URL))(t)
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); string(body) != "hello 127.0.0.1" {
		t.Errorf("got %q, %v", body, err)
	}
}

// recorded opens a stack whose frames are in lab.pcapng when it is closed, and returns what
// its TLS clients are to have, so that the keys of their connections are in lab.keys.
func recorded(ctx context.Context, vnl string, addr netip.Prefix) (*vdestack.Stack, *tls.Config, error) {
	frames, err := os.Create("lab.pcapng")
	if err != nil {
		return nil, nil, err
	}
	keys, err := os.OpenFile("lab.keys", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, nil, err
	}
	st, err := vdestack.New(ctx, vdestack.Config{Interfaces: []vdestack.Interface{
		{VNL: vnl, Addrs: []netip.Prefix{addr}, Capture: frames},
	}})
	return st, &tls.Config{KeyLogWriter: keys}, err
}

// TestDecrypted has tshark read an HTTPS request in a recording.
func TestDecrypted(t *testing.T) {
	testenv.Long(t)
	tshark := testenv.Need(t, "tshark", "tshark")
	// The command of the document.
	_, line, ok := strings.Cut(string(testenv.Must(os.ReadFile("docs/RECIPES.md"))(t)), "\n    tshark ")
	if !ok {
		t.Fatal("docs/RECIPES.md does not run tshark")
	}
	line, _, _ = strings.Cut(line, "\n")
	t.Chdir(t.TempDir())
	server := testenv.Opened(vdestack.Open("mem://"+t.Name(), "10.0.0.1/24"))(t)
	client, conf, err := recorded(t.Context(), "mem://"+t.Name(), netip.MustParsePrefix("10.0.0.2/24"))
	testenv.Check(t, err)
	defer client.Close()
	site := httptest.NewUnstartedServer(http.NotFoundHandler())
	site.Listener.Close()
	site.Listener = testenv.Listen(t, server, "tcp", "10.0.0.1:443")
	site.StartTLS()
	defer site.Close()
	conf.RootCAs, conf.ServerName = x509.NewCertPool(), "example.com"
	conf.RootCAs.AddCert(site.Certificate())
	web := &http.Client{Transport: &http.Transport{DialContext: client.DialContext, TLSClientConfig: conf}}
	resp := testenv.Must(web.Get("https://10.0.0.1/secret"))(t)
	resp.Body.Close()
	web.CloseIdleConnections()
	testenv.Check(t, client.Close())

	cmd := exec.CommandContext(testenv.Context(t), tshark, strings.Fields(line)...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "GET /secret") {
		t.Errorf("tshark %s: %v\n%s", line, err, out)
	}
}
