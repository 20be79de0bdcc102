package conformance

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
)

// A protocol is a version of HTTP and what carries it.
type protocol struct {
	name     string
	proto    string // as in http.Request.Proto
	tls, two bool
}

var protocols = []protocol{
	{name: "HTTP 1.1", proto: "HTTP/1.1"},
	{name: "HTTP 1.1, TLS", proto: "HTTP/1.1", tls: true},
	{name: "HTTP 2", proto: "HTTP/2.0", two: true},
	{name: "HTTP 2, TLS", proto: "HTTP/2.0", tls: true, two: true},
}

// A site is a server of package httptest on a listener, and a client.
type site struct {
	*http.Client
	url string
	mux *http.ServeMux // nil where the test has its own handler
	// gone receives the errors that end handlers early.
	gone chan error
}

// site serves the handlers of handle.
func (p protocol) site(t testing.TB, ln net.Listener, from *vdestack.Stack) *site {
	t.Helper()
	mux := http.NewServeMux()
	s := p.start(t, ln, from, mux)
	s.mux = mux
	s.handle()
	return s
}

// start serves the handler on the listener, and returns a client that dials from a stack.
func (p protocol) start(t testing.TB, ln net.Listener, from *vdestack.Stack, h http.Handler) *site {
	t.Helper()
	ts := httptest.NewUnstartedServer(h)
	ts.Listener.Close() // the one of the host
	ts.Listener = ln
	ts.EnableHTTP2 = p.two
	ts.Config.ErrorLog = log.New(io.Discard, "", 0) // for connections that the end of a test cuts off
	tr := &http.Transport{DialContext: from.DialContext, ForceAttemptHTTP2: p.two}
	if p.tls {
		ts.StartTLS()
		pool := x509.NewCertPool()
		pool.AddCert(ts.Certificate())
		tr.TLSClientConfig = &tls.Config{RootCAs: pool, ServerName: "example.com"}
	} else {
		if p.two {
			only := new(http.Protocols)
			only.SetUnencryptedHTTP2(true)
			ts.Config.Protocols, tr.Protocols = only, only
		}
		ts.Start()
	}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		ts.CloseClientConnections()
		ts.Close()
	})
	return &site{Client: &http.Client{Transport: tr, Timeout: testenv.Timeout}, url: ts.URL, gone: make(chan error, 1)}
}

// each runs a test with every protocol over every route.
func each(t *testing.T, f func(t *testing.T, p protocol, r route)) {
	guard(t)
	for _, r := range routes(t) {
		for _, p := range protocols {
			t.Run(r.name+", "+p.name, func(t *testing.T) { f(t, p, r) })
		}
	}
}

// eachSite is each with the handlers of handle.
func eachSite(t *testing.T, f func(t *testing.T, p protocol, s *site)) {
	each(t, func(t *testing.T, p protocol, r route) { f(t, p, p.site(t, r.listen(t), r.from)) })
}

// trailer carries the hash of a body.
const trailer = "Payload-Sum"

// handle registers the handlers of the tests:
//
//	/sum           the hash of the request's body
//	/echo          the request's body
//	/payload       ?seed=&size=, its hash is in a trailer
//	/wait          nothing, until the request is cancelled
//	/hear          nothing, and reads until the request is cancelled
//	/talk          bytes, until the request is cancelled
//
// The last three report their end to s.gone.
func (s *site) handle() {
	s.mux.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) {
		got, err := sum(r.Body)
		fmt.Fprintf(w, "%s %s %v", r.Proto, got, err)
	})
	s.mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		c.EnableFullDuplex() // which HTTP/2 always has
		c.Flush()
		for buf := make([]byte, 32<<10); ; {
			n, err := r.Body.Read(buf)
			w.Write(buf[:n])
			c.Flush()
			if err != nil {
				return
			}
		}
	})
	s.mux.HandleFunc("/payload", func(w http.ResponseWriter, r *http.Request) {
		p := payload{seed: number(r, "seed"), size: int64(number(r, "size"))}
		w.Header().Set("Trailer", trailer)
		io.Copy(w, p.reader())
		w.Header().Set(trailer, p.sum())
	})
	s.mux.HandleFunc("/wait", func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
		s.end(r.Context().Err())
	})
	s.mux.HandleFunc("/hear", func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		c.EnableFullDuplex()
		io.CopyN(io.Discard, r.Body, 1<<20)
		c.Flush() // tells the client that a part has arrived
		_, err := io.Copy(io.Discard, r.Body)
		s.end(err)
	})
	s.mux.HandleFunc("/talk", func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(w, payload{0, 1 << 40}.reader())
		s.end(err)
	})
}

// end reports the end of a handler. It aborts the response: a client that is closing its
// connection could take an ended one for complete.
func (s *site) end(err error) {
	s.gone <- err
	panic(http.ErrAbortHandler)
}

func number(r *http.Request, name string) uint64 {
	n, _ := strconv.ParseUint(r.FormValue(name), 10, 64)
	return n
}

// up sends a body, and returns an error if the server, which speaks the protocol, gets another.
func (s *site) up(proto string, p payload) error {
	resp, err := s.Post(s.url+"/sum", "application/octet-stream", p.reader())
	if err != nil {
		return err
	}
	if got, want := text(resp), fmt.Sprintf("%s %s <nil>", proto, p.sum()); got != want {
		return fmt.Errorf("up: the server got %s, want %s", got, want)
	}
	return nil
}

// down gets a body, and returns an error if it or its trailer is another.
func (s *site) down(p payload) (*http.Response, error) {
	resp, err := s.Get(fmt.Sprintf("%s/payload?seed=%d&size=%d", s.url, p.seed, p.size))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if err := p.check(resp.Body); err != nil {
		return nil, fmt.Errorf("down: %w", err)
	}
	if got, want := resp.Trailer.Get(trailer), p.sum(); got != want {
		return nil, fmt.Errorf("trailer: got %q, want %q", got, want)
	}
	return resp, nil
}

// echo sends a body, and returns an error if it does not come back unchanged.
func (s *site) echo(p payload) error {
	resp, err := s.Post(s.url+"/echo", "application/octet-stream", p.reader())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return p.check(resp.Body)
}

// text reads all of a response.
func text(resp *http.Response) string {
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		fmt.Fprintf(&b, " %v", err)
	}
	return b.String()
}
