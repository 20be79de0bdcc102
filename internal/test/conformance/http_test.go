package conformance

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
)

// TestBodies sends large bodies up, down and both ways at once.
func TestBodies(t *testing.T) {
	testenv.Long(t)
	eachSite(t, func(t *testing.T, p protocol, s *site) {
		testenv.Check(t, s.up(p.proto, payload{1, 2<<20 + 1}))
		resp := testenv.Must(s.down(payload{2, 2<<20 + 99}))(t)
		if resp.Proto != p.proto || (resp.TLS != nil) != p.tls {
			t.Errorf("got %s, TLS %t, want %s, %t", resp.Proto, resp.TLS != nil, p.proto, p.tls)
		}
		if err := s.echo(payload{3, 1<<20 + 1}); err != nil {
			t.Errorf("both ways: %v", err)
		}
	})
}

// TestLarge sends a body larger than all buffers, which comes back while it is sent.
func TestLarge(t *testing.T) {
	testenv.Long(t)
	guard(t)
	r := ethernet(t)[0]
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			s := p.site(t, r.listen(t), r.from)
			if err := s.echo(payload{11, 12<<20 + 1}); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRequests makes many requests at once.
func TestRequests(t *testing.T) {
	testenv.Long(t)
	eachSite(t, func(t *testing.T, p protocol, s *site) {
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				for j := range 3 {
					if err := s.echo(payload{uint64(3*i + j), 10000}); err != nil {
						t.Errorf("request %d of %d: %v", j, i, err)
					}
				}
			})
		}
		wg.Wait()
	})
}

// TestDialogue sends each line of a body after the answer to the previous one.
func TestDialogue(t *testing.T) {
	eachSite(t, func(t *testing.T, p protocol, s *site) {
		pr, pw := io.Pipe()
		defer pw.Close()
		resp := testenv.Must(s.Post(s.url+"/echo", "text/plain", pr))(t)
		defer resp.Body.Close()
		lines := bufio.NewReader(resp.Body)
		for i := range 20 {
			want := fmt.Sprintf("line %d\n", i)
			io.WriteString(pw, want)
			if got, err := lines.ReadString('\n'); got != want {
				t.Fatalf("got %q, %v, want %q", got, err, want)
			}
		}
		pw.Close()
		if rest, err := io.ReadAll(lines); len(rest) > 0 || err != nil {
			t.Errorf("at the end: %q, %v", rest, err)
		}
	})
}

// TestCancel cancels requests that wait, send and receive. The server learns of it, and the
// client still works.
func TestCancel(t *testing.T) {
	testenv.Long(t)
	eachSite(t, func(t *testing.T, p protocol, s *site) {
		for _, path := range []string{"/wait", "/hear", "/talk"} {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var body io.Reader
			if path == "/hear" {
				body = payload{0, 1 << 40}.reader()
			}
			req := testenv.Must(http.NewRequestWithContext(ctx, "POST", s.url+path, body))(t)
			resp, err := s.Do(req)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if path == "/talk" {
				if err := (payload{0, 1 << 20}).checkNext(resp.Body); err != nil {
					t.Errorf("%s: %v", path, err)
				}
			}
			cancel()
			if n, err := io.Copy(io.Discard, resp.Body); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %d bytes, %v, want context.Canceled", path, n, err)
			}
			resp.Body.Close()
			select {
			case err := <-s.gone:
				if err == nil {
					t.Errorf("%s: the server has seen no error", path)
				}
			case <-time.After(testenv.Timeout):
				t.Errorf("%s: the server does not learn that the request was cancelled", path)
			}
			if err := s.echo(payload{4, 1000}); err != nil {
				t.Errorf("after a cancelled %s: %v", path, err)
			}
		}
	})
}

// TestCancelDial cancels a request whose connection is still being made.
func TestCancelDial(t *testing.T) {
	guard(t)
	s := open(t, "mem://"+t.Name(), "10.0.0.1/24", "fc00::1:1/64")
	c := s.HTTPClient()
	defer c.CloseIdleConnections()
	for _, host := range []string{"10.0.0.99", "[fc00::1:99]"} {
		ctx, cancel := context.WithCancel(t.Context())
		req := testenv.Must(http.NewRequestWithContext(ctx, "GET", "http://"+host, nil))(t)
		time.AfterFunc(20*time.Millisecond, cancel)
		if _, err := c.Do(req); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", host, err)
		}
		c := &http.Client{Transport: c.Transport, Timeout: 20 * time.Millisecond}
		if _, err := c.Get("http://" + host); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", host, err)
		}
	}
}

