package transform

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// agnoCapture has frames that another implementation of the ciphers has made.
//
//go:embed testdata/agno.txt
var agnoCapture string

const agnoTestType = 0xa6de

const agnoTestKey = "00112233445566778899aabbccddeeff"

var agnoTestTime = time.Unix(1700000000, 0)

func newAGNOTest(t testing.TB, key string, ethType uint16, now time.Time) *agno {
	t.Helper()
	k := testenv.Must(parseAGNOKey([]byte(key)))(t)
	a := NewAGNO(k, ethType).(*agno)
	a.now = func() time.Time { return now }
	return a
}

// TestAGNOForeign reads frames of another implementation of the ciphers.
func TestAGNOForeign(t *testing.T) {
	wires := plugtest.Captured(t, agnoCapture)
	payload := bytes.Repeat([]byte("vdestack"), 6)
	head := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
	for name, want := range map[string][]byte{
		"plain": append(append(bytes.Clone(head), 0x88, 0xb5), payload[:46]...),
		"whole": append(append(bytes.Clone(head), 8, 0), payload[:32]...),
	} {
		a := newAGNOTest(t, agnoTestKey, agnoTestType, agnoTestTime)
		p := packet.Packet{Data: bytes.Clone(wires[name])}
		if got := a.Decap(&p); got != Pass || !bytes.Equal(p.Data, want) {
			t.Errorf("%s: %d, got %x, want %x", name, got, p.Data, want)
		}
	}
}

func sealTest(t testing.TB, a *agno, packets ...packet.Packet) (wires [][]byte) {
	t.Helper()
	b := new(Batch)
	for i := range packets {
		if n := a.Encap(b, &packets[i]); n != 0 {
			t.Fatalf("%d frames dropped", n)
		}
	}
	for _, p := range b.Packets {
		wires = append(wires, p.Data)
	}
	return wires
}

// TestAGNO encrypts frames of all lengths, and decrypts them where the key and the
// time are right.
func TestAGNO(t *testing.T) {
	for _, ethType := range []uint16{agnoTestType, AGNOCopy, AGNORand, 0x0800} {
		for _, n := range []int{14, 15, 29, 30, 31, 60, 1514, ether.MaxFrame} {
			a := newAGNOTest(t, agnoTestKey, ethType, agnoTestTime)
			frame := plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), n)
			wires := sealTest(t, a, packet.Packet{Data: bytes.Clone(frame)})
			if len(wires) != 1 || len(wires[0]) != ether.HeaderLen+16+(n-ether.HeaderLen+15)/16*16 || !bytes.Equal(wires[0][:ether.AddrsLen], frame[:ether.AddrsLen]) {
				t.Fatalf("%d bytes became %x", n, wires)
			}
			typ := binary.BigEndian.Uint16(wires[0][ether.AddrsLen:])
			if ethType > AGNORand && typ != ethType || ethType == AGNOCopy && typ != 0x88b5 || typ < MinEtherType || typ > MaxEtherType {
				t.Errorf("type %#x, want %#x", typ, ethType)
			}
			for _, tt := range []struct {
				key  string
				late time.Duration
				want Action
			}{
				{agnoTestKey, 0, Pass},
				{agnoTestKey, 2 * time.Second, Pass},
				{agnoTestKey, 3 * time.Second, Drop},
				{agnoTestKey, -time.Second, Pass},
				{agnoTestKey, -2 * time.Second, Drop},
				{"01", 0, Ignore},
			} {
				b := newAGNOTest(t, tt.key, agnoTestType, agnoTestTime.Add(tt.late))
				p := packet.Packet{Data: bytes.Clone(wires[0])}
				got := b.Decap(&p)
				if got != tt.want || got == Pass && (!bytes.Equal(p.Data, frame) || p.Room != 16) {
					t.Errorf("%d bytes, key %s, %v late: %d, want %d: %.30x", n, tt.key, tt.late, got, tt.want, p.Data)
				}
			}
		}
	}
}

