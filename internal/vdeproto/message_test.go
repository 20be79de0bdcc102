package vdeproto

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vdeproto/vdetest"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func TestRequest(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the bytes are those of a little-endian host")
	}
	for _, tt := range []struct {
		port int
		kind string
	}{{AnyPort, "00000000"}, {0, "01000000"}, {3, "00030000"}, {MaxPort, "00ffffff"}} {
		got := makeRequest(tt.port, "/tmp/sw/.11961-00000", "hello user=root pid=11961")
		want, err := hex.DecodeString("cefaedfe" + "03000000" + tt.kind + "0100" +
			"2f746d702f73772f2e31313936312d3030303030" + strings.Repeat("00", 88) +
			"68656c6c6f20757365723d726f6f74207069643d3131393631")
		testenv.Check(t, err)
		if len(got) != 147 || !bytes.Equal(got, want) {
			t.Errorf("port %d: got % x, want % x", tt.port, got, want)
		}
	}
}

func TestReply(t *testing.T) {
	long := "/" + strings.Repeat("x", 106)
	tests := []struct {
		name, path, err string
		reply           []byte
	}{
		{name: "path", reply: vdetest.Reply(1, "/run/sw/003.6"), path: "/run/sw/003.6"},
		{name: "longest path", reply: vdetest.Reply(1, long), path: long},
		{name: "bytes after the path", reply: vdetest.Reply(1, "/a\x00b"), path: "/a"},
		{name: "abstract", reply: vdetest.Reply(1, "\x00name"), path: "@name" + strings.Repeat("\x00", 103)},
		{name: "unnamed", reply: vdetest.Reply(1, ""), err: "empty address"},
		{name: "family", reply: vdetest.Reply(2, "/run/sw/003.6"), err: "family 2"},
		{name: "relative", reply: vdetest.Reply(1, "003.6"), err: `"003.6", which is not an absolute path`},
		{name: "no end", reply: vdetest.Reply(1, long+"x"), err: "not an absolute path"},
		{name: "nothing", err: "0 bytes, want 110"},
		{name: "short", reply: vdetest.Reply(1, "/a")[:20], err: "20 bytes, want 110"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path, err := parseReply(tt.reply)
			if tt.err != "" {
				plugtest.WantError(t, err, tt.err)
				return
			}
			if path != tt.path || err != nil {
				t.Errorf("got %q, %v, want %q", path, err, tt.path)
			}
		})
	}
}

// FuzzReply checks that only addresses are accepted that the kernel takes.
func FuzzReply(f *testing.F) {
	f.Add(vdetest.Reply(1, "/run/sw/003.6"))
	f.Add(vdetest.Reply(1, "\x00name"))
	f.Add(vdetest.Reply(7, ""))
	f.Add([]byte{1, 0, '/'})
	f.Fuzz(func(t *testing.T, b []byte) {
		path, err := parseReply(b)
		if err != nil {
			return
		}
		back := make([]byte, unixAddrLen)
		copy(back, b[:2])
		copy(back[2:], path)
		switch path[0] {
		case '@':
			back[2] = 0
		case '/':
			if strings.Contains(path, "\x00") || len(path) >= unixPathLen {
				t.Errorf("%q is no path", path)
			}
			copy(back[2+len(path):], b[2+len(path):]) // the bytes after the path do not count
			if b[2+len(path)] != 0 {
				t.Errorf("%q is not all of the path", path)
			}
		default:
			t.Errorf("%q is neither a path nor abstract", path)
		}
		if !bytes.Equal(back, b) {
			t.Errorf("% x became %q", b, path)
		}
	})
}

func TestDescribe(t *testing.T) {
	ctx := t.Context()
	t.Setenv("SSH_CLIENT", "")
	name := sockio.UserName(ctx)
	if got, want := describe(ctx, ""), fmt.Sprintf("vdestack user=%s pid=%d", name, os.Getpid()); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	t.Setenv("SSH_CLIENT", "192.0.2.1 5555 22")
	want := fmt.Sprintf("lab?1 user=%s pid=%d SSH=192.0.2.1", name, os.Getpid())
	if got := describe(ctx, "lab\n1"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	got := describe(ctx, "x"+strings.Repeat("ü", 100))
	if len(got) > maxDescription || len(got) < maxDescription-1 || !utf8.ValidString(got) {
		t.Errorf("got %d bytes: %q", len(got), got)
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if got := sockio.UserName(canceled); got != name && got != fmt.Sprint(os.Geteuid()) {
		t.Errorf("a name that is not there at once: got %q", got)
	}
}

// FuzzRequest parses any bytes as a request. A valid one, made and parsed again, is the same,
// except for bytes that do not matter.
func FuzzRequest(f *testing.F) {
	f.Add(makeRequest(AnyPort, "/tmp/sw/.11961-00000", "hello user=root pid=11961"))
	f.Add(makeRequest(0, "/tmp/vde.00001-00000", "x"+gsoMark))
	f.Add(makeRequest(MaxPort, "\x00"+strings.Repeat("y", 107), gsoMark+"z"))
	f.Add(makeRequest(3, "", ""))
	f.Add([]byte{0xce, 0xfa, 0xed, 0xfe})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseRequest(b)
		if err != nil {
			if got != (request{}) {
				t.Errorf("%+v with an error", got)
			}
			return
		}
		port := int(nativeUint32(b[8:]) >> 8)
		switch {
		case nativeUint32(b[8:])&0xff == typePort0:
			port = 0
		case port == 0:
			port = AnyPort
		}
		path := got.path
		if path[0] == '@' {
			path = "\x00" + path[1:]
		} else if strings.Contains(path, "\x00") || path[0] != '/' {
			t.Errorf("%q is no path", path)
		}
		again := makeRequest(port, path, string(b[requestLen:]))
		if parsed, err := parseRequest(again); err != nil || parsed != got {
			t.Errorf("got %+v, then %+v, %v", got, parsed, err)
		}
		// The bytes after the NUL of a path do not matter.
		n := min(14+len(path), requestLen)
		if !bytes.Equal(again[12:n], b[12:n]) || !bytes.Equal(again[requestLen:], b[requestLen:]) {
			t.Errorf("got % x, want % x", again, b)
		}
		if got.gso != bytes.HasSuffix(b[requestLen:], []byte(gsoMark)) {
			t.Errorf("GSO: %v", got.gso)
		}
	})
}
