package recipes

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
)

// overHTTP3 returns the transport of a client of HTTP/3 in the network of the stack. All its
// connections have the socket of tr, which st.ListenPacket("udp", ":0") makes.
func overHTTP3(st *vdestack.Stack, tr *quic.Transport, conf *tls.Config) *http3.Transport {
	return &http3.Transport{
		TLSClientConfig: conf,
		Dial: func(ctx context.Context, addr string, conf *tls.Config, qconf *quic.Config) (*quic.Conn, error) {
			host, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			ips, err := st.LookupNetIP(ctx, "ip", host)
			if err != nil {
				return nil, err
			}
			to, err := netip.ParseAddrPort(net.JoinHostPort(ips[0].String(), port))
			if err != nil {
				return nil, err
			}
			return tr.DialEarly(ctx, net.UDPAddrFromAddrPort(to), conf, qconf)
		},
	}
}

func TestHTTP3(t *testing.T) {
	server, client := lab(t)
	serverConf, clientConf := certificate()
	s := &http3.Server{
		TLSConfig: http3.ConfigureTLSConfig(serverConf),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, r.Proto)
		}),
	}
	conn := testenv.Must(server.ListenPacket("udp", ":443"))(t)
	defer conn.Close()
	go s.Serve(conn)
	defer s.Close()

	tr := &quic.Transport{Conn: testenv.Must(client.ListenPacket("udp", ":0"))(t)}
	defer tr.Conn.Close()
	defer tr.Close()
	h3 := overHTTP3(client, tr, clientConf)
	defer h3.Close()
	resp := testenv.Must((&http.Client{Transport: h3}).Get("https://server.lab.example/"))(t)
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); string(body) != "HTTP/3.0" {
		t.Errorf("got %q, %v", body, err)
	}
}
