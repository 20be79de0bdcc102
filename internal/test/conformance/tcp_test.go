package conformance

import (
	"errors"
	"io"
	"net"
	"os"
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