// TestExpect sends a body only if the server wants it.
func TestExpect(t *testing.T) {
	over(t, ethernet, func(t *testing.T, r route) {
		h := func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/no" {
				w.WriteHeader(http.StatusExpectationFailed)
				return
			}
			got, err := sum(r.Body)
			fmt.Fprint(w, got, err)
		}
		s := protocols[0].start(t, r.listen(t), r.from, http.HandlerFunc(h))
		s.Transport.(*http.Transport).ExpectContinueTimeout = testenv.Timeout
		for path, status := range map[string]int{"/yes": 200, "/no": 417} {
			p := payload{5, 1 << 20}
			body := p.reader().(*io.LimitedReader)
			req := testenv.Must(http.NewRequest("POST", s.url+path, body))(t)
			req.Header.Set("Expect", "100-continue")
			resp := testenv.Must(s.Do(req))(t)
			got := text(resp)
			if resp.StatusCode != status {
				t.Errorf("%s: status %d, want %d", path, resp.StatusCode, status)
			}
			if path == "/yes" && got != p.sum()+"<nil>" {
				t.Errorf("got %s, want %s", got, p.sum())
			}
			if path == "/no" && body.N != p.size {
				t.Errorf("%d bytes of an unwanted body were read", p.size-body.N)
			}
		}
	})
}

// TestFiles serves a file, whole and in ranges. HTTP/1.1 without TLS sends it
// with sendfile.
func TestFiles(t *testing.T) {
	testenv.Long(t)
	each(t, func(t *testing.T, p protocol, r route) {
		content := payload{6, 1<<20 + 12345}
		f := content.file(t)
		s := p.start(t, r.listen(t), r.from, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.ServeFile(w, r, f.Name())
		}))
		resp := testenv.Must(s.Get(s.url))(t)
		err := content.check(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Error(err)
		}
		req := testenv.Must(http.NewRequest("GET", s.url, nil))(t)
		req.Header.Set("Range", "bytes=100000-999999")
		resp = testenv.Must(s.Do(req))(t)
		if got, want := text(resp), string(content.bytes()[1e5:1e6]); got != want {
			t.Errorf("a range: got %d bytes, want %d", len(got), len(want))
		}
	})
}

// TestShutdown ends a server while a request is under way, which it completes.
func TestShutdown(t *testing.T) {
	over(t, routes, func(t *testing.T, r route) {
		started, end := make(chan struct{}), make(chan struct{})
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				close(started)
				<-end
			}
			io.WriteString(w, "done")
		})}
		ln := r.listen(t)
		served := make(chan error, 1)
		go func() { served <- srv.Serve(ln) }()
		c := r.from.HTTPClient()
		defer c.CloseIdleConnections()
		c.Timeout = testenv.Timeout
		url := "http://" + ln.Addr().String()
		answer := make(chan string, 1)
		go func() {
			resp, err := c.Get(url + "/slow")
			if err != nil {
				answer <- err.Error()
				return
			}
			answer <- text(resp)
		}()
		await(t, "the request", started)
		down := make(chan error, 1)
		go func() { down <- srv.Shutdown(testenv.Context(t)) }()
		if err := <-served; err != http.ErrServerClosed {
			t.Errorf("Serve: %v", err)
		}
		if resp, err := c.Get(url); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a request of a server that is shut down: %v, %v", resp, err)
		}
		select {
		case err := <-down:
			t.Errorf("Shutdown returned with a request under way: %v", err)
		default:
		}
		close(end)
		if err := <-down; err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if got := <-answer; got != "done" {
			t.Errorf("the request that was under way: %q", got)
		}
	})
}

// TestRemote checks the addresses of the stacks in requests.
func TestRemote(t *testing.T) {
	guard(t)
	for i, r := range ethernet(t) {
		t.Run(r.name, func(t *testing.T) {
			s := protocols[0].start(t, r.listen(t), r.from, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				local := r.Context().Value(http.LocalAddrContextKey)
				fmt.Fprintf(w, "http://%s %s %s", local, r.Host, r.RemoteAddr)
			}))
			resp := testenv.Must(s.Get(s.url))(t)
			want := fmt.Sprintf("%s %s %s:", s.url, strings.TrimPrefix(s.url, "http://"), []string{"10.0.0.2", "[fc00::1:2]"}[i%2])
			if got := text(resp); !strings.HasPrefix(got, want) {
				t.Errorf("got %q, want %q and a port", got, want)
			}
		})
	}
}
