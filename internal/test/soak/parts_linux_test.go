package soak

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// TestPayload changes what is received.
func TestPayload(t *testing.T) {
	s := &soak{}
	for _, size := range []int{0, 1, chunk, maxPayload} {
		var b bytes.Buffer
		testenv.Check(t, s.sendPayload(&b, s.rand(1), size))
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
	p := (&task{soak: s, rng: s.rand(1)}).payload(100)
	testenv.Check(t, checkPacket(p))
	for name, p := range map[string][]byte{"cut off": p[:90], "longer": append(p, 0), "empty": nil} {
		if err := checkPacket(p); !errors.Is(err, errCorrupt) {
			t.Errorf("packet, %s: %v", name, err)
		}
	}
}

// TestUsage leaves things behind.
func TestUsage(t *testing.T) {
	s := &soak{TB: t, dir: t.TempDir(), token: t.Name()}
	before := s.usage()
	if e := s.excess(before); e != "" {
		t.Errorf("nothing was left behind: %s", e)
	}
	t.Setenv(tokenName, s.token)
	start(t, "cat")
	testenv.Check(t, os.WriteFile(s.dir+"/ptp", nil, 0o600))
	// Neighbouring mappings with the same access would be one.
	page := os.Getpagesize()
	mem := testenv.Must(unix.Mmap(-1, 0, 100*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON))(t)
	defer unix.Munmap(mem)
	for at := 0; at < len(mem); at += 2 * page {
		testenv.Check(t, unix.Mprotect(mem[at:at+page], unix.PROT_READ))
	}
	// A process has the token a moment later, when it has executed its program.
	for _, want := range []string{"mappings", "stray process", "file"} {
		var list string
		testenv.Eventually(t, want, func() bool {
			list = s.excess(before)
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

// TestHang finds an operation that hangs.
func TestHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, end, begin := &soak{TB: t, hung: make(chan *task)}, make(chan error), time.Now()
		go s.perform(&operation{name: "hang", do: func(*task) error { return <-end }}, nil)
		if hung, took := <-s.hung, time.Since(begin); hung.name != "hang" || took != opLimit {
			t.Errorf("%v hangs after %v, want hang after %v", hung, took, opLimit)
		}
		end <- nil
	})
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
