package stack_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
func transfer(t *testing.T, a, b *Stack, addr string, size int) {
	t.Helper()
	ln := testenv.Listen(t, a, "tcp", addr)
	errs := make(chan error, 1)
	go func() {
		c, err := b.DialContext(t.Context(), "tcp", ln.Addr().String())
		if err == nil {
			_, err = io.Copy(c, io.LimitReader(pattern{new(int)}, int64(size)))
			c.Close()
		}
		errs <- err
	}()
	c := testenv.Must(ln.Accept())(t)
	defer c.Close()
	testenv.Check(t, checkPattern(c, size))
	testenv.Check(t, <-errs)
}

// checkPattern reads the given bytes of a pattern and the end.
func checkPattern(r io.Reader, size int) error {
	buf := make([]byte, 64<<10)
	for n := 0; ; {
		k, err := r.Read(buf)
		for i := range buf[:k] {
			if buf[i] != byte((n+i)*7/3) {
				return fmt.Errorf("byte %d is wrong", n+i)
			}
		}
		n += k
		if err == io.EOF && n == size {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%d of %d bytes: %w", n, size, err)
		}
	}
}

// pattern is an endless stream of bytes that are different from place to place.
type pattern struct{ n *int }

func (p pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte((*p.n + i) * 7 / 3)
	}
	*p.n += len(b)
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
