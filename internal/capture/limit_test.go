package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// A closer is a file that knows how often it was closed.
type closer struct {
	bytes.Buffer
	closed int
	err    error // of Close
}

func (c *closer) Close() error {
	c.closed++
	return c.err
}

// TestLimit writes a recording in pieces of any size.
func TestLimit(t *testing.T) {
	var all bytes.Buffer
	record(t, &all)
	whole := read(t, all.Bytes())
	size := int64(all.Len())
	for _, tt := range []struct {
		limits Limits
		before int64
		frames int // -1: all, and the statistics
	}{
		{Limits{}, 0, -1},
		{Limits{Frames: 100, Bytes: size}, 0, -1},
		{Limits{Bytes: size + 7}, 7, -1},
		{Limits{Bytes: size}, 1, len(whole.Packets)},
		{Limits{Frames: 1}, 0, 1},
		{Limits{Frames: 5, Bytes: size}, 0, 5},
		{Limits{Bytes: 11}, 0, 0},
		{Limits{Bytes: size - 1}, size, 0},
	} {
		for range 20 {
			var file closer
			w := Limit(&file, tt.before, tt.limits)
			for rest := all.Bytes(); len(rest) > 0; {
				n := 1 + rand.IntN(min(len(rest), 3000))
				if got, err := w.Write(rest[:n]); err == io.EOF && got <= n {
					break
				} else if err != nil || got != n {
					t.Fatalf("%+v: %d, %v", tt, got, err)
				}
				rest = rest[n:]
			}
			got := read(t, file.Bytes())
			want := tt.frames
			if want < 0 {
				want = len(whole.Packets)
			}
			if closed := file.closed == 1; len(got.Packets) != want || closed != (tt.frames >= 0) || !bytes.HasPrefix(all.Bytes(), file.Bytes()) {
				t.Fatalf("%+v: %d frames of %d, closed %d times", tt, len(got.Packets), len(whole.Packets), file.closed)
			}
			if end := len(got.Interfaces) == 2 && got.Interfaces[1].Closed; end != (tt.frames < 0) {
				t.Fatalf("%+v: statistics: %t", tt, end)
			}
			if err := errors.Join(w.Close(), w.Close()); err != nil || file.closed != 1 {
				t.Errorf("closed %d times, %v", file.closed, err)
			}
			if n, err := w.Write(all.Bytes()); n != 0 || err != io.EOF {
				t.Errorf("after Close: %d, %v", n, err)
			}
		}
	}
}

// TestLimitErrors has files that cannot be written.
func TestLimitErrors(t *testing.T) {
	full := errors.New("the disk is full")
	file := &closer{err: full}
	if err := Limit(file, 0, Limits{}).Close(); err != full {
		t.Errorf("got %v", err)
	}
	w := Limit(struct {
		io.Writer
		io.Closer
	}{badWriter(func() { panic("no") }), file}, 0, Limits{})
	i := Open(w, "vde0", "", nil)
	if err := i.Close(); err == nil || !strings.Contains(err.Error(), "panicked: no") {
		t.Errorf("got %v", err)
	}
}

// TestEnough ends recordings whose writers want no more, without an error.
func TestEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := func(err error) { t.Error(err) }
		var file closer
		w := Limit(&file, 0, Limits{Time: time.Minute})
		a, b := Open(w, "vde0", "", failed), Open(w, "vde1", "", failed)
		time.Sleep(time.Minute - time.Second)
		a.Frame(true, packettest.Frame(60))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if file.closed != 1 {
			t.Error("the file is open")
		}
		for range 3 {
			b.Frame(true, packettest.Frame(60))
			synctest.Wait()
		}
		c := Open(w, "vde2", "", failed)
		c.Frame(true, packettest.Frame(60))
		dropped := uint64(0)
		for _, i := range []*Interface{a, b, c} {
			_, n := i.Counts()
			dropped += n
			if i.Recording() {
				t.Error("it has not ended")
			}
		}
		if dropped != 0 || len(a.r.pending) > 0 {
			t.Errorf("%d bytes kept, or frames count as dropped", len(a.r.pending))
		}
		testenv.Check(t, errors.Join(a.Err(), a.Close(), b.Close(), c.Close(), w.Close()))
		if f := read(t, file.Bytes()); len(f.Packets) != 1 || len(f.Interfaces) != 2 {
			t.Errorf("got %+v", f)
		}
	})
}

// TestCheck wants only files that can be continued.
func TestCheck(t *testing.T) {
	var all bytes.Buffer
	record(t, &all)
	big := appendSection(nil) // by a program of the other order
	n := len(big)
	for i := 4; i < 12; i += 4 {
		binary.BigEndian.PutUint32(big[i:], binary.LittleEndian.Uint32(big[i:]))
	}
	for _, tt := range []struct{ name, file, err string }{
		{"empty", "", ""},
		{"one", all.String(), ""},
		{"two", all.String() + all.String(), ""},
		{"other order", string(big) + all.String(), ""},
		{"cut", all.String()[:all.Len()-1], "it ends within a block (truncate -s "},
		{"cut early", all.String()[:9], "truncate -s 0 "},
		{"cut in the second", all.String() + "\n", "truncate -s "},
		{"text", "hello", "it is not in the format pcapng"},
		{"longer text", "hello, this is a text", "it is not in the format pcapng"},
		{"pcap", "\xd4\xc3\xb2\xa1\x02\x00\x04\x00\x00\x00\x00\x00", "it is not in the format pcapng"},
		{"no length", string(big[:n]) + "\x00\x00\x00\x01\x00\x00\x00\x07\x00\x00\x00\x07", "not in the format pcapng from byte "},
		{"another section", all.String() + "\n\r\r\n\x1c\x00\x00\x00abcd", "it is not in the format pcapng"},
	} {
		size, err := Check(strings.NewReader(tt.file))
		if tt.err == "" && (err != nil || size != int64(len(tt.file))) || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%s: got %d, %v, want %s", tt.name, size, err, tt.err)
		}
	}
	bad := errors.New("bad disk")
	if _, err := Check(io.MultiReader(strings.NewReader(all.String()), iotestErr{bad})); err != bad {
		t.Errorf("got %v", err)
	}
}

type iotestErr struct{ error }

func (r iotestErr) Read([]byte) (int, error) { return 0, r.error }

// FuzzLimit has writers of anything, which stay within their limits.
func FuzzLimit(f *testing.F) {
	var all bytes.Buffer
	i := Open(&all, "vde0", "", nil)
	i.Frame(true, packettest.Frame(60))
	i.Close()
	f.Add(all.Bytes(), 60, int64(1), int64(200))
	f.Add(appendSection(nil), 3, int64(0), int64(0))
	f.Add(make([]byte, 40), 9, int64(0), int64(0))
	f.Fuzz(func(t *testing.T, b []byte, n int, frames, size int64) {
		Check(bytes.NewReader(b))
		var file closer
		w := Limit(&file, 0, Limits{Frames: frames, Bytes: size})
		for len(b) > 0 {
			part := b[:min(max(n, 1), len(b))]
			if _, err := w.Write(part); err != nil {
				break
			}
			b = b[len(part):]
		}
		if size > 0 && int64(file.Len()) > size {
			t.Errorf("%d bytes, want up to %d", file.Len(), size)
		}
	})
}
