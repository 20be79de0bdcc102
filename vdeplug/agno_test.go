package vdeplug

import (
	"bytes"
	_ "embed"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/transform"
)

func TestParseAGNO(t *testing.T) {
	t.Setenv("HOME", "/home/x")
	testParses(t, parseAGNO, agnoConfig{"/home/x/.vde_agno_key", agnoType}, []parseTest[agnoConfig]{
		{in: "agno://{vxvde://}", inner: "vxvde://"},
		{in: "agno:///etc/key[ethtype=copy]{vxvde://}", set: is(agnoConfig{"/etc/key", transform.AGNOCopy}), inner: "vxvde://"},
		{in: "agno://~/key[ethtype=rand]{vde://a[b]}", set: is(agnoConfig{"/home/x/key", transform.AGNORand}), inner: "vde://a[b]"},
		{in: "agno://[ethtype=ipv4]", set: is(agnoConfig{"/home/x/.vde_agno_key", 0x0800})},
		{in: "agno://[ethtype=ipv6]", set: is(agnoConfig{"/home/x/.vde_agno_key", 0x86dd})},
		{in: "agno://[ethtype=0x600]", set: is(agnoConfig{"/home/x/.vde_agno_key", 0x600})},
		{in: "agno://[ethtype=65534]", set: is(agnoConfig{"/home/x/.vde_agno_key", 0xfffe})},

		{in: "agno://key", err: `key file "key": must begin with "/" or "~/"`},
		{in: "agno://~user/key", err: `key file "~user/key": must begin`},
		{in: "agno:///k[ethtype=0x5ff]", err: `agno option "ethtype=0x5ff": must be copy, ipv4, ipv6, rand or a number from 0x600 to 0xfffe`},
		{in: "agno:///k[ethtype=65535]", err: "must be copy"},
		{in: "agno:///k[ethtype]", err: "must be copy"},
		{in: "agno:///k[key=1]", err: `unknown (have ethtype)`},
	})
	t.Setenv("HOME", "")
	wantOpenError(t, "agno://{null://}", `key file "~/.vde_agno_key": HOME is not set`)
	wantOpenError(t, "agno:///nowhere/key{null://}", "key file: open /nowhere/key:")
	wantOpenError(t, "agno:///{null://}", "key file: open /: not a regular file")
}

// agnoVNL returns a locator on a network with a key file of its own.
func agnoVNL(t *testing.T, inner string) string {
	t.Helper()
	key := writeFile(t, filepath.Join(t.TempDir(), "key"), "00112233445566778899aabbccddeeff\n")
	return "agno://" + key + "{" + inner + "}"
}

// TestAGNOOthers has a station without the key on the network. It cannot read what the
// others send, and its own frames are ignored.
func TestAGNOOthers(t *testing.T) {
	testenv.NoLeaks(t)
	vnl := agnoVNL(t, "vlan://7{mem://agno}")
	a, b, other := openInbox(t, vnl), openInbox(t, strings.Replace(vnl, "{", "[ethtype=rand]{", 1)), openInbox(t, "vlan://7{mem://agno}")
	frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 100)
	plugtest.Deliver(t, a, b, frame)
	if got := other.Next(t); bytes.Contains(got, frame[ether.HeaderLen:ether.HeaderLen+8]) {
		t.Errorf("sent in clear: %x", got)
	}
	plugtest.Send(t, other, frame)
	plugtest.Send(t, b, frame)
	a.WantNext(t, frame)
	wantDrops(t, a.Conn, Drops{})
}
