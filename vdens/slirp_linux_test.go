package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/program"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestSlirp fetches a page of a server on the host's loopback, with only the network as
// an option.
func TestSlirp(t *testing.T) {
	needInterfaces(t)
	curl := testenv.Need(t, "curl", "curl")
	for _, h := range []struct{ name, loopback, named string }{
		{"IPv4", "127.0.0.1", "10.0.2.2"},
		{"IPv6", "::1", "fd00::2"},
	} {
		t.Run(h.name, func(t *testing.T) {
			ln := testenv.Must(net.Listen("tcp", net.JoinHostPort(h.loopback, "0")))(t)
			srv := &httptest.Server{Listener: ln, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				host, _, _ := net.SplitHostPort(r.RemoteAddr)
				fmt.Fprintf(w, "hello %s", host)
			})}}
			srv.Start()
			defer srv.Close()
			url := "http://" + net.JoinHostPort(h.named, fmt.Sprint(ln.Addr().(*net.TCPAddr).Port))
			status, stdout, stderr := runVdens(t, "", "slirp://", "--", curl, "-sS", "-g", url)
			if want := "hello " + h.loopback; status != 0 || stdout != want || stderr != "" {
				t.Errorf("got status %d, %q and %q, want %q", status, stdout, stderr, want)
			}
		})
	}
}

// TestSlirpConfiguration checks the configuration of a stack on slirp://, with and
// without options.
func TestSlirpConfiguration(t *testing.T) {
	testenv.Long(t)
	needInterfaces(t)
	ip := testenv.Need(t, "ip", "iproute2")
	script := "cat " + resolvConf + "; " + ip + " -4 -o addr show dev vde0; " + ip + " -4 route show default"
	const (
		server = "nameserver 10.0.2.3\n"
		addr   = "inet 10.0.2.15/24"
		route  = "default via 10.0.2.2 "
	)
	for _, tt := range []struct {
		name, args      string
		want, otherwise []string
	}{
		{"default", "slirp://", []string{server, addr, route}, nil},
		{"options of the network", "slirp:///v4/addr=10.9.0.1%2f16", []string{"nameserver 10.9.2.3\n", "inet 10.9.2.15/16", "default via 10.9.0.1 "}, nil},
		{"restricted", "slirp:///restricted", []string{addr}, []string{"nameserver", "default"}},
		{"name server", "-dns 10.0.2.99 slirp://", []string{"nameserver 10.0.2.99\n", addr, route}, []string{server}},
		{"gateway", "-gw 10.0.2.99 slirp://", []string{server, addr, "default via 10.0.2.99 "}, []string{route}},
		{"machine's names", "-names=false slirp://", []string{addr, route}, []string{server}},
		{"address", "-addr 10.0.2.77/24 slirp://", []string{"inet 10.0.2.77/24"}, []string{addr, "default", server}},
		{"the second of two", "-addr vde0=10.1.0.1/24 mem:// slirp://", []string{server, "inet 10.1.0.1/24", "default via 10.0.2.2 dev vde1"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, stdout, stderr := runVdens(t, "", append(strings.Fields(tt.args), "--", "/bin/sh", "-c", script)...)
			if status != 0 || stderr != "" {
				t.Fatalf("got status %d and %q", status, stderr)
			}
			for _, s := range tt.want {
				if !strings.Contains(stdout, s) {
					t.Errorf("got %q, want %q in it", stdout, s)
				}
			}
			for _, s := range tt.otherwise {
				if strings.Contains(stdout, s) {
					t.Errorf("got %q, want no %q in it", stdout, s)
				}
			}
		})
	}
	if status, _, stderr := runVdens(t, "", "slirp:///nonsense", "--", "true"); status != program.StatusFailed || !strings.Contains(stderr, "nonsense") {
		t.Errorf("got status %d and %q", status, stderr)
	}
}
