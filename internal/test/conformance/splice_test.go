package conformance

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

// file returns a file with the payload.
func (p payload) file(t testing.TB) *os.File {
	t.Helper()
	f := testenv.Must(os.Create(filepath.Join(t.TempDir(), "payload")))(t)
	t.Cleanup(func() { f.Close() })
	_, err := f.Write(p.bytes())
	testenv.Check(t, err)
	_, err = f.Seek(0, io.SeekStart)
	testenv.Check(t, err)
	return f
}

// TestSendfile copies files to connections and connections to files, whole and
// in part. Package os and net do that with sendfile and splice.
func TestSendfile(t *testing.T) {
	p := payload{7, 3<<20 + 12345}
	over(t, routes, func(t *testing.T, r route) {
		near, far := r.connect(t)
		f := p.file(t)
		go func() {
			io.Copy(near, io.LimitReader(f, 100000))
			io.Copy(near, f)
			near.CloseWrite()
		}()
		got := payload{}.file(t)
		if n, err := io.Copy(got, io.LimitReader(far, 200000)); n != 200000 || err != nil {
			t.Fatalf("copied %d bytes to a file, %v", n, err)
		}
		if _, err := io.Copy(got, far); err != nil {
			t.Fatal(err)
		}
		got.Seek(0, io.SeekStart)
		if err := p.check(got); err != nil {
			t.Error(err)
		}
	})
}

// TestZeroCopy checks that files are sent over connections of a stack without copying, as
// on the host: a change of the file before the peer has read it changes what the peer
// reads, see sendfile(2).
func TestZeroCopy(t *testing.T) {
	guard(t)
	const size = 4096
	shares := func(t *testing.T, r route) bool {
		near, far := r.connect(t)
		f := payload{8, size}.file(t)
		if _, err := io.Copy(near, f); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(bytes.Repeat([]byte("x"), size), 0); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, size)
		if _, err := io.ReadFull(far, got); err != nil {
			t.Fatal(err)
		}
		return bytes.Equal(got, bytes.Repeat([]byte("x"), size))
	}
	want := shares(t, route{name: "host", host: "127.0.0.1"})
	t.Logf("the host sends files without copying: %t", want)
	for _, r := range loopback(t) { // over an Ethernet the frame is copied
		t.Run(r.name, func(t *testing.T) {
			if got := shares(t, r); got != want {
				t.Errorf("sends files without copying: %t, the host %t", got, want)
			}
		})
	}
}

// TestSplice has a relay copy connections to each other. Package net splices them; the
// process has a pipe for that meanwhile.
func TestSplice(t *testing.T) {
	testenv.Long(t)
	guard(t)
	relay := func(t *testing.T, r route) (pipe bool) {
		source, in := r.connect(t)
		out, sink := r.connect(t)
		copied := make(chan error, 2)
		for _, c := range [][2]*net.TCPConn{{out, in}, {in, out}} {
			go func() {
				_, err := io.Copy(c[0], c[1])
				c[0].CloseWrite()
				copied <- err
			}()
		}
		there, back := payload{9, 2 << 20}, payload{10, 3 << 20}
		go there.send(source)
		if err := there.check(sink); err != nil {
			t.Error(err)
		}
		// One of the copies still runs.
		for _, target := range testenv.Descriptors(t) {
			pipe = pipe || strings.HasPrefix(target, "pipe:")
		}
		go back.send(sink)
		if err := back.check(source); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := <-copied; err != nil {
				t.Error(err)
			}
		}
		return pipe
	}
	want := relay(t, route{name: "host", host: "127.0.0.1"})
	t.Logf("connections of the host are spliced: %t", want)
	for _, r := range routes(t) {
		t.Run(r.name, func(t *testing.T) {
			if got := relay(t, r); got != want {
				t.Errorf("spliced: %t, the host %t", got, want)
			}
		})
	}
}
