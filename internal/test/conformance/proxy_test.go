package conformance

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
)

// A detour has a client and a server on different networks, and a stack on both that does
// not forward packets.
type detour struct {
	client, middle, server *vdestack.Stack
	front, back            string // addresses of middle and server
}

func detours(t *testing.T) map[string]detour {
	t.Helper()
	left, right := "mem://"+t.Name()+"/left", "mem://"+t.Name()+"/right"
	client := open(t, left, "10.0.0.1/24", "fc00:0::1/64")
	server := open(t, right, "10.1.0.1/24", "fc00:1::1/64")
	middle, err := vdestack.New(t.Context(), vdestack.Config{Name: "middle", Interfaces: []vdestack.Interface{
		{VNL: left, Addrs: testenv.Prefixes("10.0.0.2/24", "fc00:0::2/64")},
		{VNL: right, Addrs: testenv.Prefixes("10.1.0.2/24", "fc00:1::2/64")},
	}})
	testenv.Check(t, err)
	t.Cleanup(func() { middle.Close() })
	for _, to := range []string{"10.1.0.1:80", "[fc00:1::1]:80"} {
		if c, err := client.Dial("tcp", to); !errors.Is(err, syscall.ENETUNREACH) {
			t.Fatalf("the client reaches the server's network: %v, %v", c, err)
		}
	}
	return map[string]detour{
		"IPv4":      {client, middle, server, "10.0.0.2", "10.1.0.1"},
		"IPv6":      {client, middle, server, "fc00:0::2", "fc00:1::1"},
		"IPv4 to 6": {client, middle, server, "10.0.0.2", "fc00:1::1"},
		"IPv6 to 4": {client, middle, server, "fc00:0::2", "10.1.0.1"},
	}
}

// TestReverseProxy has a proxy between stacks, which speaks one protocol with
// the client and another one with the server.
func TestReverseProxy(t *testing.T) {
	testenv.Long(t)
	guard(t)
	for name, d := range detours(t) {
		for i, front := range protocols {
			back := protocols[len(protocols)-1-i]
			t.Run(fmt.Sprintf("%s, %s to %s", name, front.name, back.name), func(t *testing.T) {
				server := back.site(t, route{host: d.back, to: d.server}.listen(t), d.middle)
				target := testenv.Must(url.Parse(server.url))(t)
				client := front.start(t, route{host: d.front, to: d.middle}.listen(t), d.client, &httputil.ReverseProxy{
					Rewrite: func(r *httputil.ProxyRequest) {
						r.SetURL(target)
						r.SetXForwarded()
					},
					Transport: server.Transport,
				})
				var wg sync.WaitGroup
				for i := range 4 {
					wg.Go(func() {
						p := payload{uint64(i), 200000}
						if err := client.up(back.proto, p); err != nil {
							t.Error(err)
						}
						if _, err := client.down(p); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
			})
		}
	}
}

// TestUpgrade leaves HTTP through a reverse proxy, as WebSocket does.
func TestUpgrade(t *testing.T) {
	guard(t)
	for name, d := range detours(t) {
		t.Run(name, func(t *testing.T) {
			served, proxied := make(chan struct{}), make(chan struct{})
			server := protocols[0].start(t, route{host: d.back, to: d.server}.listen(t), d.middle,
				http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					defer close(served)
					c, rw, err := http.NewResponseController(w).Hijack()
					if err != nil {
						t.Error(err)
						return
					}
					defer c.Close()
					c.SetDeadline(time.Now().Add(testenv.Timeout))
					io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
					io.Copy(c, rw)
				}))
			target := testenv.Must(url.Parse(server.url))(t)
			proxy := &httputil.ReverseProxy{
				Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
				Transport: server.Transport,
			}
			client := protocols[0].start(t, route{host: d.front, to: d.middle}.listen(t), d.client,
				http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					defer close(proxied)
					proxy.ServeHTTP(w, r)
				}))
			client.Timeout = 0 // with a timeout the body could not be written to
			req := testenv.Must(http.NewRequestWithContext(testenv.Context(t), "GET", client.url, nil))(t)
			req.Header.Set("Connection", "upgrade")
			req.Header.Set("Upgrade", "echo")
			resp := testenv.Must(client.Do(req))(t)
			defer resp.Body.Close()
			rw, ok := resp.Body.(io.ReadWriter)
			if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
				t.Fatalf("%s, with a %T", resp.Status, resp.Body)
			}
			p := payload{7, 1 << 20}
			go io.Copy(rw, p.reader())
			if err := p.checkNext(rw); err != nil {
				t.Error(err)
			}
			resp.Body.Close()
			await(t, "the end of the proxy", proxied)
			await(t, "the end of the server", served)
		})
	}
}

// TestConnect reaches servers through a proxy that is configured in the
// transport: TLS in a tunnel (CONNECT), and forwarded requests.
func TestConnect(t *testing.T) {
	testenv.Long(t)
	guard(t)
	for name, d := range detours(t) {
		for _, p := range protocols {
			if p.two && !p.tls {
				continue // net/http has no such proxying
			}
			t.Run(name+", "+p.name, func(t *testing.T) {
				s := p.site(t, route{host: d.back, to: d.server}.listen(t), d.client)
				s.mux.HandleFunc("/from", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RemoteAddr) })
				proxy := protocols[0].start(t, route{host: d.front, to: d.middle}.listen(t), d.client, &forward{t, d.middle})
				address := testenv.Must(url.Parse(proxy.url))(t)
				s.Transport.(*http.Transport).Proxy = http.ProxyURL(address)
				if err := s.echo(payload{8, 1 << 20}); err != nil {
					t.Error(err)
				}
				resp := testenv.Must(s.Get(s.url + "/from"))(t)
				want := strings.TrimSuffix(d.back, "1") + "2" // of the stack in the middle
				if got := text(resp); !strings.HasPrefix(strings.Trim(got, "["), want) {
					t.Errorf("the server was called by %s, want %s", got, want)
				}
			})
		}
	}
}

// forward is a proxy that dials in a stack.
type forward struct {
	t *testing.T
	s *vdestack.Stack
}

func (f *forward) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		http.NewResponseController(w).EnableFullDuplex()
		tr := f.s.Transport()
		defer tr.CloseIdleConnections()
		(&httputil.ReverseProxy{Rewrite: func(*httputil.ProxyRequest) {}, Transport: tr}).ServeHTTP(w, r)
		return
	}
	out, err := f.s.DialContext(r.Context(), "tcp", r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer out.Close()
	in, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		f.t.Error(err)
		return
	}
	defer in.Close()
	io.WriteString(in, "HTTP/1.1 200 Connected\r\n\r\n")
	deadline := time.Now().Add(testenv.Timeout)
	in.SetDeadline(deadline)
	out.SetDeadline(deadline)
	var wg sync.WaitGroup
	for _, c := range [][2]net.Conn{{in, out}, {out, in}} {
		wg.Go(func() {
			io.Copy(c[0], c[1])
			c[0].(*net.TCPConn).CloseWrite()
		})
	}
	wg.Wait()
}
