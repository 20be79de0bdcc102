package main

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// TestSoak soaks for some seconds.
func TestSoak(t *testing.T) {
	testenv.Long(t)
	testenv.Need(t, "vde_switch", "vde2")
	testenv.Need(t, "vde_plug", "vdeplug")
	if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		testenv.Skip(t, "%v", err)
	} else {
		f.Close()
	}
	var out bytes.Buffer
	ok := run(t.Context(), config{duration: 5 * time.Second, seed: 1, out: &out})
	t.Log(out.String())
	if !ok {
		t.Error("something is wrong")
	}
}

// TestPayload changes what is received.
func TestPayload(t *testing.T) {
	s := &soak{}
	for _, size := range []int{0, 1, chunk, maxPayload} {
		var b bytes.Buffer
		testenv.Check(t, s.sendPayload(&b, rand.New(rand.NewPCG(1, 2)), size))
		sent := b.Bytes()
		if err := receivePayload(bytes.NewReader(sent)); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		if err := receivePayload(bytes.NewReader(sent[:len(sent)-1])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes, cut off: %v", size, err)
		}
		sent[len(sent)/2] ^= 1
		if err := receivePayload(bytes.NewReader(sent)); !errors.Is(err, errCorrupt) {
			t.Errorf("%d bytes, one of them changed: %v", size, err)
		}
	}
	p := makePacket(rand.New(rand.NewPCG(1, 2)), 7, 100)
	if n, err := checkPacket(p); n != 7 || err != nil {
		t.Errorf("packet: got %d, %v", n, err)
	}
	p[90] ^= 1
	if _, err := checkPacket(p); !errors.Is(err, errCorrupt) {
		t.Errorf("packet, one byte changed: %v", err)
	}
}

// TestUsage leaves things behind.
func TestUsage(t *testing.T) {
	s := &soak{dir: t.TempDir(), token: t.Name()}
	before := s.begin()
	if e := before.excess(s.usage()); len(e) > 0 {
		t.Errorf("nothing was left behind: %q", e)
	}
	f := testenv.Must(os.Open(os.DevNull))(t)
	defer f.Close()
	t.Setenv(tokenName, s.token)
	p := testenv.Must(start("sleep", "1000"))(t)
	defer p.kill()
	testenv.Check(t, os.WriteFile(s.dir+"/ptp", nil, 0o600))
	// Neighbouring mappings with the same access would be one.
	page := os.Getpagesize()
	mem := testenv.Must(unix.Mmap(-1, 0, 100*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON))(t)
	defer unix.Munmap(mem)
	for at := 0; at < len(mem); at += 2 * page {
		testenv.Check(t, unix.Mprotect(mem[at:at+page], unix.PROT_READ))
	}
	// A process has the token a moment later, when it has executed its program.
	for _, want := range []string{os.DevNull, "goroutines", "mappings", "child processes", "stray processes", "files"} {
		var list string
		testenv.Eventually(t, want, func() bool {
			list = strings.Join(before.excess(s.usage()), "\n")
			return strings.Contains(list, want)
		}, func() string { return list })
	}
}

// TestMappings counts mappings as a program with the race detector has them.
func TestMappings(t *testing.T) {
	const maps = `00400000-00500000 r-xp 00000000 fe:00 247278 /tmp/soak
00500000-00501000 rw-p 00100000 fe:00 247278 /tmp/soak
7fa08ac00000-7fa08ad00000 rw-p 00000000 00:00 0
7fa08afff000-7fa08b7ff000 rw-p 00000000 00:00 0
7fa08b7ff000-7fa08b800000 ---p 00000000 00:00 0
7fa094000000-7fa094021000 rw-p 00000000 00:00 0
7fa094021000-7fa098000000 ---p 00000000 00:00 0
7fa0e1c86000-7fa0e1c8b000 rw-p 00000000 00:00 0
`
	if got := mappings(maps); got != 2 { // the second and the last
		t.Errorf("got %d, want 2", got)
	}
}

// TestWatch finds a task that hangs among others.
func TestWatch(t *testing.T) {
	var w watched
	for range 3 {
		w.add(&task{start: time.Now()})
	}
	hung, gone := &task{start: time.Now().Add(-2 * opLimit)}, &task{}
	w.add(hung)
	w.add(gone)
	w.remove(gone)
	if got := w.watch(make(chan struct{})); got != hung {
		t.Errorf("got %p, want %p", got, hung)
	}
	over := make(chan struct{})
	close(over)
	w.remove(hung)
	if got := w.watch(over); got != nil {
		t.Errorf("nothing hangs: got %v", got)
	}
}

// TestExcused tells errors apart.
func TestExcused(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want bool
	}{
		{"closed", &net.OpError{Op: "dial", Err: net.ErrClosed}, true},
		{"reset", os.NewSyscallError("read", unix.ECONNRESET), true},
		{"both", errors.Join(net.ErrClosed, unix.ECONNRESET), true},
		{"one of both", wrap("reading", errors.Join(net.ErrClosed, unix.EFAULT)), false},
		{"no memory", unix.ENOMEM, false},
		{"text", errors.New("stack is closed"), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := excused(tt.err); got != tt.want {
				t.Errorf("excused(%v): got %v, want %v", tt.err, got, tt.want)
			}
		})
	}
}
