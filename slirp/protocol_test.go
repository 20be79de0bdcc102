package slirp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
)

// dhcpMsg returns a message of a guest.
func dhcpMsg(guest byte, typ byte, options ...byte) []byte {
	b := make([]byte, dhcpHeaderLen)
	b[0], b[1], b[2] = 1, 1, 6
	copy(b[4:], "xid!")
	copy(b[28:], []byte{2, 0, 0, 0, 0, guest})
	b = append(b, dhcpCookie...)
	if typ != 0 {
		b = append(b, optType, 1, typ)
	}
	return append(append(b, options...), optEnd)
}

func requested(last byte) []byte { return []byte{optRequested, 4, 10, 0, 2, last} }

// withClient sets the guest's current address in a message.
func withClient(msg []byte, last byte) []byte {
	copy(msg[12:], []byte{10, 0, 2, last})
	return msg
}

func TestLeases(t *testing.T) {
	var ls leases
	ls.init(testenv.Must(parseText(t, "slirp:///addr=10.0.2.2%2f28/dhcp=10.0.2.11"))(t))
	now := time.Unix(1e9, 0)
	for _, tt := range []struct {
		what  string
		msg   []byte
		after time.Duration
		typ   byte
		addr  string
	}{
		{"first", dhcpMsg(1, dhcpDiscover), 0, dhcpOffer, "10.0.2.11"},
		{"second, while the first thinks", dhcpMsg(2, dhcpDiscover), 0, dhcpOffer, "10.0.2.12"},
		{"first takes it", dhcpMsg(1, dhcpRequest, requested(11)...), 0, dhcpAck, "10.0.2.11"},
		{"first asks again", dhcpMsg(1, dhcpDiscover), 0, dhcpOffer, "10.0.2.11"},
		{"what another has", dhcpMsg(2, dhcpRequest, requested(11)...), 0, dhcpNak, "0.0.0.0"},
		{"that of the host", dhcpMsg(2, dhcpRequest, requested(2)...), 0, dhcpNak, "0.0.0.0"},
		{"from another network", dhcpMsg(2, dhcpRequest, optRequested, 4, 192, 168, 1, 7), 0, dhcpNak, "0.0.0.0"},
		{"for another server", dhcpMsg(2, dhcpRequest, optServer, 4, 10, 0, 2, 9), 0, 0, "no answer"},
		{"wants the last", dhcpMsg(3, dhcpDiscover, requested(14)...), 0, dhcpOffer, "10.0.2.14"},
		{"wants the broadcast address", dhcpMsg(4, dhcpDiscover, requested(15)...), 0, dhcpOffer, "10.0.2.13"},
		{"BOOTP, full", dhcpMsg(5, 0), 0, 0, "no answer"},
		{"an offer that nobody took", dhcpMsg(5, 0), 2 * time.Minute, 0, "10.0.2.12"},
		{"inform", dhcpMsg(1, dhcpInform), 0, dhcpAck, "0.0.0.0"},
		{"decline", dhcpMsg(1, dhcpDecline, requested(11)...), 0, 0, "no answer"},
		{"after it", dhcpMsg(1, dhcpDiscover), 0, dhcpOffer, "10.0.2.13"},
		{"days later", dhcpMsg(6, dhcpDiscover), 48 * time.Hour, dhcpOffer, "10.0.2.11"},
		{"release", withClient(dhcpMsg(6, dhcpRelease), 11), 0, 0, "no answer"},
		{"after it", dhcpMsg(7, dhcpDiscover), 0, dhcpOffer, "10.0.2.11"},
		{"renewal", withClient(dhcpMsg(7, dhcpRequest), 11), 0, dhcpAck, "10.0.2.11"},
		{"short", dhcpMsg(1, dhcpDiscover)[:dhcpHeaderLen-1], 0, 0, "no answer"},
		{"cut off", dhcpMsg(1, dhcpDiscover, 99, 200), 0, 0, "no answer"},
	} {
		now = now.Add(tt.after)
		typ, addr := byte(0), "no answer"
		if b := ls.answer(tt.msg, now); b != nil {
			if len(b) != dhcpReplyLen || string(b[4:8]) != "xid!" || b[0] != 2 {
				t.Errorf("%s: answer %x", tt.what, b)
			}
			if b[dhcpHeaderLen+4] == optType {
				typ = b[dhcpHeaderLen+6]
			}
			addr = netip.AddrFrom4([4]byte(b[16:])).String()
		}
		if typ != tt.typ || tt.addr != addr {
			t.Errorf("%s: got %d, %s, want %d, %s", tt.what, typ, addr, tt.typ, tt.addr)
		}
	}
}

