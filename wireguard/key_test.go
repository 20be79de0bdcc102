package wireguard

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

// The key pair is the one of Alice in RFC 7748, section 6.1.
const (
	aliceText   = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo="
	alicePublic = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
)

func TestKeyPublic(t *testing.T) {
	k := testenv.Must(ParseKey(aliceText))(t)
	if got := k.Public().String(); got != alicePublic {
		t.Errorf("public key %s, want %s", got, alicePublic)
	}
	if got := k.Reveal(); got != aliceText {
		t.Errorf("Reveal %s, want %s", got, aliceText)
	}
	if p := testenv.Must(ParsePublicKey(alicePublic))(t); p != k.Public() {
		t.Errorf("parsed %s, want %s", p, k.Public())
	}
	if a, b := NewKey(), NewKey(); a.IsZero() || a.Equal(b) || !a.Equal(a) {
		t.Error("new keys are none, or the same")
	}
	var none Key
	if !none.IsZero() || !none.Equal(Key{}) || none.Equal(k) || none.Public() != (PublicKey{}) || none.Reveal() != "" {
		t.Error("the zero Key is one")
	}
}

func TestKeyInvalid(t *testing.T) {
	for _, text := range []string{
		"", "x", aliceText[:43], aliceText + "=", aliceText + "A", " " + aliceText, aliceText[:40] + "\n" + aliceText[40:],
		"dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCp=", // bits behind the last byte
		strings.Repeat("A", 44), hex.EncodeToString(make([]byte, 32)),
	} {
		if k, err := ParseKey(text); err == nil || !k.IsZero() {
			t.Errorf("%q is taken for a key", text)
		}
		if _, err := ParsePublicKey(text); err == nil {
			t.Errorf("%q is taken for a public key", text)
		}
	}
}

// leaks fails the test if a text has a secret in any form.
func leaks(t *testing.T, what, text string, secrets ...Key) {
	t.Helper()
	for _, k := range secrets {
		raw := [keyLen]byte(k.bytes())
		for _, form := range []string{
			base64.StdEncoding.EncodeToString(raw[:]), base64.RawURLEncoding.EncodeToString(raw[:]),
			hex.EncodeToString(raw[:]), string(raw[:]),
			strings.Trim(fmt.Sprint(raw), "[]"), strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", raw), "[32]uint8{"), "}"),
			strings.Trim(fmt.Sprintf("%x", raw[:8]), "[]"), k.Reveal()[:12],
		} {
			if strings.Contains(strings.ToLower(text), strings.ToLower(form)) {
				t.Errorf("%s shows a key", what)
			}
		}
	}
}

func TestKeyHidden(t *testing.T) {
	k := testenv.Must(ParseKey(aliceText))(t)
	type hidden struct{ k Key }
	c := Config{PrivateKey: k, Peers: []Peer{{PresharedKey: k}}}
	for what, v := range map[string]any{
		"Key": k, "*Key": &k, "Config": c, "*Config": &c, "hidden": hidden{k}, "*hidden": &hidden{k},
		"list": []Key{k}, "map": map[string]Key{"k": k}, "*Tunnel": &Tunnel{peers: c.Peers},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%p", "%t", "%c", "%U", "%o", "%b"} {
			leaks(t, what+" as "+verb, fmt.Sprintf(verb, v), k)
		}
		var b bytes.Buffer
		for _, h := range []slog.Handler{slog.NewTextHandler(&b, nil), slog.NewJSONHandler(&b, nil)} {
			slog.New(h).Info("x", "v", v)
		}
		leaks(t, what+" in a log", b.String(), k)
	}
	b := testenv.Must(json.Marshal(c))(t)
	leaks(t, "JSON", string(b), k)
	if !strings.Contains(string(b), `"(key)"`) {
		t.Errorf("JSON has no (key): %s", b)
	}
	var back Config
	if err := json.Unmarshal(b, &back); err == nil {
		t.Error("what hides a key is taken for one")
	}
	var parsed struct{ K Key }
	testenv.Check(t, json.Unmarshal([]byte(`{"K":"`+aliceText+`"}`), &parsed))
	if !parsed.K.Equal(k) {
		t.Error("UnmarshalText has another key")
	}
}