// TestAGNOPackets cuts packets before it encrypts them.
func TestAGNOPackets(t *testing.T) {
	a := newAGNOTest(t, agnoTestKey, agnoTestType, agnoTestTime)
	p := packettest.TCP(5, 1000)
	want := packettest.Frames(t, p)
	wires := sealTest(t, a, p)
	if len(wires) != len(want) {
		t.Fatalf("%d frames, want %d", len(wires), len(want))
	}
	for i, wire := range wires {
		p := packet.Packet{Data: wire}
		if a.Decap(&p) != Pass || !bytes.Equal(p.Data, want[i]) {
			t.Errorf("frame %d: got %.60x, want %.60x", i, p.Data, want[i])
		}
	}
	if p := packettest.TCP(5, 1000); a.Decap(&p) != Ignore {
		t.Error("took a packet that is no frame")
	}
}

func TestAGNOKey(t *testing.T) {
	for _, tt := range []struct{ text, want, err string }{
		{text: agnoTestKey, want: agnoTestKey},
		{text: "00:11:22:33:44:55:66:77 88-99-AA-BB-CC-DD-EE-FF\n", want: agnoTestKey},
		{text: "xyz" + agnoTestKey + "1234", want: agnoTestKey},
		{text: "7f", want: "7f000000000000000000000000000000"},
		{text: "7fe", want: "7fe00000000000000000000000000000"},
		{text: "7", err: "it has no key"},
		{text: "", err: "it has no key"},
		{text: "xyz\n", err: "hexadecimal digits"},
	} {
		got, err := parseAGNOKey([]byte(tt.text))
		if tt.err != "" {
			plugtest.WantError(t, err, tt.err)
			continue
		}
		want, _ := parseAGNOKey([]byte(tt.want))
		if err != nil || got != want {
			t.Errorf("%q: got %x, %v, want %s", tt.text, got, err, tt.want)
		}
	}
}

// FuzzAGNO decrypts any frame, sealed with the key or not.
func FuzzAGNO(f *testing.F) {
	a := newAGNOTest(f, agnoTestKey, agnoTestType, agnoTestTime)
	for _, wire := range plugtest.Captured(f, agnoCapture) {
		f.Add(wire, false)
		f.Add(wire[:len(wire)-3], false)
	}
	f.Add(append(make([]byte, ether.HeaderLen), "\x08\x00\xff\x00agno\x65\x53\xf1\x00abcdefgh"...), true)
	f.Fuzz(func(t *testing.T, wire []byte, sealed bool) {
		if sealed && len(wire) >= ether.HeaderLen+16 {
			a.block.Encrypt(wire[ether.HeaderLen:], wire[ether.HeaderLen:]) // any block
		}
		p := packet.Packet{Data: bytes.Clone(wire)}
		if a.Decap(&p) == Pass && (len(p.Data) < ether.HeaderLen || len(p.Data) > len(wire)-16 || !bytes.Equal(p.Data[:ether.AddrsLen], wire[:ether.AddrsLen])) {
			t.Fatalf("%x became %x", wire, p.Data)
		}
		if len(wire) < ether.HeaderLen || len(wire) > ether.MaxFrame {
			return
		}
		for _, out := range sealTest(t, a, packet.Packet{Data: bytes.Clone(wire)}) {
			back := packet.Packet{Data: out}
			if a.Decap(&back) != Pass || !bytes.Equal(back.Data, wire) {
				t.Fatalf("%x came back as %x", wire, back.Data)
			}
		}
	})
}

// FuzzAGNOKey reads any key file.
func FuzzAGNOKey(f *testing.F) {
	f.Add([]byte(agnoTestKey))
	f.Add([]byte("7F e"))
	f.Fuzz(func(t *testing.T, text []byte) {
		key, err := parseAGNOKey(text)
		digits := strings.Map(func(r rune) rune {
			if strings.ContainsRune("0123456789abcdefABCDEF", r) {
				return r
			}
			return -1
		}, string(text))
		if (err != nil) != (len(digits) < 2) {
			t.Fatalf("%q: %v", text, err)
		}
		again, _ := parseAGNOKey([]byte(digits))
		if key != again {
			t.Fatalf("%q: %x, and of the digits alone %x", text, key, again)
		}
	})
}