func FuzzDHCP(f *testing.F) {
	f.Add(dhcpMsg(1, dhcpDiscover))
	f.Add(dhcpMsg(1, dhcpRequest, requested(15)...))
	f.Add(dhcpMsg(1, 0)[:dhcpHeaderLen])
	cfg := testenv.Must(parseText(f, "slirp:///vdomainname=d/bootfile=b"))(f)
	f.Fuzz(func(t *testing.T, msg []byte) {
		var ls leases
		ls.init(cfg)
		for range 2 {
			if b := ls.answer(msg, time.Unix(1e9, 0)); b != nil && len(b) != dhcpReplyLen {
				t.Errorf("%d bytes", len(b))
			}
		}
		for a := range ls.table {
			if !usable(cfg.host, a) || cfg.own(a) || a.Less(cfg.dhcp) {
				t.Errorf("%s was given away", a)
			}
		}
	})
}

// TestTFTPMessages plays a guest that asks for blocks in its own order.
func TestTFTPMessages(t *testing.T) {
	dir := t.TempDir()
	data := bytes.Repeat([]byte("0123456789"), 150)
	os.WriteFile(filepath.Join(dir, "f"), data, 0o644)
	var s tftp
	testenv.Check(t, s.open(dir))
	defer s.close()
	guest := netip.MustParseAddrPort("10.0.2.15:1000")
	ack := func(n uint16) []byte { return s.answer(guest, binary.BigEndian.AppendUint16([]byte{0, tftpAck}, n)) }
	want := func(what string, got []byte, head string, data []byte) {
		t.Helper()
		if string(got) != head+string(data) {
			t.Errorf("%s: got %.40q, want %q and %.40q", what, got, head, data)
		}
	}
	want("no file", ack(0), "", nil)
	want("request", s.answer(guest, []byte("\x00\x01f\x00octet\x00")), "\x00\x03\x00\x01", data[:512])
	want("ack 0", ack(0), "\x00\x03\x00\x01", data[:512])
	want("ack 1", ack(1), "\x00\x03\x00\x02", data[512:1024])
	want("ack 1 again", ack(1), "\x00\x03\x00\x02", data[512:1024])
	want("ack 7", ack(7), "", nil)
	want("ack 2", ack(2), "\x00\x03\x00\x03", data[1024:])
	want("ack 3", ack(3), "", nil)
	want("after the end", ack(3), "", nil)
	want("options", s.answer(guest, []byte("\x00\x01/f\x00OCTET\x00blksize\x00900\x00tsize\x000\x00odd\x001\x00")), "\x00\x06blksize\x00900\x00tsize\x001500\x00", nil)
	want("their ack", ack(0), "\x00\x03\x00\x01", data[:900])
	want("error", s.answer(guest, []byte("\x00\x05\x00\x00stop\x00")), "", nil)
	want("after it", ack(1), "", nil)
	want("writing", s.answer(guest, []byte("\x00\x02f\x00octet\x00")), "\x00\x05\x00\x02this server is for reading\x00", nil)
	want("mode", s.answer(guest, []byte("\x00\x01f\x00mail\x00")), "\x00\x05\x00\x04unknown mode\x00", nil)
	want("no mode", s.answer(guest, []byte("\x00\x01f\x00")), "\x00\x05\x00\x04no request\x00", nil)
	for i := range uint16(3 * tftpMax) {
		s.answer(netip.AddrPortFrom(guest.Addr(), 2000+i), []byte("\x00\x01f\x00octet\x00"))
	}
	if n := len(s.files); n > tftpMax {
		t.Errorf("%d files are open", n)
	}
}

func FuzzTFTP(f *testing.F) {
	f.Add([]byte("\x00\x01f\x00octet\x00blksize\x00900\x00tsize\x000\x00"), uint16(0))
	f.Add([]byte("\x00\x01../f\x00netascii\x00"), uint16(1))
	dir := f.TempDir()
	os.WriteFile(filepath.Join(dir, "f"), make([]byte, 3000), 0o644)
	f.Fuzz(func(t *testing.T, msg []byte, number uint16) {
		var s tftp
		testenv.Check(t, s.open(dir))
		defer s.close()
		guest := netip.MustParseAddrPort("10.0.2.15:1000")
		s.answer(guest, msg)
		for range 3 {
			if b := s.answer(guest, binary.BigEndian.AppendUint16([]byte{0, tftpAck}, number)); len(b) > 4+tftpMaxBlock {
				t.Errorf("%d bytes", len(b))
			}
		}
	})
}
