package wireguard

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const keyLen = 32

// errKey says what is wrong with a key without showing anything of it.
var errKey = errors.New("not a key: it is 32 bytes in base64, 44 characters that end with =, as of wg genkey")

// A Key is a private or a preshared key. The zero Key is none. Package fmt, String and
// MarshalText show "(key)" in its place, so it does not reach logs and errors; [Key.Reveal]
// returns it.
type Key struct{ b **[keyLen]byte } // fmt does not call methods of fields that are not exported, but follows one pointer only

func makeKey(b [keyLen]byte) Key {
	if b == [keyLen]byte{} {
		return Key{}
	}
	p := &b
	return Key{&p}
}

// NewKey returns a random key, private or preshared.
func NewKey() Key {
	var b [keyLen]byte
	rand.Read(b[:]) // does not fail
	return makeKey(b)
}

// ParseKey parses a key in base64, as "wg genkey" writes it. Its errors do not quote the text.
func ParseKey(text string) (Key, error) {
	b, err := decodeKey(text)
	if err != nil {
		return Key{}, err
	}
	return makeKey(b), nil
}

func decodeKey(text string) (b [keyLen]byte, err error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != keyLen || strings.ContainsAny(text, "\r\n") {
		return b, errKey
	}
	return [keyLen]byte(raw), nil
}

// bytes returns the key; zeros for none.
func (k Key) bytes() []byte {
	if k.b == nil {
		return make([]byte, keyLen)
	}
	return (*k.b)[:]
}

// IsZero reports whether there is no key. One of zeros means the same, to WireGuard too.
func (k Key) IsZero() bool { return k.b == nil }

// Equal reports whether two keys are the same.
func (k Key) Equal(other Key) bool {
	return subtle.ConstantTimeCompare(k.bytes(), other.bytes()) == 1
}

// Public returns the public key of a private one, and the zero PublicKey of none.
func (k Key) Public() PublicKey {
	if k.IsZero() {
		return PublicKey{}
	}
	p, err := ecdh.X25519().NewPrivateKey(k.bytes())
	if err != nil {
		return PublicKey{} // only for another length
	}
	return PublicKey(p.PublicKey().Bytes())
}

// Reveal returns the key in base64, for a configuration file.
func (k Key) Reveal() string {
	if k.IsZero() {
		return ""
	}
	return base64.StdEncoding.EncodeToString(k.bytes())
}

// String returns "(key)", or "(none)".
func (k Key) String() string {
	if k.IsZero() {
		return "(none)"
	}
	return "(key)"
}

// Format implements [fmt.Formatter]: every verb shows what String returns.
func (k Key) Format(s fmt.State, _ rune) { io.WriteString(s, k.String()) }

// GoString implements [fmt.GoStringer], as String.
func (k Key) GoString() string { return k.String() }

// MarshalText implements [encoding.TextMarshaler], as String. UnmarshalText does not take that
// back: a key is not stored by accident.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler], as ParseKey.
func (k *Key) UnmarshalText(text []byte) (err error) {
	*k, err = ParseKey(string(text))
	return err
}

// A PublicKey names a peer. It is no secret, but errors and logs show its beginning only.
type PublicKey [keyLen]byte

// ParsePublicKey parses a public key in base64, as "wg pubkey" writes it. Its errors do not
// quote the text, which may be a private key by mistake.
func ParsePublicKey(text string) (PublicKey, error) { return decodeKey(text) }

// String returns the key in base64.
func (k PublicKey) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// MarshalText implements [encoding.TextMarshaler].
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler], as ParsePublicKey.
func (k *PublicKey) UnmarshalText(text []byte) (err error) {
	*k, err = ParsePublicKey(string(text))
	return err
}

// short names a peer in errors and logs.
func (k PublicKey) short() string { return "peer " + k.String()[:6] + "…" }

// maxRun is how many characters in a row, all of which a key may have, are quoted.
const maxRun = 20

// quote quotes a text of the user's for an error, unless it may be a key in the wrong place.
func quote(text string) string {
	run := 0
	for _, c := range []byte(text) {
		if strings.IndexByte("+/", c) < 0 && !('0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z') {
			run = 0
			continue
		}
		if run++; run > maxRun {
			return fmt.Sprintf("a text of %d characters (not shown: it may be a key)", len(text))
		}
	}
	if len(text) > 80 {
		return fmt.Sprintf("a text of %d characters", len(text))
	}
	return strconv.Quote(text)
}
