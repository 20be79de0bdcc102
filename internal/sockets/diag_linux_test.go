package sockets

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

//go:embed testdata/sock_diag.txt
var diagCapture string

func capturedDumps(t testing.TB) (all [][]byte) {
	t.Helper()
	for line := range strings.Lines(diagCapture) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		b, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

// TestDecode reads what the kernel has sent of a listener and a connection, over IPv4 and
// IPv6.
func TestDecode(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		t.Skip("the bytes are little-endian")
	}
	var got []string
	for i, b := range capturedDumps(t) {
		messages, end, err := decode(b)
		if want := i%2 == 1; end != want || err != nil {
			t.Errorf("datagram %d: end is %v, %v", i, end, err)
		}
		for _, m := range messages {
			s := describe(m, unix.IPPROTO_TCP)
			got = append(got, fmt.Sprint(s.Local, " ", s.Remote, " ", s.Listening, s.Open))
		}
	}
	slices.Sort(got)
	want := []string{
		"127.0.0.1:37240 127.0.0.1:80 false true", "127.0.0.1:80 0.0.0.0:0 true true", "127.0.0.1:80 127.0.0.1:37240 false false",
		"[::1]:33260 [::1]:81 false true", "[::1]:81 [::1]:33260 false false", "[::1]:81 [::]:0 true true",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestDecodeError has answers that are errors, of the dump and of another request, and
// messages that are cut off.
func TestDecodeError(t *testing.T) {
	message := func(typ uint16, seq uint32, body ...byte) []byte {
		b := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
		b = binary.NativeEndian.AppendUint16(b, typ)
		b = binary.NativeEndian.AppendUint16(b, 0)
		b = binary.NativeEndian.AppendUint32(b, seq)
		return append(append(b, 0, 0, 0, 0), body...)
	}
	errno := unix.EPERM
	perm := binary.NativeEndian.AppendUint32(nil, -uint32(errno))
	for _, tt := range []struct {
		name string
		in   []byte
		end  bool
		err  error
	}{
		{"of the dump", message(unix.NLMSG_ERROR, dumpSeq, perm...), true, unix.EPERM},
		{"of the dump, cut off", message(unix.NLMSG_ERROR, dumpSeq), true, unix.EPROTO},
		{"of another request", message(unix.NLMSG_ERROR, 0, perm...), false, nil},
		{"a short message", message(sockDiagByFamily, dumpSeq, 1, 2, 3), false, nil},
	} {
		messages, end, err := decode(tt.in)
		if len(messages) > 0 || end != tt.end || !errors.Is(err, tt.err) {
			t.Errorf("%s: %d sockets, end %v, %v", tt.name, len(messages), end, err)
		}
	}
	if _, end, err := decode(message(sockDiagByFamily, dumpSeq, 1)[:unix.NLMSG_HDRLEN]); !end || err == nil {
		t.Errorf("a length beyond the datagram: end %v, %v", end, err)
	}
}

// FuzzDump finds every message where it lies in the datagram, in order.
func FuzzDump(f *testing.F) {
	for _, b := range capturedDumps(f) {
		f.Add(b)
	}
	f.Add([]byte("\x10\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		messages, _, _ := decode(b)
		if need := unix.NLMSG_HDRLEN + messageLen; len(messages) > (len(b)+3)/need {
			t.Fatalf("%d sockets in %d bytes", len(messages), len(b))
		}
		rest := b
		var again []byte // as the kernel writes them
		for _, m := range messages {
			i := bytes.Index(rest, m)
			if len(m) != messageLen || i < 0 {
				t.Fatalf("%x is not in %x", m, rest)
			}
			rest = rest[i+messageLen:]
			describe(m, unix.IPPROTO_UDP)
			again = binary.NativeEndian.AppendUint32(again, uint32(unix.NLMSG_HDRLEN+len(m)))
			again = binary.NativeEndian.AppendUint16(again, sockDiagByFamily)
			again = append(append(again, make([]byte, unix.NLMSG_HDRLEN-6)...), m...)
		}
		got, end, err := decode(again)
		if !bytes.Equal(bytes.Join(got, nil), bytes.Join(messages, nil)) || end || err != nil {
			t.Errorf("got %x, %v, %v, want %x", got, end, err, messages)
		}
	})
}

// FuzzStatus reads a file of /proc in which the name of the process is anybody's choice.
func FuzzStatus(f *testing.F) {
	f.Add("Name:\ta\nFDSize:\t64\n", 64)
	f.Add("", 0)
	f.Fuzz(func(t *testing.T, text string, n int) {
		if size, ok := fdSize(text); ok && size <= 0 {
			t.Errorf("a table of %d descriptors", size)
		}
		name := strings.ReplaceAll(text, "\n", `\n`) // as the kernel writes it
		if size, ok := fdSize(fmt.Sprintf("Name:\t%s\nFDSize:\t%d\nUid:\t0\n", name, n)); ok != (n > 0) || ok && size != n {
			t.Errorf("table of %d, %v, want %d", size, ok, n)
		}
	})
}
