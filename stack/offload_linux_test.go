package stack_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/stack"
)

// kinds are the ways to make an interface.
var kinds = []stack.Kind{stack.KindTAP, stack.KindVeth}

// plugged makes two stacks on a network of plugs, with interfaces as f says.
func plugged(t *testing.T, f stack.Interface) (a, b *Stack) {
	t.Helper()
	f.VNL = "ptp://" + filepath.Join(t.TempDir(), "p")
	both := [2]*Stack{}
	for i := range both {
		f.Addrs = testenv.Prefixes(fmt.Sprintf("10.0.0.%d/24", i+1), fmt.Sprintf("fc00::%d/64", i+1))
		both[i] = made(t, Config{Interfaces: []Interface{f}})
	}
	return both[0], both[1]
}

// transferSize is what transfer sends where nothing speaks for another size.
const transferSize = 8 << 20

// transfer sends bytes from b to a over TCP and looks that they arrive.
func transfer(t *testing.T, a, b *Stack, addr string, size int64) {
	t.Helper()
	ln := testenv.Listen(t, a, "tcp", addr)
	errs, p := make(chan error, 1), new(pattern)
	go func() {
		c, err := b.DialContext(t.Context(), "tcp", ln.Addr().String())
		if err == nil {
			_, err = io.Copy(c, io.LimitReader(p, size))
			c.Close()
		}
		errs <- err
	}()
	c := testenv.Must(ln.Accept())(t)
	defer c.Close()
	if n, err := io.Copy(p, c); err != nil || n != size {
		t.Fatalf("%d bytes of %d have arrived: %v", n, size, err)
	}
	testenv.Check(t, <-errs)
}

// A pattern is a stream of numbers that count up, of eight bytes each: Read makes it, and
// Write checks it.
type pattern struct {
	sent, received atomic.Int64
	stop           atomic.Bool // the end of the stream
}

func patternByte(n int64) byte { return byte(n / 8 >> (56 - n%8*8)) }

func (p *pattern) Read(b []byte) (int, error) {
	if p.stop.Load() {
		return 0, io.EOF
	}
	n := p.sent.Load()
	for i := range b {
		b[i] = patternByte(n + int64(i))
	}
	p.sent.Add(int64(len(b)))
	return len(b), nil
}

func (p *pattern) Write(b []byte) (int, error) {
	n := p.received.Load()
	for i := range b {
		if b[i] != patternByte(n+int64(i)) {
			return i, fmt.Errorf("byte %d is wrong", n+int64(i))
		}
	}
	p.received.Add(int64(len(b)))
	return len(b), nil
}

// TestOffloads moves data with all offloads, without each, and without any, on
// both kinds of interfaces.
func TestOffloads(t *testing.T) {
	testenv.Long(t)
	all := stack.Offload(0)
	without := []stack.Offload{0}
	for o := stack.OffloadHeader; o <= stack.OffloadUDPGRO; o <<= 1 {
		all |= o
		without = append(without, o)
	}
	without = append(without, all, stack.OffloadTSO4|stack.OffloadTSO6)
	for _, kind := range kinds {
		for _, o := range without {
			t.Run(fmt.Sprintf("%s without %#x", kind, o), func(t *testing.T) {
				a, b := plugged(t, stack.Interface{Kind: kind, NoOffload: o})
				transfer(t, a, b, "10.0.0.1:0", transferSize)
				transfer(t, a, b, "[fc00::1]:0", transferSize)
				for _, s := range []*Stack{a, b} {
					f := s.Stats().Interfaces[0]
					if f.TxFrames == 0 || f.RxFrames == 0 || f.Err != nil {
						t.Errorf("%+v", f)
					}
				}
			})
		}
	}
}

// TestNoTUN opens a stack where there is no /dev/net/tun for this process.
func TestNoTUN(t *testing.T) {
	testenv.Long(t)
	s := open(t, "")
	cmd := s.Command(t.Context(), os.Args[0], "-test.run=^TestNoTUNChild$", "-test.v")
	cmd.Env = append(os.Environ(), "VDESTACK_NO_TUN=1")
	cmd.Binds = []stack.Bind{{From: "/dev/null", To: "/dev/net/tun"}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestNoTUNChild(t *testing.T) {
	if os.Getenv("VDESTACK_NO_TUN") == "" {
		return // it is the child of TestNoTUN
	}
	if _, err := New(context.Background(), Config{Interfaces: []Interface{{Kind: stack.KindTAP}}}); err == nil {
		t.Error("there is a TAP")
	}
	a, b := plugged(t, stack.Interface{})
	transfer(t, a, b, "10.0.0.1:0", transferSize)
}
