package interop

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

const (
	// pages is the number of pages that curl gets, half of them over each family.
	pages = 10_000
	// connections is the number of connections of wrk at once.
	connections = 8
)

// TestHTTP loads an unchanged net/http server on a stack from namespaces of Debian's vdens
// and of ours. No request is lost.
func TestHTTP(t *testing.T) {
	testenv.Long(t)
	testenv.Need(t, "curl", "curl")
	testenv.Need(t, "wrk", "wrk")
	on(t, func(t *testing.T, vnl, theirs string) {
		s := open(t, vnl, server)
		ln := testenv.Must(s.Listen("tcp", ":80"))(t)
		w := newSite()
		go w.Serve(ln)
		defer w.Close()

		sh := debian(t, theirs, client)
		t.Run("curl", func(t *testing.T) { w.curl(t, sh) })
		t.Run("wrk", func(t *testing.T) { w.wrk(t, sh) })
		sh.end(syscall.SIGKILL) // vdens 0.2 may overlook the end of its command
		t.Run("our vdens", func(t *testing.T) { w.curl(t, ours(t, testenv.Build(t, root, "vdens"), vnl, client)) })
	}, "vxvde", "vde")
}

// A site is a web server that counts. Each page is its own path.
type site struct {
	http.Server
	served, conns atomic.Int64
}

func newSite() *site {
	w := &site{}
	w.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.served.Add(1)
		io.WriteString(rw, r.URL.Path)
	})
	w.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			w.conns.Add(1)
		case http.StateClosed:
			w.conns.Add(-1)
		}
	}
	return w
}

// count returns the number of requests since the last call, after the end of all
// connections.
func (w *site) count(t *testing.T) int {
	t.Helper()
	testenv.Eventually(t, "the end of all connections", func() bool { return w.conns.Load() == 0 })
	return int(w.served.Swap(0))
}

// curl gets pages from a shell, one after the other on one connection.
func (w *site) curl(t *testing.T, s shell) {
	want := map[string]int{} // answers of a status and a length, of one family
	for i := 1; i <= pages/2; i++ {
		want[fmt.Sprintf("200 %d", len(strconv.Itoa(i))+1)]++
	}
	for _, addr := range []string{server[0], "[" + server[1] + "]"} {
		out := must(t, s, fmt.Sprintf("curl -sS --max-time 60 -o /dev/null -w '%%{http_code} %%{size_download}\n' 'http://%s/[1-%d]' | sort | uniq -c", addr, pages/2))
		got := map[string]int{}
		for line := range strings.Lines(out) {
			var n, status, size int
			if _, err := fmt.Sscan(line, &n, &status, &size); err != nil {
				t.Fatalf("curl: %s", out)
			}
			got[fmt.Sprint(status, " ", size)] = n
		}
		if served := w.count(t); !maps.Equal(got, want) || served != pages/2 {
			t.Errorf("answers: got %v, and %d were served, want %v", got, served, want)
		}
	}
}

var requests = regexp.MustCompile(`(\d+) requests in `)

// wrk asks from a shell as fast as it can, for a while.
func (w *site) wrk(t *testing.T, s shell) {
	for _, addr := range []string{server[0], "[" + server[1] + "]"} {
		out := must(t, s, fmt.Sprintf("wrk -t 2 -c %d -d 1s --timeout 20s 'http://%s/'", connections, addr))
		if strings.Contains(out, "Socket errors") || strings.Contains(out, "Non-2xx") {
			t.Errorf("wrk: %s", out)
		}
		m := requests.FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("wrk: %s", out)
		}
		// It does not wait for the last request of each connection.
		n, _ := strconv.Atoi(m[1])
		if served := w.count(t); n == 0 || served < n || served > n+connections {
			t.Errorf("served %d requests, but wrk counts %d", served, n)
		}
	}
}
