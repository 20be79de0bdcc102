package conformance

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
)

// TestHalfClose ends one direction, and sends the answer over the other.
func TestHalfClose(t *testing.T) {
	over(t, routes, func(t *testing.T, r route) {
		near, far := r.connect(t)
		question, answer := payload{1, 2 << 20}, payload{2, 1 << 20}
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := question.check(far); err != nil {
				t.Errorf("question: %v", err)
			}
			if err := answer.send(far); err != nil {
				t.Errorf("answer: %v", err)
			}
		})
		if err := question.send(near); err != nil {
			t.Errorf("question: %v", err)
		}
		if _, err := near.Write([]byte("more")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("writing after CloseWrite: %v", err)
		}
		if err := answer.check(near); err != nil {
			t.Errorf("answer: %v", err)
		}
		wg.Wait()
	})
}

// TestCloseRead ends the other direction, which the peer does not notice.
func TestCloseRead(t *testing.T) {
	testenv.Long(t)
	over(t, routes, func(t *testing.T, r route) {
		near, far := r.connect(t)
		testenv.Check(t, near.CloseRead())
		if n, err := near.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("reading after CloseRead: %d, %v", n, err)
		}
		p := payload{3, 1 << 20}
		go p.send(near)
		if err := p.check(far); err != nil {
			t.Error(err)
		}
	})
}

// TestReset aborts a connection with data on the way.
func TestReset(t *testing.T) {
	over(t, routes, func(t *testing.T, r route) {
		near, far := r.connect(t)
		testenv.Check(t, near.SetLinger(0))
		near.Close()
		if _, err := io.Copy(io.Discard, far); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("reading from a connection that was reset: %v", err)
		}
		if _, err := far.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("writing to a connection that was reset: %v", err)
		}
	})
}

// TestBackPressure writes to a peer that does not read until the write times out; then the
// peer reads exactly what was written.
func TestBackPressure(t *testing.T) {
	testenv.Long(t)
	over(t, routes, func(t *testing.T, r route) {
		near, far := r.connect(t)
		// Otherwise buffers grow to megabytes first.
		near.SetWriteBuffer(64 << 10)
		far.SetReadBuffer(64 << 10)
		all := payload{4, 64 << 20}
		near.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		sent, err := io.Copy(near, all.reader())
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("wrote %d bytes, %v, want the deadline", sent, err)
		}
		near.CloseWrite()
		if err := (payload{all.seed, sent}).check(far); err != nil {
			t.Error(err)
		}
	})
}

// TestVector writes many small buffers with one call.
func TestVector(t *testing.T) {
	testenv.Long(t)
	over(t, routes, func(t *testing.T, r route) {
		near, far := r.connect(t)
		p := payload{5, 1 << 20}
		var bufs net.Buffers
		for b := p.bytes(); len(b) > 0; {
			n := min(len(b), 1+len(b)%997)
			bufs = append(bufs, b[:n])
			b = b[n:]
		}
		go func() {
			bufs.WriteTo(near)
			near.CloseWrite()
		}()
		if err := p.check(far); err != nil {
			t.Error(err)
		}
	})
}

// TestInherit makes connections and listeners of duplicated descriptors.
func TestInherit(t *testing.T) {
	over(t, routes, func(t *testing.T, r route) {
		f := testenv.Must(r.listen(t).File())(t)
		defer f.Close()
		ln := testenv.Must(net.FileListener(f))(t)
		defer ln.Close()
		near := testenv.Must(r.dial(t.Context(), ln.Addr().String()))(t)
		defer near.Close()
		ln.(*net.TCPListener).SetDeadline(time.Now().Add(testenv.Timeout))
		far := testenv.Must(ln.Accept())(t)
		defer far.Close()
		f = testenv.Must(near.File())(t)
		defer f.Close()
		c := testenv.Must(net.FileConn(f))(t)
		defer c.Close()
		c.SetDeadline(time.Now().Add(testenv.Timeout))
		p := payload{6, 100000}
		go far.Write(p.bytes())
		if err := p.checkNext(c); err != nil {
			t.Error(err)
		}
	})
}

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
