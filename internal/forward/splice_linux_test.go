package forward

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
)

// bulk is how much the program of TestSplice carries.
const bulk = 64 << 20

func init() { testenv.Programs["bulk"] = carryBulk }

// carryBulk carries a stream through a forward.
func carryBulk() {
	check := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	f, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	s := NewStreams(f, Config{Max: 1, Timeout: time.Minute, Dial: func(ctx context.Context, _ net.Addr) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	}})
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := net.Dial("tcp", s.Addr().String())
		check(err)
		buf := make([]byte, 1<<20)
		for range bulk / len(buf) {
			_, err := c.Write(buf)
			check(err)
		}
		check(c.Close())
	})
	c, err := l.Accept()
	check(err)
	n, err := io.Copy(io.Discard, c)
	check(err)
	if n != bulk {
		panic(n)
	}
	c.Close()
	wg.Wait()
	check(s.Close())
}

// TestSplice has strace see that the kernel moves all bytes from socket to socket, twice
// by splice.
func TestSplice(t *testing.T) {
	testenv.Long(t)
	trace := filepath.Join(t.TempDir(), "trace")
	exe := testenv.Must(os.Executable())(t)
	cmd := exec.CommandContext(testenv.Context(t), testenv.Need(t, "strace", "strace"), "-f", "-o", trace, "-e", "trace=splice", exe)
	cmd.Env = testenv.Program(t.Context(), t, "bulk").Env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var sum, calls int
	for _, m := range regexp.MustCompile(`splice.* = ([0-9]+)\n`).FindAllSubmatch(testenv.Must(os.ReadFile(trace))(t), -1) {
		n := testenv.Must(strconv.Atoi(string(m[1])))(t)
		sum, calls = sum+n, calls+1
	}
	if sum != 2*bulk {
		t.Errorf("%d calls of splice moved %d bytes, want %d", calls, sum, 2*bulk)
	}
	t.Logf("%d calls of splice, %d bytes", calls, sum)
}
